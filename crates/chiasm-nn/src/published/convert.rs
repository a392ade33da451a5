//! Weights of any readable form as those of a clean folder: today's names, and a configuration.
//!
//! Where a file differs from that in names alone, its tensors are taken as they are, in their own type.
//! Where it holds them joined, transposed or scaled, they are computed and are f32.

use std::collections::BTreeMap;

use burn::tensor::Device;
use chiasm_data::Preprocess;
use chiasm_format::Archive;
use serde_json::{Value, json};

use super::bert::Bert;
use super::clip::Clip;
use super::encoder;
use super::family::{Family, recognise};
use super::lxmert::Lxmert;
use super::mobilenet::{MobileNet, MobileNetConfig};
use super::resnet::{ResNet, ResNetConfig};
use super::vilt::Vilt;
use super::visual_bert::VisualBert;
use super::vit::{Vit, VitConfig};
use super::{Published, load, rosita, scl};
use crate::config::VisionConfig;
use crate::layers::Init;
use crate::model::VisionLanguageModel;
use crate::names;
use crate::weights::{
    HostTensor, LoadReport, StateDict, WeightError, from_archive, load_state_dict, shapes_of,
    state_dict,
};

/// Where a tensor of the new folder comes from.
#[derive(Clone, Debug)]
pub enum Source {
    /// The tensor of this name in the file, as it is.
    Stored(String),
    /// Computed from several, or from one in another layout.
    Computed(HostTensor),
}

/// What is to be written.
#[derive(Debug)]
pub struct Converted {
    /// What the weights are of, as people write it.
    pub family: &'static str,
    /// `config.json`.
    pub config: Value,
    /// Tensors by their new names.
    pub tensors: BTreeMap<String, Source>,
    /// What became of the file's tensors.
    pub report: LoadReport,
    /// Preprocessing of pictures that the family was published with.
    pub preprocess: Option<Preprocess>,
}

impl Converted {
    /// Reads an archive and says what to write. Everything that a model of the family needs must be
    /// there.
    ///
    /// # Errors
    /// A family that is not known, a configuration that is missing, tensors that are missing or do not
    /// fit.
    pub fn plan(
        archive: &Archive,
        config: Option<&Value>,
        device: &Device,
    ) -> Result<Self, WeightError> {
        let state = from_archive(archive)?;
        if scl::is_own(&shapes_of(&state)) {
            return own(config, state, device);
        }
        let names: Vec<&str> = state.keys().map(String::as_str).collect();
        let found = recognise(&names, config);
        let family = found.ok_or_else(|| {
            let problem = "neither the configuration nor the names tell a family that is read";
            WeightError::Config(problem.to_owned())
        })?;
        let given = || {
            config.cloned().ok_or_else(|| {
                let problem = format!("{} needs its config.json beside it", family.name());
                WeightError::Config(problem)
            })
        };
        let plan = Plan { archive, device };
        let mut preprocess = None;
        let (config, tensors, report) = match family {
            Family::Bert | Family::Roberta => plan.given::<Bert>(given()?, state)?,
            Family::Vilt => plan.given::<Vilt>(given()?, state)?,
            Family::VisualBert => plan.given::<VisualBert>(given()?, state)?,
            Family::Lxmert => plan.given::<Lxmert>(given()?, state)?,
            Family::Clip => {
                let sizes = encoder::clip_config(config, &state)?;
                let json = match config {
                    Some(config) if config.get("model_type").is_some() => config.clone(),
                    _ => clip_json(&sizes),
                };
                preprocess = Some(family.preprocess(sizes.vision.image_size));
                let (tensors, report) = plan.tensors::<Clip>(&sizes, state)?;
                (json, tensors, report)
            }
            Family::Vit | Family::Dinov2 => {
                let sizes = encoder::vit_config(config, &state)?;
                let is_dino = family == Family::Dinov2;
                let usual = is_dino && encoder::DINO_SIZE.is_multiple_of(sizes.encoder.patch_size);
                let size = if usual {
                    encoder::DINO_SIZE
                } else {
                    sizes.encoder.image_size
                };
                preprocess = Some(family.preprocess(size));
                let json = match config {
                    Some(config) if config.get("model_type").is_some() => config.clone(),
                    _ => vit_json(&sizes, is_dino),
                };
                let (mut tensors, report) = plan.tensors::<Vit>(&sizes, state)?;
                if is_dino {
                    tensors = dino_names(tensors, &sizes.encoder);
                }
                (json, tensors, report)
            }
            Family::Resnet => {
                preprocess = Some(family.preprocess(encoder::CONVOLUTIONAL_SIZE));
                let (tensors, report) =
                    plan.tensors::<ResNet>(&ResNetConfig::infer(&state)?, state)?;
                (json!({"architectures": ["ResNet"]}), tensors, report)
            }
            Family::MobilenetV2 => {
                preprocess = Some(family.preprocess(encoder::CONVOLUTIONAL_SIZE));
                let (tensors, report) =
                    plan.tensors::<MobileNet>(&MobileNetConfig::infer(&state)?, state)?;
                (json!({"architectures": ["MobileNetV2"]}), tensors, report)
            }
            Family::Scl => {
                let sizes = scl::infer(&state)?;
                let (model, report) = load::<VisionLanguageModel>(&sizes, state, device)?;
                let tensors = state_dict(&model).into_iter();
                let tensors = tensors.map(|(name, tensor)| (name, Source::Computed(tensor)));
                (scl::to_json(&sizes)?, tensors.collect(), report)
            }
            Family::Rosita => {
                let report = rosita::report(state.keys().map(String::as_str));
                let tensors = archive.tensors().iter().filter_map(|info| {
                    let name = rosita::canonical(&info.name)?;
                    Some((name, Source::Stored(info.name.clone())))
                });
                (json!({"model_type": "rosita"}), tensors.collect(), report)
            }
        };
        Ok(Self {
            family: family.name(),
            config,
            tensors,
            report: report.require_complete()?,
            preprocess,
        })
    }
}

/// A model of our own: the tensors as they are.
fn own(
    config: Option<&Value>,
    state: StateDict,
    device: &Device,
) -> Result<Converted, WeightError> {
    let config = config
        .ok_or_else(|| WeightError::Config("is missing beside the weights".to_owned()))
        .and_then(scl::from_json)?;
    let fresh = VisionLanguageModel::new(&Init::new(0, 0.02, device).lazy(), &config);
    let (_, report) = load_state_dict(fresh, state)?;
    let stored = |name: &String| (name.clone(), Source::Stored(name.clone()));
    Ok(Converted {
        family: "chiasm",
        config: scl::to_json(&config)?,
        tensors: report.matched.iter().map(stored).collect(),
        report: report.require_complete()?,
        preprocess: None,
    })
}

type Tensors = BTreeMap<String, Source>;

struct Plan<'a> {
    archive: &'a Archive,
    device: &'a Device,
}

impl Plan<'_> {
    /// A family whose configuration came with it.
    fn given<P: Published>(
        &self,
        config: Value,
        state: StateDict,
    ) -> Result<(Value, Tensors, LoadReport), WeightError> {
        let (tensors, report) = self.tensors::<P>(&P::config(&config)?, state)?;
        Ok((config, tensors, report))
    }

    fn tensors<P: Published>(
        &self,
        config: &P::Config,
        state: StateDict,
    ) -> Result<(Tensors, LoadReport), WeightError> {
        let (model, report) = load::<P>(config, state, self.device)?;
        let stored: BTreeMap<String, String> = self
            .archive
            .tensors()
            .iter()
            .filter_map(|info| Some((P::canonical(&info.name)?, info.name.clone())))
            .collect();
        let ours = state_dict(&model);
        let wanted = || ours.keys().flat_map(|name| P::names(name));
        if report.reshaped.is_empty() && wanted().all(|name| stored.contains_key(&name)) {
            // Also what the model folds in and does not keep, such as factors of layers.
            let tensors = stored
                .into_iter()
                .filter(|(name, _)| !report.unexpected.contains(name))
                .map(|(name, old)| (name, Source::Stored(old)))
                .collect();
            return Ok((tensors, report));
        }
        let mut tensors = Tensors::new();
        for (name, tensor) in &ours {
            for (name, part) in names::split(P::names(name), tensor) {
                let shape = hub_shape(&name, part.shape);
                let values = part.values;
                tensors.insert(name, Source::Computed(HostTensor { shape, values }));
            }
        }
        Ok((tensors, report))
    }
}

/// The shape that the hub's models give a tensor, where ours is a view of it.
fn hub_shape(name: &str, shape: Vec<usize>) -> Vec<usize> {
    let is = |ends: &[&str]| ends.iter().any(|end| name.ends_with(end));
    match shape[..] {
        [width] if is(&["embeddings.cls_token"]) => vec![1, 1, width],
        [rows, width]
            if is(&[
                "embeddings.position_embeddings",
                "embeddings.register_tokens",
            ]) =>
        {
            vec![1, rows, width]
        }
        [width, inputs]
            if is(&[
                "patch_embeddings.projection.weight",
                "patch_embedding.weight",
            ]) =>
        {
            let side = (inputs / 3).isqrt();
            vec![width, 3, side, side]
        }
        [1] if is(&["logit_scale"]) => Vec::new(),
        _ => shape,
    }
}

/// From the names of ViT to those of DINOv2, whose layers scale what they add; factors that were
/// folded into the maps are 1.
fn dino_names(tensors: Tensors, config: &VisionConfig) -> Tensors {
    let mut renamed: Tensors = tensors
        .into_iter()
        .map(|(name, source)| {
            let name = name
                .replace(".layernorm_before.", ".norm1.")
                .replace(".layernorm_after.", ".norm2.")
                .replace(".intermediate.dense.", ".mlp.fc1.")
                .replace(".attention.output.dense.", ".attention.OUTPUT.dense.")
                .replace(".output.dense.", ".mlp.fc2.")
                .replace(".OUTPUT.", ".output.");
            (name, source)
        })
        .collect();
    for layer in 0..config.layers {
        for part in ["layer_scale1", "layer_scale2"] {
            renamed
                .entry(format!("encoder.layer.{layer}.{part}.lambda1"))
                .or_insert_with(|| {
                    Source::Computed(HostTensor {
                        shape: vec![config.hidden_size],
                        values: vec![1.0; config.hidden_size],
                    })
                });
        }
    }
    renamed
}

fn vit_json(config: &VitConfig, is_dino: bool) -> Value {
    let tower = &config.encoder;
    let mut json = json!({
        "model_type": "vit",
        "architectures": ["ViTModel"],
        "hidden_size": tower.hidden_size,
        "num_hidden_layers": tower.layers,
        "num_attention_heads": tower.num_heads,
        "image_size": tower.image_size,
        "patch_size": tower.patch_size,
        "num_channels": 3,
        "qkv_bias": true,
        "hidden_act": "gelu",
        "layer_norm_eps": tower.layer_norm_eps,
    });
    let mut set = |key: &str, value: Value| json[key] = value;
    if !is_dino {
        set("intermediate_size", tower.intermediate_size.into());
        return json;
    }
    set(
        "mlp_ratio",
        (tower.intermediate_size / tower.hidden_size).into(),
    );
    set("layerscale_value", 1.0.into());
    set("use_swiglu_ffn", false.into());
    if tower.registers > 0 {
        set("model_type", "dinov2_with_registers".into());
        set("architectures", json!(["Dinov2WithRegistersModel"]));
        set("num_register_tokens", tower.registers.into());
    } else {
        set("model_type", "dinov2".into());
        set("architectures", json!(["Dinov2Model"]));
    }
    json
}

fn clip_json(config: &super::clip::ClipConfig) -> Value {
    let (text, vision) = (&config.text, &config.vision);
    json!({
        "model_type": "clip",
        "architectures": ["CLIPModel"],
        "projection_dim": config.projection_size,
        "text_config": {
            "vocab_size": text.vocab_size,
            "hidden_size": text.hidden_size,
            "num_hidden_layers": text.layers,
            "num_attention_heads": text.num_heads,
            "intermediate_size": text.intermediate_size,
            "max_position_embeddings": text.max_text_len,
            "hidden_act": text.activation.hub_name(),
            "layer_norm_eps": text.layer_norm_eps,
        },
        "vision_config": {
            "hidden_size": vision.hidden_size,
            "num_hidden_layers": vision.layers,
            "num_attention_heads": vision.num_heads,
            "intermediate_size": vision.intermediate_size,
            "image_size": vision.image_size,
            "patch_size": vision.patch_size,
            "hidden_act": vision.activation.hub_name(),
            "layer_norm_eps": vision.layer_norm_eps,
        },
    })
}

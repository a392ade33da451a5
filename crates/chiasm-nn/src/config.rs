//! Sizes of the model, as they stand in a recipe and in a checkpoint's `config.json`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::select::SelectConfig;

/// Element-wise activation of a feed-forward layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Default)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// Gaussian error linear unit, exact form (BERT, RoBERTa).
    #[default]
    Gelu,
    /// `x * sigmoid(1.702 x)`, the approximation CLIP was trained with.
    QuickGelu,
    /// GELU by its approximation with a hyperbolic tangent.
    GeluTanh,
    /// The larger of `x` and 0.
    Relu,
}

impl Activation {
    /// What a published `config.json` calls it.
    #[must_use]
    pub fn hub_name(self) -> &'static str {
        match self {
            Self::Gelu => "gelu",
            Self::QuickGelu => "quick_gelu",
            Self::GeluTanh => "gelu_new",
            Self::Relu => "relu",
        }
    }

    /// The activation that a published `config.json` calls by this name, if it is one of ours.
    #[must_use]
    pub fn published(name: &str) -> Option<Self> {
        match name {
            "gelu" | "gelu_python" => Some(Self::Gelu),
            "quick_gelu" => Some(Self::QuickGelu),
            "gelu_new" | "gelu_fast" | "gelu_pytorch_tanh" => Some(Self::GeluTanh),
            "relu" => Some(Self::Relu),
            _ => None,
        }
    }
}

/// The text tower: a post-LN BERT/RoBERTa encoder.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TextConfig {
    /// Number of token ids. 0 in a recipe: taken from the tokenizer. Default: 0.
    pub vocab_size: usize,
    /// Width of every token. Default: 768.
    pub hidden_size: usize,
    /// Transformer layers. Default: 12.
    pub layers: usize,
    /// Attention heads; divides `hidden_size`. Default: 12.
    pub num_heads: usize,
    /// Width inside the feed-forward sub-layer. Default: 3072.
    pub intermediate_size: usize,
    /// Longest text in tokens, special tokens included. Default: 50 (`specs/scl.md` section 1.2).
    pub max_text_len: usize,
    /// Rows of the position table; 0: `max_text_len` and `position_offset` together. RoBERTa has 514.
    /// Default: 0.
    pub position_rows: usize,
    /// First row of the position table used: 2 for RoBERTa (rows 0 and 1 belong to padding),
    /// 0 for BERT. Default: 2.
    pub position_offset: usize,
    /// Rows of the segment table: 1 for RoBERTa, 2 for BERT; texts use row 0. Default: 1.
    pub type_rows: usize,
    /// Activation of the feed-forward sub-layer. Default: `gelu`.
    pub activation: Activation,
    /// Added inside LayerNorm's root. Default: 1e-5 (RoBERTa); BERT uses 1e-12.
    pub layer_norm_eps: f64,
    /// Share of activations dropped while training. Default: 0.1.
    pub dropout: f64,
}

impl Default for TextConfig {
    fn default() -> Self {
        Self {
            vocab_size: 0,
            hidden_size: 768,
            layers: 12,
            num_heads: 12,
            intermediate_size: 3072,
            max_text_len: 50,
            position_rows: 0,
            position_offset: 2,
            type_rows: 1,
            activation: Activation::Gelu,
            layer_norm_eps: 1e-5,
            dropout: 0.1,
        }
    }
}

impl TextConfig {
    /// Rows of the position table.
    #[must_use]
    pub fn position_table(&self) -> usize {
        match self.position_rows {
            0 => self.max_text_len + self.position_offset,
            rows => rows,
        }
    }
}

/// The image tower: a pre-LN vision transformer, in CLIP's form unless told otherwise.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct VisionConfig {
    /// Side of the square input in pixels. Default: 288.
    pub image_size: usize,
    /// Side of a square patch in pixels; divides `image_size`. Default: 16.
    pub patch_size: usize,
    /// Width of every token. Default: 768.
    pub hidden_size: usize,
    /// Transformer blocks. Default: 11: the published model leaves CLIP's last block out
    /// (`specs/scl.md` section 1.3).
    pub layers: usize,
    /// Attention heads; divides `hidden_size`. Default: 12.
    pub num_heads: usize,
    /// Width inside the feed-forward sub-layer. Default: 3072.
    pub intermediate_size: usize,
    /// Activation of the feed-forward sub-layer. Default: `quick_gelu`, as in CLIP.
    pub activation: Activation,
    /// Added inside LayerNorm's root. Default: 1e-5; ViT uses 1e-12, DINOv2 1e-6.
    pub layer_norm_eps: f64,
    /// Whether the patch projection has a bias: false for CLIP, true for ViT and DINOv2.
    /// Default: false.
    pub patch_bias: bool,
    /// Whether a LayerNorm comes before the first block: true for CLIP, false for ViT and DINOv2.
    /// Default: true.
    pub pre_norm: bool,
    /// Learned tokens between the class token and the patches: 4 for DINOv2 with registers.
    /// Default: 0.
    pub registers: usize,
    /// Frames that a clip may have at most, and rows of the temporal table: 8 in the published video
    /// model. 0: pictures alone. Default: 0.
    pub max_frames: usize,
    /// Whether there is a token for hidden patches, which `objectives.local_completion` needs; a run
    /// with it has one in any case. Default: false.
    pub mask_token: bool,
}

impl Default for VisionConfig {
    fn default() -> Self {
        Self {
            image_size: 288,
            patch_size: 16,
            hidden_size: 768,
            layers: 11,
            num_heads: 12,
            intermediate_size: 3072,
            activation: Activation::QuickGelu,
            layer_norm_eps: 1e-5,
            patch_bias: false,
            pre_norm: true,
            registers: 0,
            max_frames: 0,
            mask_token: false,
        }
    }
}

impl VisionConfig {
    /// Patches of one picture, the class token not counted.
    #[must_use]
    pub fn num_patches(&self) -> usize {
        let side = self.image_size / self.patch_size.max(1);
        side * side
    }
}

/// How the fusion encoder is built.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FusionKind {
    /// A stack of layers for the text and one for the image, joined by co-attention (METER, SCL).
    #[default]
    TwoStreams,
    /// One stack over words and image in one sequence (BERT with regions: ROSITA, TBKIN, VisualBERT;
    /// ViLT with patches). The towers have its width, and the summary of a pair is that of its text.
    OneStream,
    /// A layer first has both streams look at each other through the same weights, and then each at
    /// itself (LXMERT). The towers have its width, and the summary of a pair is that of its text.
    Crossed,
}

/// Where the norms of a transformer's layers are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum NormPlace {
    /// After the residual of every sub-layer (BERT).
    #[default]
    After,
    /// Before every sub-layer, and one after the last layer (ViT).
    Before,
}

/// The fusion encoder.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct FusionConfig {
    /// How it is built. Default: `two_streams`.
    pub kind: FusionKind,
    /// Width of the fused tokens of both modalities. Default: 768.
    pub hidden_size: usize,
    /// Layers of each stack. 0, with `two_streams`: there is no fusion encoder, both towers stand alone
    /// as in CLIP, and a pair's summary is that of each side by side; the other sizes then do not
    /// matter. Default: 6.
    pub layers: usize,
    /// Attention heads; divides `hidden_size`. Default: 12.
    pub num_heads: usize,
    /// Width inside the feed-forward sub-layer. Default: 3072.
    pub intermediate_size: usize,
    /// Added inside LayerNorm's root. Default: 1e-12 (`specs/scl.md` section 1.6).
    pub layer_norm_eps: f64,
    /// Share of activations dropped while training. Default: 0.1.
    pub dropout: f64,
    /// Rows of the token-type table: one for texts and one for each picture that a text speaks of; a
    /// run on several pictures has as many as it needs. Default: 2.
    pub type_rows: usize,
    /// Where the norms of one stream are: ViLT's are before. Default: `after`.
    #[serde(skip_serializing_if = "is_usual")]
    pub norm: NormPlace,
}

/// Whether a setting is as it is where nothing is said: what older files leave out.
fn is_usual<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl Default for FusionConfig {
    fn default() -> Self {
        Self {
            kind: FusionKind::default(),
            hidden_size: 768,
            layers: 6,
            num_heads: 12,
            intermediate_size: 3072,
            layer_norm_eps: 1e-12,
            dropout: 0.1,
            type_rows: 2,
            norm: NormPlace::default(),
        }
    }
}

/// How the place of a region enters its token, of which the features are the other part.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RegionPlace {
    /// Corners and area are added before the norm (ROSITA).
    #[default]
    Added,
    /// Corners have a norm of their own, and a token is the mean of both (LXMERT).
    Averaged,
    /// Not at all (VisualBERT).
    Unused,
}

/// Regions that a detector saw, in place of a picture's patches (`specs/tbkin.md` sections 1.2, 1.3).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RegionConfig {
    /// Numbers of a feature. Default: 2048, those of bottom-up attention.
    pub features: usize,
    /// Regions of a picture at most; the first ones are taken. Default: 36.
    pub most: usize,
    /// Classes that a region can have, where they are learned. Default: 1600.
    pub objects: usize,
    /// Attributes that a region can have, where they are learned. Default: 400.
    pub attributes: usize,
    /// How the place of a region enters its token. Default: `added`.
    #[serde(skip_serializing_if = "is_usual")]
    pub place: RegionPlace,
    /// Layers in which regions look at each other before they meet words, of the sizes of the fusion
    /// encoder's: 5 in LXMERT. Default: 0.
    #[serde(skip_serializing_if = "is_usual")]
    pub layers: usize,
    /// Added inside LayerNorm's root, also of the heads on regions. Default: 1e-12.
    pub layer_norm_eps: f64,
    /// Share of activations dropped while training. Default: 0.1.
    pub dropout: f64,
    /// What made the features that the model was trained on; others are refused. Empty in a recipe: that
    /// of the training data.
    pub provider: String,
    /// Its settings and weights as a digest, as `chiasm regions inspect` prints it; goes with `provider`.
    pub provider_hash: String,
}

impl Default for RegionConfig {
    fn default() -> Self {
        Self {
            features: 2048,
            most: 36,
            objects: 1600,
            attributes: 400,
            place: RegionPlace::default(),
            layers: 0,
            layer_norm_eps: 1e-12,
            dropout: 0.1,
            provider: String::new(),
            provider_hash: String::new(),
        }
    }
}

/// How a tower's summary enters the contrastive space.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ProjectionKind {
    /// Linear, LayerNorm, GELU, linear (SCL).
    #[default]
    Mlp,
    /// One linear map without bias (CLIP, ITR).
    Linear,
}

/// Which heads there are. A run's objectives and data decide about those of tasks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct HeadsConfig {
    /// Classes of the classifier, such as answers; 0: there is none. Default: 0.
    pub classes: usize,
    /// Pictures that a text of the classifier speaks of together: 2 for NLVR2. Default: 1, as 0 is.
    pub pictures: usize,
    /// Whether there is a head that ranks candidates. Default: false.
    pub ranking: bool,
    /// Whether both towers are projected into a common space. Default: true.
    pub contrastive: bool,
    /// Whether there is a head that says whether text and image match. Default: true.
    pub matching: bool,
    /// Whether there is a head for masked words. In one stream its last map is the table of words
    /// itself. Default: true.
    pub mlm: bool,
    /// Whether there is a head for masked regions. Default: false.
    pub masked_regions: bool,
    /// Whether there is a head that finds the region that a text refers to. Default: false.
    pub grounding: bool,
    /// Groups that a linear head over a pair's summary tells apart, see `objectives.cluster`; 0: there
    /// is none. Default: 0.
    pub clusters: usize,
    /// Whether a summary goes through a linear map and tanh, as in BERT and ViT; false: it is the first
    /// token as it is, as in CLIP and DINOv2. Default: true.
    pub pooler: bool,
    /// How summaries enter the contrastive space. Default: `mlp`.
    pub projection: ProjectionKind,
}

impl Default for HeadsConfig {
    fn default() -> Self {
        Self {
            classes: 0,
            pictures: 0,
            ranking: false,
            contrastive: true,
            matching: true,
            mlm: true,
            masked_regions: false,
            grounding: false,
            clusters: 0,
            pooler: true,
            projection: ProjectionKind::default(),
        }
    }
}

impl HeadsConfig {
    /// Pictures of a text, at least 1.
    #[must_use]
    pub fn pictures(&self) -> usize {
        self.pictures.max(1)
    }
}

/// Two towers, the fusion encoder and the width of the contrastive space.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ModelConfig {
    /// The text tower.
    pub text: TextConfig,
    /// The image tower.
    pub vision: VisionConfig,
    /// Regions in place of the image tower, of which the width alone is then used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub regions: Option<RegionConfig>,
    /// The fusion encoder.
    pub fusion: FusionConfig,
    /// Heads of tasks.
    pub heads: HeadsConfig,
    /// Width of the contrastive space. Default: 512.
    pub projection_size: usize,
    /// Contrastive temperature at the start; learned from there. Default: 0.07.
    pub temperature: f64,
    /// Attention that keeps only what passes a threshold. Without: all of it is kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub select: Option<SelectConfig>,
    /// Standard deviation of initial weights. 0.02 is BERT's and suits widths near 768; narrow
    /// models start faster near `1 / sqrt(width)`. Default: 0.02.
    pub init_std: f64,
}

impl Default for ModelConfig {
    fn default() -> Self {
        Self {
            text: TextConfig::default(),
            vision: VisionConfig::default(),
            regions: None,
            fusion: FusionConfig::default(),
            heads: HeadsConfig::default(),
            projection_size: 512,
            temperature: 0.07,
            select: None,
            init_std: 0.02,
        }
    }
}

/// A model size that cannot be built.
#[derive(Debug, thiserror::Error)]
#[error("model size `{key}` = {value}: {problem}")]
pub struct ConfigError {
    /// Dotted key below `model`.
    pub key: String,
    /// The value given.
    pub value: usize,
    /// What is wrong with it, and what would do.
    pub problem: String,
}

impl ModelConfig {
    /// Whether words and image are one sequence in the fusion encoder.
    #[must_use]
    pub fn is_one_stream(&self) -> bool {
        self.fusion.kind == FusionKind::OneStream
    }

    /// Whether there is no fusion encoder.
    #[must_use]
    pub fn is_towers_alone(&self) -> bool {
        self.sums_up_both() && self.fusion.layers == 0
    }

    /// Whether a pair's summary is that of its text and that of its image side by side, not that of its
    /// text alone. Only then have words and images widths of their own before they are fused.
    #[must_use]
    pub fn sums_up_both(&self) -> bool {
        self.fusion.kind == FusionKind::TwoStreams
    }

    /// Whether texts and images that have not met have vectors that can be compared.
    #[must_use]
    pub fn has_common_space(&self) -> bool {
        self.heads.contrastive && self.sums_up_both()
    }

    /// Width of a text's token behind its tower and what follows it, and of an image's: that of the
    /// fusion encoder, or of each tower where both stand alone.
    #[must_use]
    pub fn stream_widths(&self) -> [usize; 2] {
        match self.is_towers_alone() {
            true => [self.text.hidden_size, self.vision.hidden_size],
            false => [self.fusion.hidden_size; 2],
        }
    }

    /// Width of a pair's summary, see [`Self::sums_up_both`].
    #[must_use]
    pub fn pooled_size(&self) -> usize {
        let [text, image] = self.stream_widths();
        match self.sums_up_both() {
            true => text + image,
            false => text,
        }
    }

    /// Refuses sizes that no model can have, naming the key.
    ///
    /// # Errors
    /// The first size that is zero, or that does not divide what it must.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let fail = |key: &str, value: usize, problem: String| {
            Err(ConfigError {
                key: key.to_owned(),
                value,
                problem,
            })
        };
        for (key, value) in [
            ("text.hidden_size", self.text.hidden_size),
            ("text.intermediate_size", self.text.intermediate_size),
            ("text.type_rows", self.text.type_rows),
            ("vision.image_size", self.vision.image_size),
            ("vision.hidden_size", self.vision.hidden_size),
            ("vision.intermediate_size", self.vision.intermediate_size),
            ("fusion.hidden_size", self.fusion.hidden_size),
            ("fusion.intermediate_size", self.fusion.intermediate_size),
            ("projection_size", self.projection_size),
        ] {
            if value == 0 {
                return fail(key, value, "must be at least 1".to_owned());
            }
        }
        if !self.is_one_stream() && self.text.layers == 0 {
            let problem = "must be at least 1 where the fusion encoder has two streams";
            return fail("text.layers", 0, problem.to_owned());
        }
        if !self.sums_up_both() && self.fusion.layers == 0 {
            let problem = "must be at least 1 but for `two_streams`";
            return fail("fusion.layers", 0, problem.to_owned());
        }
        if self.fusion.norm == NormPlace::Before && !self.is_one_stream() {
            let problem = "must be 0 for `after`: layers of one stream alone have norms before";
            return fail("fusion.norm", 1, problem.to_owned());
        }
        if self.heads.clusters == 1 {
            let problem = "must be 0 for none, or at least 2";
            return fail("heads.clusters", 1, problem.to_owned());
        }
        if self.regions.is_none() && self.vision.layers == 0 && !self.is_one_stream() {
            let problem = "must be at least 1 but in one stream";
            return fail("vision.layers", 0, problem.to_owned());
        }
        if let Some(regions) = &self.regions {
            for (key, value) in [
                ("regions.features", regions.features),
                ("regions.most", regions.most),
                ("regions.objects", regions.objects),
                ("regions.attributes", regions.attributes),
            ] {
                if value == 0 {
                    return fail(key, value, "must be at least 1".to_owned());
                }
            }
        }
        if !self.sums_up_both() {
            let width = self.fusion.hidden_size;
            for (key, value) in [
                ("text.hidden_size", self.text.hidden_size),
                ("vision.hidden_size", self.vision.hidden_size),
            ] {
                if value != width {
                    let problem = format!("must be `fusion.hidden_size` = {width}");
                    return fail(key, value, problem);
                }
            }
        }
        for (key, needs) in [
            ("heads.masked_regions", self.heads.masked_regions),
            ("heads.grounding", self.heads.grounding),
        ] {
            if needs && self.regions.is_none() {
                return fail(key, 1, "needs `[model.regions]`".to_owned());
            }
        }
        if let Some(select) = &self.select {
            let found = select.validate([self.fusion.layers, self.fusion.num_heads]);
            if let Err(problem) = found {
                return fail("select", 0, problem);
            }
        }
        let towers = [
            ("text", self.text.num_heads, self.text.hidden_size),
            ("vision", self.vision.num_heads, self.vision.hidden_size),
            ("fusion", self.fusion.num_heads, self.fusion.hidden_size),
        ];
        // Regions have no tower of their own sizes, and what is of one stream none but its tables.
        let is_built = |name: &str| match name {
            "text" => self.text.layers > 0,
            "vision" => self.regions.is_none() && self.vision.layers > 0,
            _ => !self.is_towers_alone(),
        };
        for (name, heads, width) in towers.into_iter().filter(|(name, ..)| is_built(name)) {
            if heads == 0 || !width.is_multiple_of(heads) {
                let key = format!("{name}.num_heads");
                return fail(&key, heads, format!("must divide the width {width}"));
            }
        }
        let (size, patch) = (self.vision.image_size, self.vision.patch_size);
        if self.regions.is_none() && (patch == 0 || !size.is_multiple_of(patch)) {
            return fail(
                "vision.patch_size",
                patch,
                format!("must divide `vision.image_size` = {size}"),
            );
        }
        if self.text.max_text_len < 3 {
            return fail(
                "text.max_text_len",
                self.text.max_text_len,
                "must hold two special tokens and one word".to_owned(),
            );
        }
        let (rows, needed) = (
            self.text.position_table(),
            self.text.max_text_len + self.text.position_offset,
        );
        if rows < needed {
            return fail(
                "text.position_rows",
                rows,
                format!("must be at least `max_text_len` and `position_offset` together, {needed}"),
            );
        }
        if self.fusion.type_rows < 1 + self.heads.pictures() {
            return fail(
                "fusion.type_rows",
                self.fusion.type_rows,
                format!(
                    "must be 1 + `heads.pictures` = {}",
                    1 + self.heads.pictures()
                ),
            );
        }
        if self.fusion.type_rows < 2 {
            return fail(
                "fusion.type_rows",
                self.fusion.type_rows,
                "must be at least 2: text and image".to_owned(),
            );
        }
        if self.init_std.is_nan() || self.init_std <= 0.0 {
            return fail("init_std", 0, "must be above 0".to_owned());
        }
        if self.temperature.is_nan() || self.temperature <= 0.0 {
            return fail("temperature", 0, "must be above 0".to_owned());
        }
        Ok(())
    }
}

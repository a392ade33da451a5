//! A model as a run left it: weights, tokenizer, preprocessing and recipe from one checkpoint.

use burn::module::Module;
use burn::tensor::Device;
use chiasm_data::answers::Vocabulary;
use chiasm_data::{Preprocess, Targets, TextTokenizer};
use chiasm_nn::layers::Init;
use chiasm_nn::packed::{PackedWeights, Precision};
use chiasm_nn::published::scl;
use chiasm_nn::weights::{from_safetensors, load_state_dict};
use chiasm_nn::{ModelConfig, VisionLanguageModel};
use chiasm_objective::config::ClassSource;

use crate::checkpoint::{self, Checkpoint, RunState};
use crate::error::TrainError;
use crate::recipe::Recipe;
use crate::start;

/// A trained model read back from a checkpoint, ready for inference.
pub struct TrainedModel {
    /// The model, without gradients.
    pub model: VisionLanguageModel,
    /// Its sizes.
    pub config: ModelConfig,
    /// Its tokenizer.
    pub tokenizer: TextTokenizer,
    /// How its pictures are prepared.
    pub preprocess: Preprocess,
    /// The recipe it was trained with.
    pub recipe: Recipe,
    /// Where its training stood.
    pub state: RunState,
    /// The classes of its classifier, where it has one.
    pub targets: Option<Targets>,
    /// Its matrices as products take them.
    packed: PackedWeights,
}

impl TrainedModel {
    /// The same model, its matrices multiplied in another precision from now on.
    #[must_use]
    pub fn in_precision(mut self, precision: Precision) -> Self {
        // First off the shelf, then on it again: what lies there stays as it is.
        drop(std::mem::take(&mut self.packed));
        self.packed = PackedWeights::of(&self.model, precision);
        self
    }

    /// Reads a verified checkpoint.
    ///
    /// # Errors
    /// If a part is missing or does not fit.
    pub fn load(checkpoint: &Checkpoint, device: &Device) -> Result<Self, TrainError> {
        let unusable = |reason: String| TrainError::Checkpoint {
            path: checkpoint.path.clone(),
            reason,
        };
        let json = checkpoint.json(checkpoint::CONFIG_FILE)?;
        let config = scl::from_json(&json).map_err(|error| unusable(error.to_string()))?;
        let classes = scl::classes(&json);
        let tokenizer = TextTokenizer::from_bytes(checkpoint.file(checkpoint::TOKENIZER_FILE)?)
            .map_err(|error| unusable(error.to_string()))?;
        // A token without a row in the table would have no embedding.
        let (tokens, rows) = (tokenizer.vocab_size(), config.text.vocab_size);
        if tokens > rows {
            return Err(unusable(format!(
                "its tokenizer knows {tokens} tokens, its model {rows}"
            )));
        }
        let preprocess = Preprocess::from_hf_json(checkpoint.text(checkpoint::PREPROCESSOR_FILE)?)
            .map_err(|error| unusable(error.to_string()))?;
        let origin = checkpoint.path.display().to_string();
        // A model folder that was never a run has neither recipe nor position.
        let recipe = match checkpoint.text(checkpoint::RECIPE_FILE) {
            Ok(text) => Recipe::from_toml(text, &origin)?,
            Err(_) => Recipe {
                name: checkpoint.name(),
                model: config.clone(),
                ..Recipe::default()
            },
        };
        let state = match checkpoint.file(checkpoint::STATE_FILE) {
            Ok(_) => checkpoint.json(checkpoint::STATE_FILE)?,
            Err(_) => RunState::default(),
        };
        if config.heads.classes != classes.len() {
            return Err(unusable(format!(
                "its classifier has {} classes, `id2label` names {}",
                config.heads.classes,
                classes.len()
            )));
        }
        let source = recipe.objectives.classification.as_ref();
        let targets = (!classes.is_empty()).then(|| match source.map(|config| config.classes) {
            Some(ClassSource::Labels) => Targets::Labels(classes),
            Some(ClassSource::Answers) | None => {
                Targets::Answers(Vocabulary::from_answers(classes))
            }
        });
        let init = Init::new(0, config.init_std, device).lazy();
        let fresh = VisionLanguageModel::new(&init, &config);
        let model = load_weights(fresh, checkpoint)?.valid();
        Ok(Self {
            packed: PackedWeights::of(&model, Precision::default()),
            model,
            tokenizer,
            preprocess,
            recipe,
            state,
            targets,
            config,
        })
    }

    /// Candidates of a query that are re-ranked: as many as the recipe says, none where no head says
    /// whether pairs match.
    #[must_use]
    pub fn shortlist(&self) -> usize {
        let wanted = self.recipe.evaluation.shortlist;
        self.model.match_head.as_ref().map_or(0, |_| wanted)
    }

    /// The same sizes with the weights that the run began with: the yardstick of a report.
    ///
    /// # Errors
    /// The weights that the recipe names are no longer there.
    pub fn untrained(&self, device: &Device) -> Result<VisionLanguageModel, TrainError> {
        let init = Init::new(self.recipe.schedule.seed, self.config.init_std, device);
        let model = VisionLanguageModel::new(&init, &self.config);
        let (model, _) = start::apply(&self.recipe.weights, &self.config, model, device)?;
        Ok(model)
    }
}

/// Fills a model with a checkpoint's weights, all of them.
pub(crate) fn load_weights(
    model: VisionLanguageModel,
    checkpoint: &Checkpoint,
) -> Result<VisionLanguageModel, TrainError> {
    let wrap = |source| TrainError::Weights {
        path: checkpoint.path.join(checkpoint::MODEL_FILE),
        source,
    };
    let state = from_safetensors(checkpoint.file(checkpoint::MODEL_FILE)?).map_err(wrap)?;
    let (model, report) = load_state_dict(model, state).map_err(wrap)?;
    report.require_complete().map_err(wrap)?;
    Ok(model)
}

//! From features to loss terms and their weighted total (`specs/scl.md` section 2.7).

use burn::tensor::Tensor;
use chiasm_nn::VisionLanguageModel;

use crate::completion::completion_loss;
use crate::config::ObjectivesConfig;
use crate::contrast::contrastive_loss;
use crate::forward::{Features, StepInput, forward};
use crate::mlm::mlm_loss;
use crate::plan::{
    ForwardPlan, ImageView, MASKED_IMAGE_PASS, MASKED_TEXT_PASS, MATCHING_PASS, MLM_PASS,
    Objective, TextView,
};

/// One named loss.
#[derive(Clone, Debug)]
pub struct LossTerm {
    /// Name in logs: the objective's, with the modality where an objective has two terms.
    pub name: &'static str,
    /// Factor in the total.
    pub weight: f64,
    /// Unweighted value, `[1]`.
    pub value: Tensor<1>,
}

/// All terms of a step.
#[derive(Clone, Debug, Default)]
pub struct Losses {
    /// In the order of the objectives.
    pub terms: Vec<LossTerm>,
}

impl Losses {
    /// Weighted sum, `[1]`; `None` without any term.
    #[must_use]
    pub fn total(&self) -> Option<Tensor<1>> {
        self.terms
            .iter()
            .map(|term| term.value.clone().mul_scalar(term.weight))
            .reduce(|sum, term| sum + term)
    }

    /// A term's value, `[1]`.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<Tensor<1>> {
        self.terms
            .iter()
            .find(|term| term.name == name)
            .map(|term| term.value.clone())
    }
}

/// Losses of a step, every encoder pass run once.
#[must_use]
pub fn shared(model: &VisionLanguageModel, config: &ObjectivesConfig, input: &StepInput) -> Losses {
    let objectives = config.enabled();
    let plan = ForwardPlan::for_objectives(&objectives);
    terms(
        model,
        config,
        &objectives,
        input,
        &forward(model, &plan, input),
    )
}

/// The same losses with one set of passes an objective, as the published code runs them: the
/// yardstick for [`shared`].
#[must_use]
pub fn unshared(
    model: &VisionLanguageModel,
    config: &ObjectivesConfig,
    input: &StepInput,
) -> Losses {
    let terms = config
        .enabled()
        .into_iter()
        .flat_map(|objective| {
            let plan = ForwardPlan::for_objectives(&[objective]);
            let features = forward(model, &plan, input);
            terms(model, config, &[objective], input, &features).terms
        })
        .collect();
    Losses { terms }
}

fn terms(
    model: &VisionLanguageModel,
    config: &ObjectivesConfig,
    objectives: &[Objective],
    input: &StepInput,
    features: &Features,
) -> Losses {
    let terms = objectives
        .iter()
        .filter_map(|objective| match objective {
            Objective::Matching => matching_terms(model, config, input, features),
            Objective::Mlm => mlm_terms(model, config, input, features),
            Objective::Contrastive => contrastive_terms(model, config, input, features),
            Objective::GlobalCompletion => completion_terms(config, features),
        })
        .flatten()
        .collect();
    Losses { terms }
}

fn matching_terms(
    model: &VisionLanguageModel,
    config: &ObjectivesConfig,
    input: &StepInput,
    features: &Features,
) -> Option<Vec<LossTerm>> {
    let config = config.matching.as_ref()?;
    let fused = features.fused.get(&MATCHING_PASS)?;
    let draw = input.matching.as_ref()?;
    let classifier = &model.match_head.classifier;
    Some(vec![LossTerm {
        name: "matching",
        weight: config.weight,
        value: classifier.cross_entropy(model.pooled(fused), &draw.labels),
    }])
}

fn mlm_terms(
    model: &VisionLanguageModel,
    config: &ObjectivesConfig,
    input: &StepInput,
    features: &Features,
) -> Option<Vec<LossTerm>> {
    let config = config.mlm.as_ref()?;
    let fused = features.fused.get(&MLM_PASS)?;
    let (_, targets) = input.mlm.as_ref()?;
    Some(vec![LossTerm {
        name: "mlm",
        weight: config.weight,
        value: mlm_loss(model, &fused.text, &features.asked, &targets.labels),
    }])
}

fn contrastive_terms(
    model: &VisionLanguageModel,
    config: &ObjectivesConfig,
    input: &StepInput,
    features: &Features,
) -> Option<Vec<LossTerm>> {
    let config = config.contrastive.as_ref()?;
    let text = features.texts.get(&TextView::Clean)?;
    let image = features.images.get(&ImageView::Complete)?;
    let image = image.narrow(0, input.batch_size());
    Some(vec![LossTerm {
        name: "contrastive",
        weight: config.weight,
        value: contrastive_loss(
            model.project_text(text),
            model.project_image(&image),
            model.temperature.val(),
        ),
    }])
}

fn completion_terms(config: &ObjectivesConfig, features: &Features) -> Option<Vec<LossTerm>> {
    let config = config.global_completion.as_ref()?;
    let masked_image = features.fused.get(&MASKED_IMAGE_PASS)?;
    let masked_text = features.fused.get(&MASKED_TEXT_PASS)?;
    // Each target comes from the pass in which the *other* modality is masked.
    Some(vec![
        LossTerm {
            name: "global_completion_image",
            weight: config.image_weight,
            value: completion_loss(
                masked_image.image_global(),
                masked_text.image_global(),
                config.temperature,
            ),
        },
        LossTerm {
            name: "global_completion_text",
            weight: config.text_weight,
            value: completion_loss(
                masked_text.text_global(),
                masked_image.text_global(),
                config.temperature,
            ),
        },
    ])
}

//! The sizes that `cost` counts with are those of the features that `forward` computes.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failed unwrap here is the failed test"
)]

use burn::tensor::Device;
use chiasm_nn::layers::Init;
use chiasm_nn::{ModelConfig, Tokens, VisionLanguageModel};
use chiasm_objective::config::{
    ClassificationConfig, ContrastiveConfig, GlobalCompletionConfig, LocalCompletionConfig,
    MatchingConfig, MlmConfig, RankingConfig,
};
use chiasm_objective::cost::{Pass, Stream};
use chiasm_objective::forward::{Features, forward};
use chiasm_objective::masking::{
    DrawKey, ImageRows, KnownRows, SeenRows, TextRows, Vocabulary, step_input,
};
use chiasm_objective::{Accounting, ForwardPlan, Frozen, ObjectivesConfig, PlanCost, PlanSizes};

const BATCH: usize = 6;
const TEXT_LEN: usize = 8;

fn model(frames: usize, pictures: usize) -> ModelConfig {
    let mut config = ModelConfig::default();
    let text = &mut config.text;
    (text.vocab_size, text.hidden_size, text.layers) = (50, 6, 2);
    (text.num_heads, text.intermediate_size, text.max_text_len) = (2, 7, TEXT_LEN);
    let vision = &mut config.vision;
    (vision.image_size, vision.patch_size, vision.layers) = (12, 4, 2);
    (
        vision.hidden_size,
        vision.num_heads,
        vision.intermediate_size,
    ) = (8, 2, 10);
    (vision.max_frames, vision.registers, vision.mask_token) = (frames, 1, true);
    let fusion = &mut config.fusion;
    (fusion.hidden_size, fusion.layers, fusion.num_heads) = (4, 2, 2);
    fusion.intermediate_size = 13;
    fusion.type_rows = 1 + pictures;
    config
}

/// Features of a step in which all texts have `TEXT_LEN` different tokens.
fn features(config: &ModelConfig, objectives: &ObjectivesConfig, sizes: PlanSizes) -> Features {
    let device = Device::flex();
    let model = VisionLanguageModel::new(&Init::new(1, 0.1, &device), config);
    let ids = |row: usize| {
        let word = move |column: usize| 5 + ((7 * row + column) % 40) as i64;
        let words = (1..TEXT_LEN - 1).map(word);
        std::iter::once(2).chain(words).chain([3])
    };
    let input_ids: Vec<i64> = (0..BATCH).flat_map(ids).collect();
    let word_of = |column: usize| {
        let is_word = column > 0 && column + 1 < TEXT_LEN;
        is_word.then_some(column as u32)
    };
    let word_ids = vec![(0..TEXT_LEN).map(word_of).collect::<Vec<_>>(); BATCH];
    let side = config.vision.image_size;
    let samples: Vec<usize> = (0..BATCH).collect();
    let input = step_input(
        TextRows {
            input_ids: &input_ids,
            attention_mask: &[1; BATCH * TEXT_LEN],
            len: TEXT_LEN,
            word_ids: &word_ids,
        },
        SeenRows::Pixels(ImageRows {
            pixel_values: &vec![0.5; BATCH * sizes.pictures * sizes.frames * 3 * side * side],
            pictures: sizes.pictures,
            frames: sizes.frames,
            image_size: side,
            patches: config.vision.num_patches(),
        }),
        KnownRows::default(),
        &Vocabulary::new(50, 4, |id| id < 5),
        objectives,
        DrawKey {
            seed: 3,
            step: 0,
            samples: &samples,
        },
        &device,
    );
    forward(
        &model,
        &ForwardPlan::new(objectives, sizes.pictures),
        &input,
    )
}

/// Sequences of a pass and the tokens computed of all of them; nothing of the heads.
fn computed(features: &Features, pass: Pass) -> Option<(usize, [usize; 2])> {
    let of = |tokens: &Tokens| (tokens.spans.batch(), tokens.spans.tokens());
    match pass {
        Pass::Image(view) => {
            let (images, tokens) = of(&features.images[&view]);
            Some((images, [0, tokens]))
        }
        Pass::Text(view) => {
            let (texts, tokens) = of(&features.texts[&view]);
            Some((texts, [tokens, 0]))
        }
        Pass::Fusion(fusion) => {
            let fused = &features.fused[&fusion].fused;
            let ((pairs, text), (_, image)) = (of(&fused.text), of(&fused.image));
            Some((pairs, [text, image]))
        }
        Pass::Patches | Pass::Head(_) => None,
    }
}

fn check(objectives: &ObjectivesConfig, frames: usize, pictures: usize) {
    let sizes = PlanSizes {
        batch: BATCH,
        frames,
        pictures,
        text_len: TEXT_LEN as f64,
        frozen: Frozen::default(),
        gradient_checkpointing: false,
    };
    let config = model(frames, pictures);
    let cost = PlanCost::new(&config, objectives, sizes, Accounting::Read);
    let features = features(&config, objectives, sizes);
    let mut checked = 0;
    for cost in &cost.passes {
        let Some((sequences, tokens)) = computed(&features, cost.pass) else {
            continue;
        };
        assert_eq!(cost.sequences, sequences, "{}", cost.pass);
        let counted = |stream: Stream| sequences as f64 * stream.read;
        for (counted, found) in [counted(cost.text), counted(cost.image)].iter().zip(tokens) {
            let off = (counted - found as f64).abs();
            assert!(off < 1e-9, "{}: {counted} and not {found}", cost.pass);
        }
        checked += 1;
    }
    let run = features.images.len() + features.texts.len() + features.fused.len();
    assert_eq!(checked, run);
}

#[test]
fn sequences_and_tokens_are_those_of_the_features() {
    let all = ObjectivesConfig {
        contrastive: Some(ContrastiveConfig::default()),
        matching: Some(MatchingConfig::default()),
        mlm: Some(MlmConfig::default()),
        global_completion: Some(GlobalCompletionConfig::default()),
        local_completion: Some(LocalCompletionConfig::default()),
        ..ObjectivesConfig::default()
    };
    let some = ObjectivesConfig {
        fused_share: 0.5,
        ..all.clone()
    };
    let contrast = ObjectivesConfig {
        contrastive: all.contrastive.clone(),
        ..ObjectivesConfig::default()
    };
    let global = ObjectivesConfig {
        local_completion: None,
        ..some.clone()
    };
    let words = ObjectivesConfig {
        mlm: all.mlm.clone(),
        ..contrast.clone()
    };
    let ranking = ObjectivesConfig {
        ranking: Some(RankingConfig {
            candidates: 4,
            ..RankingConfig::default()
        }),
        ..contrast.clone()
    };
    for objectives in [&all, &some, &contrast, &global, &words, &ranking] {
        for frames in [1, 3] {
            check(objectives, frames, 1);
        }
    }
    let classes = ObjectivesConfig {
        classification: Some(ClassificationConfig::default()),
        ..words
    };
    check(&classes, 1, 2);
}

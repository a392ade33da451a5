//! Two processes with half a batch each compute what one does with all of it (O4 of `specs/scl.md`).
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failed unwrap here is the failed test"
)]

use std::collections::BTreeMap;
use std::sync::{Barrier, Mutex};

use burn::tensor::{Device, Tensor, TensorData};
use chiasm_data::rng;
use chiasm_nn::layers::Init;
use chiasm_nn::weights::take_gradients;
use chiasm_nn::{FusionConfig, ModelConfig, TextConfig, VisionConfig, VisionLanguageModel};
use chiasm_objective::config::{
    ContrastiveConfig, GlobalCompletionConfig, LocalCompletionConfig, MatchingConfig, MlmConfig,
};
use chiasm_objective::losses::{shared, shared_with};
use chiasm_objective::masking::{
    DrawKey, ImageRows, KnownRows, SeenRows, TextRows, Vocabulary, step_input,
};
use chiasm_objective::{Gather, Losses, ObjectivesConfig, StepInput};

const SAMPLES: usize = 8;
const SIDE: usize = 12;

/// One of two threads that show each other their features.
struct Thread<'a> {
    number: usize,
    shown: &'a [Mutex<Vec<f32>>; 2],
    barrier: &'a Barrier,
}

impl Gather for Thread<'_> {
    fn processes(&self) -> usize {
        2
    }

    fn others(&self, own: &Tensor<2>) -> [Tensor<2>; 2] {
        let [_, width] = own.dims();
        let values = own
            .clone()
            .inner()
            .into_data()
            .try_into_vec::<f32>()
            .unwrap();
        *self.shown[self.number].lock().unwrap() = values;
        self.barrier.wait();
        let theirs = self.shown[1 - self.number].lock().unwrap().clone();
        self.barrier.wait();
        let device = own.device();
        let rows = theirs.len() / width;
        let theirs = Tensor::from_data(TensorData::new(theirs, [rows, width]), &device);
        let none = Tensor::zeros([0, width], &device);
        match self.number {
            0 => [none, theirs],
            _ => [theirs, none],
        }
    }
}

fn model_config() -> ModelConfig {
    ModelConfig {
        text: TextConfig {
            vocab_size: 40,
            hidden_size: 12,
            layers: 1,
            num_heads: 3,
            intermediate_size: 20,
            max_text_len: 8,
            dropout: 0.0,
            ..TextConfig::default()
        },
        vision: VisionConfig {
            image_size: SIDE,
            patch_size: 4,
            hidden_size: 16,
            layers: 1,
            num_heads: 4,
            intermediate_size: 24,
            max_frames: 2,
            mask_token: true,
            ..VisionConfig::default()
        },
        fusion: FusionConfig {
            hidden_size: 12,
            layers: 1,
            num_heads: 2,
            intermediate_size: 24,
            dropout: 0.0,
            ..FusionConfig::default()
        },
        projection_size: 6,
        init_std: 0.3,
        ..ModelConfig::default()
    }
}

/// The samples `from..to` as a step; draws depend on the sample alone.
fn step(from: usize, to: usize, config: &ObjectivesConfig, device: &Device) -> StepInput {
    const LEN: usize = 6;
    const FRAMES: usize = 2;
    let picture = FRAMES * 3 * SIDE * SIDE;
    let mut noise = rng::stream(5, "pixels", &[]);
    let pixels: Vec<f32> = (0..SAMPLES * picture)
        .map(|_| rng::uniform(&mut noise, -1.0, 1.0) as f32)
        .collect();
    let ids: Vec<i64> = (from..to)
        .flat_map(|sample| {
            let word = move |column: usize| (5 + (sample * 7 + column * 3) % 30) as i64;
            std::iter::once(2).chain((1..LEN - 1).map(word)).chain([3])
        })
        .collect();
    let words: Vec<Vec<Option<u32>>> = (from..to)
        .map(|_| {
            (0..LEN as u32)
                .map(|c| (c > 0 && c < LEN as u32 - 1).then_some(c))
                .collect()
        })
        .collect();
    let samples: Vec<usize> = (from..to).collect();
    step_input(
        TextRows {
            input_ids: &ids,
            attention_mask: &vec![1; ids.len()],
            len: LEN,
            word_ids: &words,
        },
        SeenRows::Pixels(ImageRows {
            pixel_values: &pixels[from * picture..to * picture],
            pictures: 1,
            frames: FRAMES,
            image_size: SIDE,
            patches: 9,
        }),
        KnownRows::default(),
        &Vocabulary::new(40, 4, |id| id <= 4),
        config,
        DrawKey {
            seed: 1,
            step: 0,
            samples: &samples,
        },
        device,
    )
}

fn gradients(
    model: &VisionLanguageModel,
    losses: &Losses,
    processes: usize,
) -> BTreeMap<String, Vec<f32>> {
    let mut found = BTreeMap::new();
    let mut gradients = losses.total_of(processes).unwrap().backward();
    take_gradients(model, &mut gradients, |path, _, gradient| {
        let values = gradient.into_data().try_into_vec::<f32>().unwrap();
        found.insert(path.name(), values);
    });
    found
}

fn scalar(losses: &Losses, name: &str) -> f32 {
    losses.get(name).unwrap().into_scalar::<f32>()
}

#[test]
fn two_processes_are_one() {
    let config = ObjectivesConfig {
        contrastive: Some(ContrastiveConfig::default()),
        mlm: Some(MlmConfig::default()),
        global_completion: Some(GlobalCompletionConfig {
            image_drop: 0.5,
            ..GlobalCompletionConfig::default()
        }),
        local_completion: Some(LocalCompletionConfig::default()),
        // Whose partner is whose depends on the batch: not a loss of gathered features.
        matching: None::<MatchingConfig>,
        ..ObjectivesConfig::default()
    };
    let device = Device::flex().autodiff();
    let built = || VisionLanguageModel::new(&Init::new(3, 0.3, &device), &model_config());
    let model = built();
    let whole = shared(&model, &config, &step(0, SAMPLES, &config, &device));
    let expected = gradients(&model, &whole, 1);

    let (shown, barrier) = ([const { Mutex::new(Vec::new()) }; 2], Barrier::new(2));
    let half = SAMPLES / 2;
    let parts: Vec<_> = std::thread::scope(|scope| {
        let run = |number: usize| {
            let (shown, barrier, config, whole, device) =
                (&shown, &barrier, &config, &whole, &device);
            scope.spawn(move || {
                let model = VisionLanguageModel::new(&Init::new(3, 0.3, device), &model_config());
                let gather = Thread {
                    number,
                    shown,
                    barrier,
                };
                let input = step(number * half, (number + 1) * half, config, device);
                let losses = shared_with(&model, config, &input, &gather);
                for term in whole.terms.iter().filter(|term| term.gathered) {
                    let (own, all) = (scalar(&losses, term.name), scalar(whole, term.name));
                    assert!(
                        (own - all).abs() <= 1e-5 * all.abs().max(1.0),
                        "{}",
                        term.name
                    );
                }
                gradients(&model, &losses, 2)
            })
        };
        let threads = [run(0), run(1)];
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect()
    });
    assert!(whole.terms.iter().filter(|term| term.gathered).count() == 5);
    for (name, expected) in &expected {
        let largest = expected
            .iter()
            .fold(1e-3f32, |max, value| max.max(value.abs()));
        let parts: Vec<_> = parts.iter().filter_map(|part| part.get(name)).collect();
        for (index, expected) in expected.iter().enumerate() {
            let sum: f32 = parts.iter().map(|part| part[index]).sum();
            assert!(
                (sum - expected).abs() <= 2e-5 * largest,
                "{name}: {sum} and {expected}"
            );
        }
    }
}

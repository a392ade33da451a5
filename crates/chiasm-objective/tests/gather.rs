//! Processes with a part of a batch each compute what one does with all of it (O4 of `specs/scl.md`).
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failed unwrap here is the failed test"
)]

use std::collections::BTreeMap;
use std::sync::{Barrier, Mutex};

use burn::tensor::{Device, Tensor, TensorData};
use chiasm_data::{Part, rng};
use chiasm_nn::layers::Init;
use chiasm_nn::model::Stage;
use chiasm_nn::weights::take_gradients;
use chiasm_nn::{
    FusionConfig, HeadsConfig, ModelConfig, TextConfig, VisionConfig, VisionLanguageModel,
};
use chiasm_objective::config::{
    ClassificationConfig, ContrastiveConfig, GlobalCompletionConfig, LocalCompletionConfig,
    MatchingConfig, MlmConfig, RankingConfig,
};
use chiasm_objective::losses::{shared, shared_with};
use chiasm_objective::masking::{
    ClassRows, DrawKey, ImageRows, KnownRows, SeenRows, TextRows, Vocabulary, step_input,
};
use chiasm_objective::{Gather, LossTerm, Losses, ObjectivesConfig, StepInput};

const SAMPLES: usize = 8;
const SIDE: usize = 12;

/// One of several threads that show each other their features.
struct Thread<'a> {
    number: usize,
    shown: &'a [Mutex<Vec<f64>>],
    barrier: &'a Barrier,
}

impl Thread<'_> {
    /// What all threads show, in their order.
    fn show(&self, own: Vec<f64>) -> Vec<Vec<f64>> {
        *self.shown[self.number].lock().unwrap() = own;
        self.barrier.wait();
        let all = self.shown.iter();
        let all = all.map(|shown| shown.lock().unwrap().clone()).collect();
        self.barrier.wait();
        all
    }
}

impl Gather for Thread<'_> {
    fn processes(&self) -> usize {
        self.shown.len()
    }

    fn totals(&self, own: &[usize]) -> Vec<usize> {
        let all = self.show(own.iter().map(|count| *count as f64).collect());
        (0..own.len())
            .map(|kind| all.iter().map(|counts| counts[kind] as usize).sum())
            .collect()
    }

    fn share(&self, own: &[f64]) -> Vec<f64> {
        self.show(own.to_vec()).concat()
    }

    fn others(&self, own: &Tensor<2>) -> [Tensor<2>; 2] {
        let [_, width] = own.dims();
        let values = own
            .clone()
            .inner()
            .into_data()
            .try_into_vec::<f32>()
            .unwrap();
        let all = self.show(values.into_iter().map(f64::from).collect());
        let (before, after) = (&all[..self.number], &all[self.number + 1..]);
        [before, after].map(|theirs| {
            let theirs = theirs.concat().into_iter();
            let theirs: Vec<f32> = theirs.map(|value| value as f32).collect();
            let rows = theirs.len() / width;
            Tensor::from_data(TensorData::new(theirs, [rows, width]), &own.device())
        })
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
        heads: HeadsConfig {
            ranking: true,
            classes: 3,
            ..HeadsConfig::default()
        },
        projection_size: 6,
        init_std: 0.3,
        ..ModelConfig::default()
    }
}

/// A part of the samples as a step.
fn step(part: Part, config: &ObjectivesConfig, device: &Device) -> StepInput {
    const LEN: usize = 6;
    const FRAMES: usize = 2;
    let picture = FRAMES * 3 * SIDE * SIDE;
    let mut noise = rng::stream(5, "pixels", &[]);
    let pixels: Vec<f32> = (0..SAMPLES * picture)
        .map(|_| rng::uniform(&mut noise, -1.0, 1.0) as f32)
        .collect();
    let own = part.rows(SAMPLES);
    let own = own.flat_map(|row| &pixels[row * picture..(row + 1) * picture]);
    let ids: Vec<i64> = (0..SAMPLES)
        .flat_map(|sample| {
            let word = move |column: usize| (5 + (sample * 7 + column * 3) % 30) as i64;
            std::iter::once(2).chain((1..LEN - 1).map(word)).chain([3])
        })
        .collect();
    // Texts of different lengths: the processes have different numbers of words.
    let mask: Vec<i64> = (0..SAMPLES * LEN)
        .map(|place| i64::from(place % LEN < 3 + place / LEN % 4))
        .collect();
    let words: Vec<Vec<Option<u32>>> = (0..SAMPLES)
        .map(|_| {
            (0..LEN as u32)
                .map(|c| (c > 0 && c < LEN as u32 - 1).then_some(c))
                .collect()
        })
        .collect();
    let samples: Vec<usize> = (0..SAMPLES).collect();
    let classes: Vec<Vec<(u32, f32)>> = (0..SAMPLES)
        .map(|sample| vec![((sample % 3) as u32, 1.0)])
        .collect();
    step_input(
        TextRows {
            input_ids: &ids,
            attention_mask: &mask,
            len: LEN,
            word_ids: &words,
        },
        SeenRows::Pixels(ImageRows {
            pixel_values: &own.copied().collect::<Vec<f32>>(),
            pictures: 1,
            frames: FRAMES,
            image_size: SIDE,
            patches: 9,
        }),
        KnownRows {
            classes: Some(ClassRows {
                targets: &classes,
                shares: &[],
                classes: 3,
                progress: 0.0,
            }),
            part,
            ..KnownRows::default()
        },
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

fn gradients(model: &VisionLanguageModel, losses: &Losses) -> BTreeMap<String, Vec<f32>> {
    let mut found: BTreeMap<String, Vec<f32>> = BTreeMap::new();
    let mut whole = None;
    losses.backward(losses.total(), |stage, gradients| {
        take_gradients(model, gradients, |path, _, gradient| {
            let name = path.name();
            // What travels already gets nothing more.
            assert!(whole < Some(Stage::of(&name)), "{name} after {whole:?}");
            let values = gradient.into_data().try_into_vec::<f32>().unwrap();
            let all = found.entry(name).or_insert_with(|| vec![0.0; values.len()]);
            all.iter_mut()
                .zip(values)
                .for_each(|(all, own)| *all += own);
        });
        whole = Some(stage);
    });
    found
}

/// Values of all terms, weighted as they are added up over so many processes.
fn parts(losses: &Losses, processes: usize) -> Vec<f64> {
    let part = |term: &LossTerm| {
        let value = term.value.clone().into_scalar::<f32>();
        f64::from(value) * term.part(processes)
    };
    losses.terms.iter().map(part).collect()
}

/// Values of terms, and gradients by parameter.
type Found = (Vec<f64>, BTreeMap<String, Vec<f32>>);

/// What so many processes have, one after the other.
fn together(processes: usize, config: &ObjectivesConfig) -> Vec<Found> {
    let device = &Device::flex().autodiff();
    let shown: Vec<_> = (0..processes).map(|_| Mutex::new(Vec::new())).collect();
    let barrier = Barrier::new(processes);
    std::thread::scope(|scope| {
        let (shown, barrier) = (&shown, &barrier);
        let run = move |number: usize| {
            let model = VisionLanguageModel::new(&Init::new(3, 0.3, device), &model_config());
            let gather = Thread {
                number,
                shown,
                barrier,
            };
            let input = step(Part::new(number, processes), config, device);
            let losses = shared_with(&model, config, &input, &gather);
            (parts(&losses, processes), gradients(&model, &losses))
        };
        let threads: Vec<_> = (0..processes)
            .map(|number| scope.spawn(move || run(number)))
            .collect();
        let found = threads.into_iter().map(|thread| thread.join().unwrap());
        found.collect()
    })
}

/// The published code's gather, in which own features count once of so many times (`specs/scl.md` section 2.1); the
/// temperature, which every process has, counts whole.
#[test]
fn a_gather_that_is_averaged_leaves_a_part() {
    let contrast = |averaged_gather| ObjectivesConfig {
        averaged_gather,
        contrastive: Some(ContrastiveConfig::default()),
        ..ObjectivesConfig::default()
    };
    let sum = |config| {
        let mut sum: BTreeMap<String, Vec<f32>> = BTreeMap::new();
        for (_, gradients) in together(4, &config) {
            for (name, own) in gradients {
                let all = sum.entry(name).or_insert_with(|| vec![0.0; own.len()]);
                all.iter_mut().zip(own).for_each(|(all, own)| *all += own);
            }
        }
        sum
    };
    let (exact, averaged) = (sum(contrast(false)), sum(contrast(true)));
    for (name, exact) in exact {
        let part = if name == "temperature" { 1.0 } else { 0.25 };
        for (found, exact) in averaged[&name].iter().zip(exact) {
            let gap = (found - part * exact).abs();
            assert!(
                gap <= 1e-6 + 1e-4 * exact.abs(),
                "{name}: {found} and {exact}"
            );
        }
    }
}

#[test]
fn several_processes_are_one() {
    let config = ObjectivesConfig {
        fused_share: 0.8,
        contrastive: Some(ContrastiveConfig::default()),
        matching: Some(MatchingConfig::default()),
        mlm: Some(MlmConfig::default()),
        global_completion: Some(GlobalCompletionConfig {
            image_drop: 0.5,
            ..GlobalCompletionConfig::default()
        }),
        local_completion: Some(LocalCompletionConfig::default()),
        ranking: Some(RankingConfig::default()),
        classification: Some(ClassificationConfig::default()),
        ..ObjectivesConfig::default()
    };
    let device = Device::flex().autodiff();
    let model = VisionLanguageModel::new(&Init::new(3, 0.3, &device), &model_config());
    let whole = shared(&model, &config, &step(Part::WHOLE, &config, &device));
    let expected = (parts(&whole, 1), gradients(&model, &whole));
    assert_eq!(whole.terms.len(), 9);
    // With seven, most have one sample.
    for processes in [2, 3, 4, 7] {
        let found = together(processes, &config);
        for (term, expected) in expected.0.iter().enumerate() {
            let sum: f64 = found.iter().map(|(values, _)| values[term]).sum();
            let name = whole.terms[term].name;
            assert!(
                (sum - expected).abs() <= 1e-6 * expected.abs(),
                "{processes} {name}: {sum} and {expected}"
            );
        }
        // Of the whole gradient's length: single numbers are differences of large ones.
        let (mut apart, mut length) = (0.0, 0.0);
        for (name, expected) in &expected.1 {
            let parts: Vec<_> = found.iter().filter_map(|(_, of)| of.get(name)).collect();
            for (index, expected) in expected.iter().enumerate() {
                let sum: f64 = parts.iter().map(|part| f64::from(part[index])).sum();
                apart += (sum - f64::from(*expected)).powi(2);
                length += f64::from(*expected).powi(2);
            }
        }
        assert!(apart <= length * 1e-12, "{processes}: {apart} of {length}");
    }
}

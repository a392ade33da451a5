//! A model as the server takes it: plain numbers in and out.

use std::path::Path;
use std::sync::Arc;

use burn::tensor::Device;
use chiasm_data::{Dataset, ImageSource, RegionRows, Rgb, Sample, Views, thumbnail};
use chiasm_eval::tasks::embedder::{Embedder, host};
use chiasm_eval::tasks::grounding;
use chiasm_explain::peaks::peaks;
use chiasm_explain::{Explained, Method, Places, Request, Target, choice};
use chiasm_nn::VisionLanguageModel;
use chiasm_nn::model::Seen;
use chiasm_nn::regions::Regions;
use chiasm_serve::{
    Ability, Alike, Card, Engine, EngineError, Explanation, Found, Grounded, Named, Question,
    Relation, Selected, Word,
};
use chiasm_train::recipe::DataConfig;

use crate::cli::ReadArgs;
use crate::commands::eval::Bar;
use crate::commands::explain::{self, Asked};
use crate::commands::relate::Relater;
use crate::error::CliError;
use crate::model::Model;
use crate::regional::{Regional, RegionalArgs};

/// Tokens of a picture that is seen as regions or by a published network, for the queue's budget.
const USUAL_PICTURE: usize = 200;

/// Side of the picture of nothing that models are tried on, in pixels.
const BLANK: usize = 64;

/// A model of the server.
pub(crate) struct Served {
    card: Card,
    model: Model,
    device: Device,
    /// How attention is shown: what `explain --auto-layer` chose, where it did.
    attention: Request,
    relater: Option<Relater>,
    /// Makes regions of pictures, for a model that sees regions.
    regional: Option<Regional>,
}

/// A picture as the model sees it.
struct Sight {
    seen: Seen,
    /// Its regions, where these are what it sees.
    rows: Option<RegionRows>,
}

impl Served {
    /// Opens a model under a name.
    pub(crate) fn open(
        name: &str,
        path: &Path,
        read: ReadArgs,
        relater: Option<Relater>,
        regions: (Option<&Path>, &RegionalArgs),
        device: &Device,
    ) -> Result<Self, CliError> {
        let (model, fingerprint) = Model::read_identified(path, read, device)?;
        let attention = match explain::chosen(path, &model)? {
            Some(chosen) => choice::request(&chosen)?,
            None => Request::new(Method::Attention),
        };
        let (set, args) = regions;
        let regional = Regional::of(&model, set, args, device)?;
        let mut served = Self {
            card: Card {
                id: name.to_owned(),
                fingerprint,
                dimensions: 0,
                abilities: Vec::new(),
                methods: Vec::new(),
                classes: None,
            },
            model,
            device: device.clone(),
            attention,
            relater,
            regional,
        };
        served.describe();
        Ok(served)
    }

    /// Whether it finds regions in the pictures that it is shown.
    pub(crate) fn makes_regions(&self) -> bool {
        self.regional.is_some()
    }

    /// Finds out what the model can be asked for.
    fn describe(&mut self) {
        let embedder = self.embedder();
        let reads = embedder.tokenizer.is_some();
        let seen = self
            .see(&[&Rgb::grey(BLANK, BLANK)])
            .ok()
            .map(|sight| sight.seen);
        let text = embedder.text_width().ok();
        let image = seen
            .as_ref()
            .and_then(|seen| embedder.embed_seen(seen, false).ok())
            .map(|(embeds, _)| embeds.dims()[1]);
        let sees = seen.is_some();
        let compares = reads
            && seen.as_ref().is_some_and(|seen| {
                let alike = embedder.compare(seen, &["a"]);
                alike.is_ok_and(|alike| {
                    alike
                        .iter()
                        .any(|own| own.cosine.is_some() || own.fused.is_some())
                })
            });
        let answers = match &self.model {
            Model::Own(trained) => {
                sees && trained.targets.is_some() && trained.config.heads.pictures() == 1
            }
            Model::Published(_) => false,
        };
        let explainer = self.model.explainer(None).ok().filter(|_| sees && reads);
        let target = explainer.map(|explainer| explainer.subject.usual_target());
        let methods = match (explainer, &target) {
            (Some(explainer), Some(target)) => Method::ALL
                .into_iter()
                .filter(|method| explain::has(&explainer.subject, target, *method))
                .map(|method| method.name().to_owned())
                .collect(),
            _ => Vec::new(),
        };
        let explains = !methods.is_empty();
        let is_own = matches!(self.model, Model::Own(_));
        let abilities = [
            (Ability::EmbedText, text.is_some()),
            (Ability::EmbedImage, image.is_some()),
            (Ability::Match, compares),
            (Ability::Answer, answers),
            (Ability::Relation, self.relater.is_some()),
            (Ability::Ground, explains),
            (Ability::Explain, explains),
            (Ability::Select, explains && is_own),
        ];
        let classes = match &self.model {
            Model::Own(trained) => trained.targets.as_ref().map(chiasm_data::Targets::len),
            Model::Published(_) => None,
        };
        self.card.dimensions = text.or(image).unwrap_or(0);
        self.card.abilities = abilities
            .into_iter()
            .filter_map(|(ability, has)| has.then_some(ability))
            .collect();
        self.card.methods = methods;
        self.card.classes = classes;
    }

    fn embedder(&self) -> Embedder<'_> {
        self.model.embedder(&self.device, Views::default())
    }

    /// Pictures as the model sees them.
    fn see(&self, pictures: &[&Rgb]) -> Result<Sight, EngineError> {
        match &self.regional {
            Some(regional) => {
                let rows = regional.rows(pictures).map_err(failed)?;
                Ok(Sight {
                    seen: Seen::Regions(Regions::new(&rows, &self.device)),
                    rows: Some(rows),
                })
            }
            None => Ok(Sight {
                seen: self.embedder().stills(pictures).map_err(failed)?,
                rows: None,
            }),
        }
    }

    /// The explanation of a pair, and how it was made.
    fn explained(
        &self,
        instead: Option<&VisionLanguageModel>,
        seen: &Seen,
        text: &str,
        question: &Question,
    ) -> Result<(Explained, Method, Target), EngineError> {
        let explainer = self
            .model
            .explainer(instead)
            .map_err(|error| asked_wrongly(&error))?;
        let asked = explain::asked(
            question.target.as_deref(),
            false,
            &self.model,
            &explainer.subject,
        );
        let target = match asked.map_err(|error| asked_wrongly(&error))? {
            Asked::Target(target) => target,
            Asked::BestClass => {
                let class = explainer.best_class(seen, text);
                Target::Class(class.map_err(|error| EngineError::Request(error.to_string()))?)
            }
        };
        let method = match &question.method {
            Some(name) => Method::of(name)
                .ok_or_else(|| EngineError::Request(format!("there is no method `{name}`")))?,
            None => explain::usual_method(&explainer, &target),
        };
        let request = match method {
            Method::Attention => self.attention,
            method => Request::new(method),
        };
        let explained = explainer.explain(seen, Some(text), &target, &request, true);
        let explained = explained.map_err(|error| EngineError::Request(error.to_string()))?;
        Ok((explained, method, target))
    }

    /// What maps of a picture are over.
    fn places(
        &self,
        places: Places,
        picture: &Rgb,
        rows: Option<&RegionRows>,
    ) -> chiasm_serve::Places {
        match places {
            Places::Patches { side, .. } => chiasm_serve::Places::Grid {
                rows: side,
                columns: side,
                window: self
                    .model
                    .preprocess()
                    .map_or([0.0, 0.0, 1.0, 1.0], |preprocess| {
                        preprocess.window(picture.width, picture.height)
                    }),
            },
            Places::Regions(_) => {
                let boxes = rows.map_or(&[][..], |rows| &rows.boxes);
                chiasm_serve::Places::Boxes {
                    boxes: boxes.iter().copied().map(place).collect(),
                }
            }
        }
    }
}

/// Corners as left, top, width and height.
fn place([x1, y1, x2, y2]: [f32; 4]) -> [f32; 4] {
    [x1, y1, x2 - x1, y2 - y1]
}

fn failed(error: impl std::fmt::Display) -> EngineError {
    EngineError::Failed(error.to_string())
}

/// What the command line would say of what was typed.
fn asked_wrongly(error: &CliError) -> EngineError {
    EngineError::Request(error.one_line())
}

/// Rows of a table as vectors.
fn rows(tensor: burn::tensor::Tensor<2>) -> Result<Vec<Vec<f32>>, EngineError> {
    let width = tensor.dims()[1].max(1);
    let values = host(tensor).map_err(failed)?;
    Ok(values.chunks_exact(width).map(<[f32]>::to_vec).collect())
}

/// The boxes that weigh most, each with its part of the whole.
fn heaviest(boxes: &[[f32; 4]], weights: &[f32], top: usize) -> Vec<Found> {
    let sum: f32 = weights.iter().map(|weight| weight.max(0.0)).sum();
    let found = boxes.iter().zip(weights).map(|(place, weight)| Found {
        place: *place,
        score: weight.max(0.0) / sum.max(f32::MIN_POSITIVE),
    });
    let mut found: Vec<Found> = found.collect();
    found.sort_by(|a, b| b.score.total_cmp(&a.score));
    found.truncate(top);
    found
}

fn words(explained: &Explained) -> Vec<Word> {
    let word = |word: &chiasm_explain::Word| Word {
        text: word.text.clone(),
        start: word.bytes.start,
        end: word.bytes.end,
        weight: word.weight,
        map: word.map.clone(),
    };
    explained.words.iter().map(word).collect()
}

impl Engine for Served {
    fn card(&self) -> Card {
        self.card.clone()
    }

    fn tokens(&self, text: &str) -> usize {
        let embedder = self.embedder();
        embedder.tokenizer.map_or(0, |tokenizer| {
            tokenizer.encode(text, embedder.max_text_len).ids.len()
        })
    }

    fn picture_tokens(&self) -> usize {
        match &self.model {
            Model::Own(trained) => match &trained.model.vision {
                Some(vision) => 1 + vision.num_registers() + vision.num_patches(),
                None => USUAL_PICTURE,
            },
            Model::Published(_) => USUAL_PICTURE,
        }
    }

    fn embed_texts(&self, texts: &[&str]) -> Result<Vec<Vec<f32>>, EngineError> {
        rows(
            self.embedder()
                .texts(texts, false, &mut |_| {})
                .map_err(failed)?
                .embeds,
        )
    }

    fn embed_pictures(&self, pictures: &[Arc<Rgb>]) -> Result<Vec<Vec<f32>>, EngineError> {
        let embedder = self.embedder();
        let pictures: Vec<&Rgb> = pictures.iter().map(AsRef::as_ref).collect();
        let Sight { seen, .. } = self.see(&pictures)?;
        rows(embedder.embed_seen(&seen, false).map_err(failed)?.0)
    }

    fn compare(&self, picture: &Arc<Rgb>, texts: &[String]) -> Result<Vec<Alike>, EngineError> {
        let embedder = self.embedder();
        let Sight { seen, .. } = self.see(&[picture])?;
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let alike = embedder.compare(&seen, &texts).map_err(failed)?;
        Ok(alike
            .into_iter()
            .map(|own| Alike {
                cosine: own.cosine,
                probability: own.probability(),
            })
            .collect())
    }

    fn answer(
        &self,
        picture: &Arc<Rgb>,
        question: &str,
        top: usize,
    ) -> Result<Vec<Named>, EngineError> {
        let Model::Own(trained) = &self.model else {
            return Err(EngineError::Request("the model has no classes".to_owned()));
        };
        let embedder = self.embedder();
        let Sight { seen, .. } = self.see(&[picture])?;
        let independent = trained.recipe.has_independent_classes();
        let scores = embedder
            .classify(&seen, question, independent)
            .map_err(failed)?;
        let names = trained
            .targets
            .as_ref()
            .map_or(&[][..], chiasm_data::Targets::names);
        let mut named: Vec<Named> = names
            .iter()
            .zip(scores)
            .map(|(class, probability)| Named {
                class: class.clone(),
                probability: f64::from(probability),
            })
            .collect();
        named.sort_by(|a, b| b.probability.total_cmp(&a.probability));
        named.truncate(top);
        Ok(named)
    }

    fn relate(&self, picture: &Arc<Rgb>, text: &str) -> Result<Relation, EngineError> {
        let Some(relater) = &self.relater else {
            return Err(EngineError::Request(
                "the model has no relation model".to_owned(),
            ));
        };
        let bytes = thumbnail::png(picture).map_err(failed)?;
        let picture = ImageSource::Bytes(bytes.into());
        let sample = Sample::of_picture("picture", picture, vec![text.to_owned()]);
        let dataset = Dataset {
            name: "request".to_owned(),
            samples: vec![sample],
        };
        let said = relater
            .relate(&DataConfig::default(), &dataset, &mut Bar::silent())
            .map_err(|error| asked_wrongly(&error))?
            .pop()
            .ok_or_else(|| failed("nothing was said of the pair"))?;
        let probabilities = said.probabilities.into_iter().map(|own| Named {
            class: own.class,
            probability: own.probability,
        });
        Ok(Relation {
            relation: said.relation,
            confidence: said.confidence,
            probabilities: probabilities.collect(),
            text_represented: said.text_represented,
            image_adds: said.image_adds,
            alignment: said.alignment,
        })
    }

    fn ground(
        &self,
        picture: &Arc<Rgb>,
        phrase: &str,
        top: usize,
    ) -> Result<Grounded, EngineError> {
        let Sight { seen, rows } = self.see(&[picture])?;
        if let Some(rows) = rows.as_ref().filter(|_| self.model.grounds()) {
            let found = grounding::ground(&self.embedder(), rows, phrase).map_err(failed)?;
            let boxes = found.into_iter().take(top).map(|found| Found {
                place: place(found.corners),
                score: found.share,
            });
            return Ok(Grounded {
                by: "head",
                boxes: boxes.collect(),
            });
        }
        let (explained, ..) = self.explained(None, &seen, phrase, &Question::default())?;
        let (rows, columns, window) = match self.places(explained.places, picture, rows.as_ref()) {
            chiasm_serve::Places::Grid {
                rows,
                columns,
                window,
            } => (rows, columns, window),
            chiasm_serve::Places::Boxes { boxes } => {
                return Ok(Grounded {
                    by: "map",
                    boxes: heaviest(&boxes, &explained.whole, top),
                });
            }
        };
        let [left, above, width, height] = window;
        let (cell_width, cell_height) = (width / columns as f32, height / rows as f32);
        let boxes = peaks(&explained.whole, columns, top)
            .into_iter()
            .map(|peak| {
                let [x, y, wide, high] = peak.cells.map(|cells| cells as f32);
                Found {
                    place: [
                        left + x * cell_width,
                        above + y * cell_height,
                        wide * cell_width,
                        high * cell_height,
                    ],
                    score: peak.share,
                }
            });
        Ok(Grounded {
            by: "map",
            boxes: boxes.collect(),
        })
    }

    fn explain(
        &self,
        picture: &Arc<Rgb>,
        text: &str,
        question: &Question,
    ) -> Result<Explanation, EngineError> {
        let Sight { seen, rows } = self.see(&[picture])?;
        let (explained, method, target) = self.explained(None, &seen, text, question)?;
        let selected = match &question.select {
            None => None,
            Some(rule) => {
                let other =
                    explain::selecting(&self.model, rule).map_err(|error| asked_wrongly(&error))?;
                let (selected, ..) = self.explained(Some(&other), &seen, text, question)?;
                Some(Selected {
                    rule: rule.clone(),
                    words: words(&selected),
                    whole: selected.whole,
                    kept: selected.kept,
                })
            }
        };
        Ok(Explanation {
            method: method.name().to_owned(),
            target: target.name().to_owned(),
            score: explained.score,
            places: self.places(explained.places, picture, rows.as_ref()),
            words: words(&explained),
            whole: explained.whole,
            selected,
        })
    }
}

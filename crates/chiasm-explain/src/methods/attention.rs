//! Attention of one layer.

use burn::tensor::Tensor;
use burn::tensor::activation::softmax;
use chiasm_nn::attention::SelfAttention;
use chiasm_nn::{Spans, Tokens};

use crate::error::ExplainError;
use crate::layout::Layout;
use crate::maps::{Heads, Maps, Request, within};
use crate::pass::{Pass, attention};
use crate::subject::{Input, Readers, Subject, Target, host};

/// Attention of a layer on the host, head by head.
struct Table {
    heads: usize,
    queries: usize,
    keys: usize,
    values: Vec<f32>,
}

impl Table {
    fn of(tensor: Tensor<3>) -> Result<Self, ExplainError> {
        let [heads, queries, keys] = tensor.dims();
        Ok(Self {
            heads,
            queries,
            keys,
            values: host(tensor)?,
        })
    }

    fn at(&self, head: usize, query: usize, key: usize) -> f32 {
        let place = (head * self.queries + query) * self.keys + key;
        self.values.get(place).copied().unwrap_or(0.0)
    }

    /// One number of all heads.
    fn joined(&self, heads: Heads, query: usize, key: usize) -> f32 {
        let all = (0..self.heads).map(|head| self.at(head, query, key));
        match heads {
            Heads::One(head) => self.at(head, query, key),
            Heads::Max => all.fold(0.0, f32::max),
            Heads::Mean | Heads::ScoreSum => all.sum::<f32>() / self.heads.max(1) as f32,
        }
    }

    /// Share of the keys that each head keeps of the queries and keys that are shown.
    fn kept(&self, queries: &[usize], keys: &[usize]) -> Vec<f32> {
        let count = (queries.len() * keys.len()).max(1) as f32;
        let of = |head: usize| {
            let pairs = queries
                .iter()
                .flat_map(|q| keys.iter().map(move |k| (*q, *k)));
            let kept = pairs.filter(|(query, key)| self.at(head, *query, *key) > 0.0);
            kept.count() as f32 / count
        };
        (0..self.heads).map(of).collect()
    }
}

/// Layers whose attention can be asked for: of fusion, or of the image tower where nothing is fused.
fn layers(subject: &Subject<'_>, target: &Target, pass: &Pass) -> usize {
    if !subject.fuses(target) {
        pass.image.len()
    } else if subject.is_one_stream() {
        pass.fusion.len()
    } else {
        pass.pairs().len()
    }
}

/// Maps of every layer with each way to join heads, for choosing among them: layer, heads, maps.
pub(crate) fn every(
    subject: &Subject<'_>,
    input: &Input,
    target: &Target,
) -> Result<Vec<(usize, Heads, Maps)>, ExplainError> {
    let pass = Pass::run(subject, input, target, false)?;
    let mut all = Vec::new();
    for layer in 0..layers(subject, target, &pass) {
        let views = View::of(subject, target, &pass, layer)?;
        let heads = (0..views.to_places.heads).map(Heads::One);
        for heads in [Heads::Mean, Heads::Max].into_iter().chain(heads) {
            all.push((layer, heads, views.maps(subject, target, &pass, heads)?));
        }
    }
    Ok(all)
}

pub(super) fn maps(
    subject: &Subject<'_>,
    input: &Input,
    target: &Target,
    pass: &Pass,
    request: &Request,
) -> Result<Maps, ExplainError> {
    let count = layers(subject, target, pass);
    let layer = request.layer.unwrap_or(count.saturating_sub(1));
    let layer = within("layer", layer, count)?;
    let view = View::of(subject, target, pass, layer)?;
    if let Heads::One(head) = request.heads {
        within("head", head, view.to_places.heads)?;
    }
    if request.heads == Heads::ScoreSum {
        return score_sum(subject, target, pass, layer, input);
    }
    view.maps(subject, target, pass, request.heads)
}

/// Where a layer's attention between both sides is to be read.
struct View {
    /// Rows look at places: all tokens of one stream, words of two, tokens of the tower.
    to_places: Table,
    /// Rows look at words.
    to_words: Option<Table>,
}

impl View {
    fn of(
        subject: &Subject<'_>,
        target: &Target,
        pass: &Pass,
        layer: usize,
    ) -> Result<Self, ExplainError> {
        let none = ExplainError::Lacks("the model has no such layer", "leave `--layer` out");
        if !subject.fuses(target) {
            let image = pass.image.get(layer).ok_or(none)?;
            let text = pass.text.last().map(|last| Table::of(attention(last)));
            return Ok(Self {
                to_places: Table::of(attention(image))?,
                to_words: text.transpose()?,
            });
        }
        if subject.is_one_stream() {
            let joint = pass.fusion.get(layer).ok_or(none)?;
            return Ok(Self {
                to_places: Table::of(attention(joint))?,
                to_words: None,
            });
        }
        let pair = pass.pairs().nth(layer).ok_or(none)?;
        Ok(Self {
            to_places: Table::of(attention(pair.text_to_image))?,
            to_words: Some(Table::of(attention(pair.image_to_text))?),
        })
    }

    fn maps(
        &self,
        subject: &Subject<'_>,
        target: &Target,
        pass: &Pass,
        heads: Heads,
    ) -> Result<Maps, ExplainError> {
        let layout = &pass.layout;
        let Layout { words, places, .. } = *layout;
        let Readers { text, image } = &pass.readers;
        let fused = subject.fuses(target);
        let joint = fused && subject.is_one_stream();
        // Which columns of `to_places` are places, and which rows are read for the target.
        let (columns, rows): (Vec<usize>, Vec<usize>) = if joint {
            let columns = layout.place_tokens().into_iter().map(|token| words + token);
            let rows = text
                .iter()
                .copied()
                .chain(image.iter().map(|row| words + row));
            (columns.collect(), rows.collect())
        } else if fused {
            (layout.place_tokens(), text.clone())
        } else {
            let order = layout.tower_order();
            let within_tower = |tokens: &[usize]| -> Vec<usize> {
                tokens
                    .iter()
                    .filter_map(|token| order.get(*token).copied())
                    .collect()
            };
            (within_tower(&layout.place_tokens()), within_tower(image))
        };
        let row = |query: usize| -> Vec<f32> {
            let columns = columns.iter();
            columns
                .map(|key| self.to_places.joined(heads, query, *key))
                .collect()
        };
        // A region of two streams is read from the image side, which no word of this table is.
        let whole = match rows.is_empty() {
            true => mean(&(0..words).map(row).collect::<Vec<_>>(), columns.len()),
            false => mean(
                &rows.iter().map(|query| row(*query)).collect::<Vec<_>>(),
                columns.len(),
            ),
        };
        let heads_of_words = match heads {
            Heads::Max => Heads::Max,
            _ => Heads::Mean,
        };
        let words_of = |table: &Table, queries: &[usize]| -> Vec<f32> {
            let of = |word: usize| {
                let all = queries
                    .iter()
                    .map(|query| table.joined(heads_of_words, *query, word));
                all.sum::<f32>() / queries.len().max(1) as f32
            };
            (0..words).map(of).collect()
        };
        let weights = match &self.to_words {
            None if joint => words_of(&self.to_places, &rows),
            None => Vec::new(),
            Some(table) => {
                // Of a text tower what each word receives from all (`specs/itr.md` section 5.2); of fusion
                // what the readers of the image side give.
                let all: Vec<usize> = (0..table.queries).collect();
                let queries = if fused && !image.is_empty() {
                    image
                } else {
                    &all
                };
                words_of(table, queries)
            }
        };
        let queries: Vec<usize> = if fused {
            (0..words).collect()
        } else {
            rows.clone()
        };
        Ok(Maps {
            score: pass.value()?,
            region: pass.region,
            places,
            whole,
            tokens: fused.then(|| (0..words).map(row).collect()),
            words: weights,
            kept: self.to_places.kept(&queries, &columns),
        })
    }
}

fn mean(rows: &[Vec<f32>], len: usize) -> Vec<f32> {
    let mut sum = vec![0.0; len];
    for row in rows {
        for (sum, value) in sum.iter_mut().zip(row) {
            *sum += value / rows.len() as f32;
        }
    }
    sum
}

/// ROSITA's demonstration: scores of all heads summed, then a softmax over the places
/// (`specs/tbkin.md` section 8.2).
fn score_sum(
    subject: &Subject<'_>,
    target: &Target,
    pass: &Pass,
    layer: usize,
    input: &Input,
) -> Result<Maps, ExplainError> {
    let needs = ExplainError::Lacks(
        "sums of scores are for models of one stream",
        "take `--heads mean` or `--heads max`",
    );
    let Subject::Own(model) = subject else {
        return Err(needs);
    };
    let (Some(block), Some(record)) =
        (model.fusion.joint_layers.get(layer), pass.fusion.get(layer))
    else {
        return Err(needs);
    };
    let view = View::of(subject, target, pass, layer)?;
    let mut maps = view.maps(subject, target, pass, Heads::Mean)?;
    if maps.kept.iter().any(|kept| *kept < 1.0) {
        return Err(ExplainError::Lacks(
            "scores cannot be summed once selection has dropped some",
            "take `--heads mean` where attention is selected",
        ));
    }
    let summed = summed_scores(&block.attention, record.input.values.clone());
    let words = input.text.as_ref().map_or(0, |text| text.spans.tokens());
    let tokens = pass.layout.image_tokens();
    let rows = softmax(summed.clone().narrow(1, words, tokens), 1);
    let rows = host(rows)?;
    let places = pass.layout.place_tokens();
    let row = |query: usize| -> Vec<f32> {
        let places = places.iter();
        places
            .map(|place| rows.get(query * tokens + place).copied().unwrap_or(0.0))
            .collect()
    };
    let readers = pass.readers.text.iter().copied();
    let readers = readers.chain(pass.readers.image.iter().map(|token| words + token));
    let read: Vec<usize> = readers.collect();
    maps.whole = mean(
        &read.iter().map(|query| row(*query)).collect::<Vec<_>>(),
        places.len(),
    );
    maps.tokens = Some((0..words).map(row).collect());
    // Of regions over the word pieces, the special ones at both ends left out.
    let inner = words.saturating_sub(2);
    if inner > 0 {
        let rows = host(softmax(summed.narrow(1, 1, inner), 1))?;
        let of = |word: usize| {
            let read = read
                .iter()
                .map(|query| rows.get(query * inner + word).copied().unwrap_or(0.0));
            read.sum::<f32>() / read_count(&pass.readers) as f32
        };
        let inner = (0..inner).map(of);
        maps.words = std::iter::once(0.0).chain(inner).chain([0.0]).collect();
    }
    Ok(maps)
}

fn read_count(readers: &Readers) -> usize {
    (readers.text.len() + readers.image.len()).max(1)
}

/// Scores of a layer before the softmax, summed over heads, `[tokens, tokens]`.
fn summed_scores(attention: &SelfAttention, rows: Tensor<2>) -> Tensor<2> {
    let [tokens, _] = rows.dims();
    let spans = Spans::uniform(1, tokens);
    let scores = attention.scores(&Tokens { rows, spans });
    scores.sum_dim(1).reshape([tokens, tokens])
}

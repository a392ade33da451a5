//! `chiasm data frames`: clips decoded once, as WebDataset shards of frames.

use chiasm_data::frames::{CacheConfig, ClipLimits, Encoding, Sampling, SamplingKind, cache};
use chiasm_data::{AlphaRule, DataError, Dataset, enforce_rate};
use chiasm_format::shard::{ShardOptions, ShardWriter};
use chiasm_train::recipe::DataConfig;
use serde::Serialize;
use serde_json::json;

use crate::cli::{FramesArgs, Global, SamplingArg};
use crate::error::CliError;
use crate::output::{self, Progress, note};
use crate::source::open_source;

#[derive(Serialize)]
struct Report {
    out: String,
    clips: usize,
    skipped: usize,
    frames: usize,
    bytes: u64,
    refused: usize,
    shards: usize,
}

impl From<SamplingArg> for SamplingKind {
    fn from(sampling: SamplingArg) -> Self {
        match sampling {
            SamplingArg::Centres => Self::SegmentCentres,
            SamplingArg::FirstToLast => Self::FirstToLast,
            SamplingArg::Random => Self::RandomSegments,
        }
    }
}

pub(crate) fn run(args: &FramesArgs, global: &Global) -> Result<(), CliError> {
    let mut data = DataConfig::default();
    args.source.apply(Some(&args.data), &mut data);
    let opened = open_source(&data)?;
    let mut refused = opened.quarantine;
    let total = opened.dataset.len() + refused.len();
    let config = CacheConfig {
        sampling: Sampling {
            kind: args.sampling.into(),
            frames: args.frames,
        },
        seed: args.seed,
        short_side: args.size,
        encoding: match args.quality {
            0 => Encoding::Png,
            quality => Encoding::Jpeg(quality),
        },
        alpha: AlphaRule::default(),
        limits: ClipLimits::default(),
    };
    let settings = json!({
        "sampling": config.sampling,
        "seed": config.seed,
        "short_side": config.short_side,
        "encoding": config.encoding,
        "data": opened.dataset.fingerprint(),
    });
    // A set of shards a split: their names tell it.
    let mut sum = Report {
        out: args.out.display().to_string(),
        clips: 0,
        skipped: 0,
        frames: 0,
        bytes: 0,
        refused: 0,
        shards: 0,
    };
    for split in opened.dataset.counts().into_keys() {
        let subset: Dataset = opened.dataset.subset(split);
        let options = ShardOptions::new(split.as_str(), settings.clone());
        let mut writer = ShardWriter::open(&args.out, options).map_err(DataError::from)?;
        let mut bar = Progress::new("frames", subset.len() as u64);
        let report = cache(&subset, &config, &mut writer, &mut |done| {
            bar.set(done as u64, split.as_str());
        })?;
        bar.finish();
        let manifest = writer.finish().map_err(DataError::from)?;
        sum.clips += report.clips;
        sum.skipped += report.skipped;
        sum.frames += report.frames;
        sum.bytes += report.bytes;
        sum.shards += manifest.shards.len();
        refused.entries.extend(report.refused.entries);
    }
    sum.refused = refused.len();
    let list = args.out.join("quarantine.jsonl");
    if !refused.is_empty() {
        refused.write_jsonl(&list)?;
    }
    if global.json {
        output::json(&sum)?;
    } else {
        output::result(&format!(
            "{} clips, {} frames, {:.1} MB in {} shards in {}",
            sum.clips,
            sum.frames,
            sum.bytes as f64 / 1e6,
            sum.shards,
            sum.out
        ));
        if sum.skipped > 0 {
            note(&format!("{} clips were there already", sum.skipped));
        }
    }
    enforce_rate(refused.len(), total, data.max_bad_rate, Some(&list))?;
    Ok(())
}

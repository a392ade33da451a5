//! `chiasm regions`: features of regions from pictures, and a look at them.

use std::fmt::Write as _;
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use burn::tensor::Device;
use chiasm_data::regions::{self, Form, GivenBoxes, RegionSet, RegionWriter, WriteConfig};
use chiasm_data::{
    AlphaRule, Dataset, Limits, Quarantine, RegionSource, Regions, Views, decode, enforce_rate,
    readers, thumbnail,
};
use chiasm_format::darknet::Darknet;
use chiasm_graph::vocabulary;
use chiasm_nn::published::encoder::Sizes;
use chiasm_nn::published::yolo::YoloTiny;
use chiasm_ranks::Ranks;
use chiasm_regions::{
    Detector, Given, Grid, Names, Naming, Provider, Report, Step, boxes, convert, draw, extract,
};
use chiasm_train::recipe::DataConfig;
use serde::Serialize;
use serde_json::json;

use crate::cli::{
    ExtractArgs, Global, InspectRegionsArgs, ProviderArg, RegionsArgs, RegionsCommand, StoreArg,
};
use crate::error::CliError;
use crate::model::Model;
use crate::output::{self, Progress, note};
use crate::source::{open_source, select};
use crate::{device, ranks};

/// Pictures of a set that are looked at for its figures.
const LOOKED_AT: usize = 200;

/// Pictures whose regions a rank makes before it takes others.
const PART: usize = 64;

/// List of the pictures of a part that cannot be used.
const REFUSED_FILE: &str = "refused.jsonl";

/// Boxes of a file that cannot be used and are named.
const REFUSED: usize = 5;

/// Overlap from which on two regions are neighbours in a graph (`specs/tbkin.md` section 2.1).
const NEIGHBOURS: f32 = 0.2;

pub(crate) fn run(args: &RegionsArgs, global: &Global) -> Result<ExitCode, CliError> {
    match &args.command {
        RegionsCommand::Extract(args) => {
            ranks::among(args.ranks, |ranks| run_extract(args, ranks, global))
        }
        RegionsCommand::Inspect(args) => inspect(args, global).map(|()| ExitCode::SUCCESS),
    }
}

#[derive(Serialize)]
struct Written {
    out: String,
    provider: String,
    pictures: usize,
    skipped: usize,
    regions: usize,
    dim: usize,
    refused: usize,
    shards: usize,
    hash: String,
    pictures_per_second: f64,
}

fn run_extract(args: &ExtractArgs, ranks: &Ranks, global: &Global) -> Result<(), CliError> {
    let device = device::open(global)?;
    let mut config = DataConfig::default();
    args.source.apply(Some(&args.data), &mut config);
    let provider = args
        .provider
        .unwrap_or(match (&args.detector, &args.boxes) {
            (Some(_), _) => ProviderArg::Detector,
            (None, Some(_)) => ProviderArg::Boxes,
            (None, None) => ProviderArg::Grid,
        });
    for (own, name, option, is_given, file) in [
        (
            ProviderArg::Detector,
            "detector",
            "--detector",
            args.detector.is_some(),
            "yolov4-tiny.weights",
        ),
        (
            ProviderArg::Boxes,
            "boxes",
            "--boxes",
            args.boxes.is_some(),
            "instances.json",
        ),
    ] {
        if provider == own && !is_given {
            return Err(CliError::new(
                format!("`--provider {name}` has no `{option}`"),
                format!("name a file with `{option} {file}`"),
            ));
        }
        if provider != own && is_given {
            return Err(CliError::new(
                format!("`{option}` is given, and `--provider` is another"),
                "leave one of them out".to_owned(),
            ));
        }
    }
    if args.top == 0 || args.top > chiasm_format::lineidx::MAX_REGIONS {
        return Err(CliError::new(
            format!("`--top {}`", args.top),
            format!("it is 1 to {}", chiasm_format::lineidx::MAX_REGIONS),
        ));
    }
    let job = Job {
        args,
        ranks,
        global,
        device: &device,
        config: &config,
        started: Instant::now(),
    };
    match provider {
        // Nothing is computed: one rank is as fast as many.
        ProviderArg::Files if !ranks.is_first() => Ok(()),
        ProviderArg::Files => job.files(),
        ProviderArg::Grid | ProviderArg::Detector | ProviderArg::Boxes => job.pictures(),
    }
}

/// An extraction as it was typed.
struct Job<'a> {
    args: &'a ExtractArgs,
    ranks: &'a Ranks,
    global: &'a Global,
    device: &'a Device,
    config: &'a DataConfig,
    started: Instant,
}

impl<'a> Job<'a> {
    /// Regions of pictures.
    fn pictures(mut self) -> Result<(), CliError> {
        let Some(weights) = &self.args.weights_vision else {
            return Err(CliError::new(
                "no image tower to take features from",
                "name one with `--weights-vision`: CLIP, ViT, DINOv2, a convolutional network, or a run"
                    .to_owned(),
            ));
        };
        let (dataset, quarantine) = self.dataset()?;
        let sizes = Sizes {
            image_size: self.args.size,
            ..Sizes::default()
        };
        let model = Model::open_sized(weights, self.args.checkpoint, sizes, self.device)?;
        let grid = grid(&model, self.args.top, self.device)?;
        let (found, given);
        let provider: &dyn Provider = match (&self.args.detector, &self.args.boxes) {
            (Some(file), _) => {
                found = detector(grid, file, self.device)?;
                &found
            }
            (None, Some(file)) => {
                given = self.given(grid, file)?;
                &given
            }
            (None, None) => &grid,
        };
        let pictures = regions::pictures(&dataset);
        self.started = Instant::now();
        if self.ranks.count() > 1 {
            return self.among(&dataset, &pictures, provider, quarantine);
        }
        let mut writer = self.writer(&self.args.out, provider.set(), dataset.fingerprint())?;
        let (batch, mut bar) = (self.args.batch_size, None);
        let report = extract(
            &dataset,
            &pictures,
            provider,
            &mut writer,
            batch,
            &mut |step| {
                show(&mut bar, step, pictures.len());
            },
        )?;
        self.conclude(writer, provider.set(), report, quarantine)
    }

    /// Regions of pictures that ranks share: each makes small sets of some of them, and the first puts these
    /// together in the order of the pictures.
    fn among(
        self,
        dataset: &Dataset,
        pictures: &[regions::Picture],
        provider: &dyn Provider,
        quarantine: Quarantine,
    ) -> Result<(), CliError> {
        let (set, batch) = (provider.set(), self.args.batch_size);
        let mut writer = match self.ranks.is_first() {
            true => Some(self.writer(&self.args.out, set, dataset.fingerprint())?),
            false => None,
        };
        let left = ranks::left(self.ranks, || {
            let is_left = |picture: &regions::Picture| {
                !writer
                    .as_ref()
                    .is_some_and(|writer| writer.contains(&picture.name))
            };
            Ok(pictures.iter().map(is_left).collect())
        })?;
        let folder = self.args.out.with_extension("parts");
        let job = ranks::Job {
            what: "regions",
            things: "pictures",
            count: pictures.len(),
            part: PART,
            folder: &folder,
            of: json!({"regions": set, "data": dataset.fingerprint(), "half": self.args.half}),
        };
        let parts = job.share(self.ranks, |range, claim, done| {
            let folder = claim.folder();
            let mut writer = self.writer(&folder, set, String::new())?;
            let own = pictures
                .iter()
                .zip(&left)
                .skip(range.start)
                .take(range.len());
            let own = own.filter(|(_, left)| **left);
            let own: Vec<regions::Picture> = own.map(|(picture, _)| picture.clone()).collect();
            let mut before = 0;
            let report = extract(dataset, &own, provider, &mut writer, batch, &mut |step| {
                done(step.done - before);
                before = step.done;
            })?;
            writer.finish()?;
            report.refused.write_jsonl(folder.join(REFUSED_FILE))?;
            Ok(claim.keep()?)
        })?;
        let Some(mut writer) = writer.take() else {
            return Ok(());
        };
        let mut report = Report {
            skipped: left.iter().filter(|left| !**left).count(),
            ..Report::default()
        };
        for number in 0..job.parts() {
            let path = parts.path(number);
            // All of a part may be there already, or unusable.
            if regions::manifest(&path)?.is_some_and(|manifest| manifest.samples > 0) {
                let sources = regions::list(&path)?;
                let own = convert(&path, &sources, &mut writer, batch, &mut |_| {})?;
                report.written += own.written;
                report.regions += own.regions;
            }
            let refused = Quarantine::read_jsonl(path.join(REFUSED_FILE))?;
            report.refused.entries.extend(refused.entries);
        }
        self.conclude(writer, set, report, quarantine)?;
        Ok(parts.remove()?)
    }

    /// Given boxes before a tower.
    fn given<'g>(&self, grid: Grid<'g>, file: &Path) -> Result<Given<'g>, CliError> {
        let boxes = GivenBoxes::read(file)?;
        for reason in boxes.refused.iter().take(REFUSED) {
            note(&format!("warning: {}: {reason}", file.display()));
        }
        if boxes.refused.len() > REFUSED {
            let more = boxes.refused.len() - REFUSED;
            note(&format!("warning: and {more} more boxes are left out"));
        }
        let like = self.args.like.as_deref().map(RegionSet::look).transpose()?;
        Ok(Given::new(grid, boxes, like.as_ref())?)
    }

    /// Regions that came as files.
    fn files(self) -> Result<(), CliError> {
        let (path, sources, quarantine) = match &self.config.regions {
            // Those of a data set's pictures.
            Some(path) => {
                let opened = open_source(self.config)?;
                let samples = &opened.dataset.samples;
                let source = |picture: regions::Picture| {
                    let regions = samples.get(picture.sample)?.annotations.regions.clone()?;
                    Some((picture.name, regions))
                };
                let pictures = regions::pictures(&opened.dataset).into_iter();
                let sources: Vec<(String, RegionSource)> = pictures.filter_map(source).collect();
                (path.as_path(), sources, opened.quarantine)
            }
            None => {
                let path = Path::new(&self.config.source);
                (path, regions::list(path)?, Quarantine::default())
            }
        };
        let set = RegionSet::look(path)?;
        let names: Vec<&str> = sources.iter().map(|(name, _)| name.as_str()).collect();
        let data = regions::fingerprint(&names);
        let mut writer = self.writer(&self.args.out, &set, data)?;
        let (batch, mut bar) = (self.args.batch_size, None);
        let report = convert(path, &sources, &mut writer, batch, &mut |step| {
            show(&mut bar, step, sources.len());
        })?;
        self.conclude(writer, &set, report, quarantine)
    }

    /// A folder of pictures needs no texts here.
    fn dataset(&self) -> Result<(Dataset, Quarantine), CliError> {
        let path = Path::new(&self.config.source);
        if path.is_dir() {
            let source = readers::Source::look(path)?;
            let format = readers::recognise(&source, &self.config.options())?;
            if format.name == "folder" {
                let (dataset, _) = select(&readers::pictures(path)?, self.args.split)?;
                return Ok((dataset, Quarantine::default()));
            }
        }
        let opened = open_source(self.config)?;
        let (dataset, _) = select(&opened.dataset, self.args.split)?;
        Ok((dataset, opened.quarantine))
    }

    fn writer(
        &self,
        folder: &Path,
        set: &RegionSet,
        data: String,
    ) -> Result<RegionWriter, CliError> {
        let config = WriteConfig {
            set: set.clone(),
            form: match self.args.store {
                StoreArg::Shards => Form::Shards,
                StoreArg::Npz => Form::Npz,
            },
            shard: regions::SHARD_PICTURES,
            half: self.args.half,
            data,
        };
        Ok(RegionWriter::open(folder, config)?)
    }

    /// Writes the manifest and the list of what was refused, and says what was done.
    fn conclude(
        &self,
        writer: RegionWriter,
        set: &RegionSet,
        report: Report,
        mut refused: Quarantine,
    ) -> Result<(), CliError> {
        let manifest = writer.finish()?;
        refused.entries.extend(report.refused.entries);
        let list = self.args.out.join("quarantine.jsonl");
        if !refused.is_empty() {
            refused.write_jsonl(&list)?;
        }
        let seconds = self.started.elapsed().as_secs_f64();
        let written = Written {
            out: self.args.out.display().to_string(),
            provider: set.provider.clone(),
            pictures: report.written,
            skipped: report.skipped,
            regions: report.regions,
            dim: set.dim,
            refused: refused.len(),
            shards: manifest.shards.len(),
            hash: set.hash(),
            pictures_per_second: report.written as f64 / seconds.max(1e-9),
        };
        if self.global.json {
            output::json(&written)?;
        } else {
            output::result(&format!(
                "{} pictures, {} regions of {} numbers by `{}` in {}",
                written.pictures, written.regions, written.dim, written.provider, written.out
            ));
            note(&format!(
                "{:.1} pictures a second",
                written.pictures_per_second
            ));
            if written.skipped > 0 {
                note(&format!("{} pictures were there already", written.skipped));
            }
            if !refused.is_empty() {
                note(&format!(
                    "{} pictures cannot be used, see {}",
                    refused.len(),
                    list.display()
                ));
            }
        }
        let total = report.written + report.skipped + refused.len();
        let most = self.config.max_bad_rate;
        enforce_rate(refused.len(), total, most, Some(&list))?;
        Ok(())
    }
}

/// A model's image tower alone, which names regions where it can read names.
pub(crate) fn grid<'a>(
    model: &'a Model,
    most: usize,
    device: &'a Device,
) -> Result<Grid<'a>, CliError> {
    let tower = model.tower(device)?;
    let naming = match tower.is_aligned() {
        true => naming(model, device)?,
        false => None,
    };
    Ok(Grid::new(tower, naming, most))
}

/// A detector before a tower.
pub(crate) fn detector<'a>(
    grid: Grid<'a>,
    file: &Path,
    device: &'a Device,
) -> Result<Detector<'a>, CliError> {
    let (weights, digest) = Darknet::read(file)?;
    let network = YoloTiny::from_darknet(&weights, device).map_err(|error| {
        CliError::new(
            format!("{}: {error}", file.display()),
            "give the `yolov4-tiny.weights` that darknet publishes".to_owned(),
        )
    })?;
    Ok(Detector::new(grid, network, digest, device))
}

/// The names of objects and attributes in the model's own space, where it can read them.
fn naming(model: &Model, device: &Device) -> Result<Option<Naming>, CliError> {
    let embedder = model.embedder(device, Views::default());
    if embedder.tokenizer.is_none() {
        note("no tokenizer lies beside the weights: regions get no names");
        return Ok(None);
    }
    let embed = |names: &[vocabulary::Name], text: fn(&str) -> String| {
        let names: Vec<String> = names.iter().map(|name| name.name().to_owned()).collect();
        let texts: Vec<String> = names.iter().map(|name| text(name)).collect();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let embeds = embedder.texts(&texts, false, &mut |_| {})?.embeds;
        Ok::<_, CliError>(Names { names, embeds })
    };
    Ok(Some(Naming {
        objects: embed(vocabulary::objects(), |name| format!("a photo of a {name}"))?,
        attributes: embed(vocabulary::attributes(), |name| {
            format!("a photo of something {name}")
        })?,
    }))
}

/// Moves the bar, which counts what is left to do.
fn show(bar: &mut Option<Progress>, step: Step, total: usize) {
    let left = (total - step.skipped.min(total)) as u64;
    let bar = bar.get_or_insert_with(|| Progress::new("regions", left));
    let done = (step.done - step.skipped.min(step.done)) as u64;
    bar.set(done, "pictures");
    if step.done >= total {
        bar.finish();
    }
}

#[derive(Serialize)]
struct About {
    path: String,
    pictures: usize,
    shards: usize,
    #[serde(flatten)]
    set: RegionSet,
    hash: String,
    verified: bool,
    regions_per_picture: f64,
    neighbours_per_region: f64,
}

#[derive(Serialize)]
struct Region<'a> {
    region: usize,
    /// Corners in pixels, or fractions where the picture's size is not known.
    corners: [f32; 4],
    object: Option<&'a str>,
    object_confidence: Option<f32>,
    attribute: Option<&'a str>,
    attribute_confidence: Option<f32>,
}

fn inspect(args: &InspectRegionsArgs, global: &Global) -> Result<(), CliError> {
    let set = RegionSet::look(&args.path)?;
    if let Some(image) = &args.image {
        let found = regions::find(&args.path, image)?;
        if let (Some(picture), Some(out)) = (&args.picture, &args.draw) {
            draw_on(picture, &found, out)?;
            note(&format!(
                "{} regions drawn in {}",
                found.len(),
                out.display()
            ));
        }
        let rows = rows(&found, &set);
        return output::report(global, &rows, &table(&rows));
    }
    let manifest = regions::manifest(&args.path)?;
    let sources = regions::list(&args.path)?;
    if let (true, Some(manifest)) = (args.verify, &manifest) {
        regions::verify(&args.path, manifest)?;
    }
    let (mut count, mut neighbours, looked_at) = (0, 0, sources.len().min(LOOKED_AT));
    for (_, source) in sources.iter().take(LOOKED_AT) {
        let found = regions::read(source)?;
        count += found.len();
        neighbours += pairs(&found) * 2;
    }
    let about = About {
        path: args.path.display().to_string(),
        pictures: sources.len(),
        shards: manifest
            .as_ref()
            .map_or(0, |manifest| manifest.shards.len()),
        hash: set.hash(),
        verified: args.verify && manifest.is_some(),
        regions_per_picture: count as f64 / looked_at.max(1) as f64,
        neighbours_per_region: neighbours as f64 / count.max(1) as f64,
        set,
    };
    output::report(global, &about, &summary(&about))
}

/// Pairs of regions that are neighbours.
fn pairs(regions: &Regions) -> usize {
    let boxes = &regions.boxes;
    let after = |(at, one): (usize, &_)| {
        let later = boxes.iter().skip(at + 1);
        later
            .filter(|other| boxes::overlap(one, other) > NEIGHBOURS)
            .count()
    };
    boxes.iter().enumerate().map(after).sum()
}

fn summary(about: &About) -> String {
    let set = &about.set;
    let mut text = String::new();
    let mut line = |name: &str, value: String| {
        let _ = writeln!(text, "{name:<14}{value}");
    };
    line("provider", set.provider.clone());
    if let Some(settings) = set.settings.as_object() {
        for (name, value) in settings {
            line(&format!("  {name}"), value.to_string());
        }
    }
    for (name, digest) in &set.weights {
        line("weights", format!("{name} {digest}"));
    }
    line("features", format!("{} numbers", set.dim));
    let names = |names: &[String]| match names.len() {
        0 => "no names: ids are -1, or the source's own".to_owned(),
        count => format!("{count} names"),
    };
    line("objects", names(&set.objects));
    line("attributes", names(&set.attributes));
    line("hash", about.hash.clone());
    let verified = if about.verified {
        ", as they were written"
    } else {
        ""
    };
    line(
        "pictures",
        format!("{} in {} shards{verified}", about.pictures, about.shards),
    );
    line(
        "regions",
        format!(
            "{:.1} a picture, each with {:.1} neighbours (overlap above {NEIGHBOURS})",
            about.regions_per_picture, about.neighbours_per_region
        ),
    );
    text
}

fn rows<'a>(found: &Regions, set: &'a RegionSet) -> Vec<Region<'a>> {
    let (width, height) = found.size.map_or((1.0, 1.0), |(w, h)| (w as f32, h as f32));
    let name = |ids: &[i64], names: &'a [String], at: usize| {
        let id = usize::try_from(*ids.get(at)?).ok()?;
        names.get(id).map(String::as_str)
    };
    let row = |(at, rect): (usize, &chiasm_data::Rect)| Region {
        region: at,
        corners: [
            rect.x1 * width,
            rect.y1 * height,
            rect.x2 * width,
            rect.y2 * height,
        ],
        object: name(&found.classes, &set.objects, at),
        object_confidence: found.class_scores.get(at).copied(),
        attribute: name(&found.attributes, &set.attributes, at),
        attribute_confidence: found.attribute_scores.get(at).copied(),
    };
    found.boxes.iter().enumerate().map(row).collect()
}

fn table(rows: &[Region]) -> String {
    let mut text = format!(
        "{:>6}  {:>7} {:>7} {:>7} {:>7}  {}\n",
        "region", "left", "top", "right", "bottom", "what"
    );
    for row in rows {
        let [x1, y1, x2, y2] = row.corners;
        let _ = write!(
            text,
            "{:>6}  {x1:>7.1} {y1:>7.1} {x2:>7.1} {y2:>7.1}",
            row.region
        );
        let names = [
            (row.attribute, row.attribute_confidence),
            (row.object, row.object_confidence),
        ];
        let names = names
            .into_iter()
            .filter_map(|(name, score)| name.zip(score));
        for (name, score) in names {
            let _ = write!(text, "  {name} {score:.2}");
        }
        text.push('\n');
    }
    text
}

fn draw_on(picture: &Path, found: &Regions, out: &Path) -> Result<(), CliError> {
    let failed =
        |path: &Path, error: String| CliError::new(format!("{}: {error}", path.display()), None);
    let bytes = chiasm_data::ImageSource::Path(picture.to_owned());
    let bytes = bytes.read()?;
    let mut rgb = decode(&bytes, &Limits::default(), true, AlphaRule::default())
        .map_err(|error| failed(picture, error.to_string()))?;
    draw::boxes(&mut rgb, &found.boxes);
    let png = thumbnail::png(&rgb).map_err(|error| failed(out, error.to_string()))?;
    chiasm_data::atomic::write_bytes(out, &png).map_err(|error| failed(out, error.to_string()))
}

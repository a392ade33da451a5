//! What can be typed. Help, completions and the man page are made from these definitions.

use std::path::PathBuf;

use chiasm_data::Split;
use chiasm_nn::compute::Kernels;
use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

use crate::commands::curate::CurateArgs;
use crate::commands::explain::ExplainArgs;
use crate::commands::probe::ProbeArgs;
use crate::commands::push::IndexCommand;
use crate::commands::relate::RelateArgs;
use crate::commands::serve::ServeArgs;
use crate::ranks::RankArgs;

/// Align pictures and text: train, evaluate and search vision-language models.
#[derive(Debug, Parser)]
#[command(
    name = "chiasm",
    version,
    propagate_version = true,
    max_term_width = 100
)]
pub(crate) struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
    /// Options of every command.
    #[command(flatten)]
    pub(crate) global: Global,
}

/// Options of every command.
#[derive(Args, Debug, Clone)]
pub(crate) struct Global {
    /// Worker threads [default: one a core]
    #[arg(long, global = true, env = "CHIASM_THREADS", value_name = "N")]
    pub(crate) threads: Option<usize>,
    /// Where to compute: `cpu`, or `cuda`, `rocm`, `vulkan`, `metal` when built in; `cuda:1` for
    /// the second GPU
    #[arg(
        long,
        global = true,
        env = "CHIASM_DEVICE",
        default_value = "cpu",
        value_name = "DEVICE"
    )]
    pub(crate) device: String,
    /// How layers are computed on a CPU: `fused` is several times faster, `plain` is the reference
    #[arg(
        long,
        global = true,
        env = chiasm_nn::compute::ENVIRONMENT,
        default_value = "fused",
        value_name = "KIND"
    )]
    pub(crate) kernels: KernelsArg,
    /// Print results as JSON on stdout
    #[arg(long, global = true)]
    pub(crate) json: bool,
}

/// `--kernels`.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum KernelsArg {
    /// Fused operations
    Fused,
    /// Plain tensor operations
    Plain,
}

impl From<KernelsArg> for Kernels {
    fn from(kernels: KernelsArg) -> Self {
        match kernels {
            KernelsArg::Fused => Self::Fused,
            KernelsArg::Plain => Self::Plain,
        }
    }
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Train a small model on the built-in drawings, evaluate it, and search with it
    Quickstart(QuickstartArgs),
    /// Train a model as a recipe says, from the start or from other weights, then evaluate it
    #[command(visible_alias = "finetune")]
    Pretrain(Box<PretrainArgs>),
    /// Show what a step of a recipe computes and what it costs, without data
    Plan(PlanArgs),
    /// Evaluate a model: retrieval, or the classes it was trained for
    Eval(Box<EvalArgs>),
    /// Measure how well attention finds what words name
    Align(Box<AlignArgs>),
    /// Show why a model says what it says: maps of words on the picture; or score such maps
    Explain(Box<ExplainArgs>),
    /// Find the threshold at which attention keeps a wanted share
    Calibrate(Box<CalibrateArgs>),
    /// Read how text and picture relate from frozen features, with probes fitted on labelled pairs
    Probe(Box<ProbeArgs>),
    /// Say how a text and a picture relate, with a relation model that `probe` wrote
    Relate(Box<RelateArgs>),
    /// Compute the figures of any predictions file again
    Score(ScoreArgs),
    /// Show the scene graph of a caption and of a picture's regions, or score such graphs
    Graph(GraphArgs),
    /// Look at data before using it
    Data(DataArgs),
    /// Make features of regions from pictures, or look at them
    Regions(RegionsArgs),
    /// Write a recipe for your own data
    New(NewArgs),
    /// Embed pictures, clips and texts into a folder that can be searched, or push one into a database
    Index(IndexCommand),
    /// Find pictures with words
    Search(SearchArgs),
    /// Serve models over HTTP, with a page to search, ask and see why
    Serve(Box<ServeArgs>),
    /// Write the embeddings of pictures and texts into a file
    Embed(EmbedArgs),
    /// Choose the pairs of a table that are worth keeping, and say why of the others
    Curate(Box<CurateArgs>),
    /// Show what a checkpoint holds, without loading it
    Inspect(InspectArgs),
    /// Write weights of any readable form as a clean Hugging Face folder
    Convert(ConvertArgs),
    /// Show recipes and their schema
    Recipe(RecipeArgs),
    /// Print a completion script for a shell
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Print the manual page
    Man,
}

/// `chiasm quickstart`.
#[derive(Args, Debug)]
pub(crate) struct QuickstartArgs {
    /// Folder of the run [default: runs/quickstart, or the next free name]
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
    /// Seed of weights, data order and masks
    #[arg(long, value_name = "N")]
    pub(crate) seed: Option<u64>,
    /// Optimiser steps, instead of the recipe's
    #[arg(long, value_name = "N")]
    pub(crate) steps: Option<u64>,
}

/// Where data comes from, on the command line.
#[derive(Args, Debug, Clone, Default)]
pub(crate) struct SourceArgs {
    /// Format of the data, see `chiasm data formats` [default: recognised]
    #[arg(long, value_name = "NAME")]
    pub(crate) format: Option<String>,
    /// File with answers or objects, where a format keeps them apart [default: the one beside the
    /// data]
    #[arg(long, value_name = "FILE")]
    pub(crate) annotations: Option<PathBuf>,
    /// Column with image paths [default: guessed]
    #[arg(long, value_name = "NAME")]
    pub(crate) image_column: Option<String>,
    /// Column with texts [default: guessed]
    #[arg(long, value_name = "NAME")]
    pub(crate) text_column: Option<String>,
    /// Column with train, val or test [default: `split` if there is one]
    #[arg(long, value_name = "NAME")]
    pub(crate) split_column: Option<String>,
    /// Column with the answer to a question [default: guessed]
    #[arg(long, value_name = "NAME")]
    pub(crate) answer_column: Option<String>,
    /// Column with the class of a row [default: guessed]
    #[arg(long, value_name = "NAME")]
    pub(crate) label_column: Option<String>,
    /// Column with the words that are written in the picture [default: guessed]
    #[arg(long, value_name = "NAME")]
    pub(crate) ocr_column: Option<String>,
    /// Column with what a machine says of the picture [default: guessed]
    #[arg(long, value_name = "NAME")]
    pub(crate) caption_column: Option<String>,
    /// Column with who wrote the text; rows of an author stay on one side of a split [default: guessed]
    #[arg(long, value_name = "NAME")]
    pub(crate) author_column: Option<String>,
    /// Column with 1 where the text is shown in the picture, else 0 [default: `text_is_represented` if
    /// there is one]
    #[arg(long, value_name = "NAME")]
    pub(crate) represented_column: Option<String>,
    /// Column with 1 where the picture adds to the text, else 0 [default: `image_adds` if there is one]
    #[arg(long, value_name = "NAME")]
    pub(crate) adds_column: Option<String>,
    /// Folder that image paths are relative to [default: the table's, or `images` in it]
    #[arg(long, value_name = "DIR")]
    pub(crate) image_root: Option<PathBuf>,
    /// Features of regions for the pictures: what `chiasm regions extract` wrote, a folder of .npz
    /// files, or a .tsv with its .lineidx
    #[arg(long, value_name = "PATH")]
    pub(crate) regions: Option<PathBuf>,
    /// Table with the columns `id` and `split`, whose splits count instead of the data's
    #[arg(long, value_name = "FILE")]
    pub(crate) splits: Option<PathBuf>,
    /// Frames taken of every clip [default: 4 where the model takes clips]
    #[arg(long, value_name = "N")]
    pub(crate) frames: Option<usize>,
    /// Share of unusable samples above which the command stops [default: 0.001]
    #[arg(long, value_name = "SHARE")]
    pub(crate) max_bad_rate: Option<f64>,
}

/// `chiasm pretrain`.
#[derive(Args, Debug)]
pub(crate) struct PretrainArgs {
    /// Recipe file, or the name of a built-in recipe (see `chiasm recipe list`)
    pub(crate) recipe: String,
    #[command(flatten)]
    pub(crate) set: SetArgs,
    /// Data instead of the recipe's: a CSV, TSV, JSON-lines, Parquet or Karpathy file, or a folder
    /// of pictures with texts beside them
    #[arg(long, value_name = "PATH")]
    pub(crate) data: Option<String>,
    #[command(flatten)]
    pub(crate) source: SourceArgs,
    /// Splits that are trained on, such as `train,val` [default: the recipe's, `train`]
    #[arg(long, value_name = "SPLITS", value_delimiter = ',')]
    pub(crate) train_splits: Vec<Split>,
    /// Further data to learn from, instead of the recipe's; `PATH=WEIGHT` says how often a batch comes
    /// from it where the first one has 1. May be given several times
    #[arg(long, value_name = "PATH")]
    pub(crate) mix: Vec<String>,
    /// Begin with this model's weights: a run, a model folder, or a published checkpoint
    #[arg(long, value_name = "PATH")]
    pub(crate) weights: Option<PathBuf>,
    /// Begin with this text tower: a folder with BERT, RoBERTa or a sentence encoder
    #[arg(long, value_name = "PATH")]
    pub(crate) weights_text: Option<PathBuf>,
    /// Begin with this image tower: CLIP, ViT or DINOv2
    #[arg(long, value_name = "PATH")]
    pub(crate) weights_vision: Option<PathBuf>,
    /// Show the model grey pictures: a baseline of texts alone
    #[arg(long)]
    pub(crate) blind: bool,
    /// Attention keeps only what passes a threshold: a rule and its value, such as `prob_abs=0.01`, or
    /// `off` [default: the recipe's]
    #[arg(long, value_name = "RULE=VALUE")]
    pub(crate) select: Option<String>,
    /// Which knowledge hides words and regions in `[objectives.knowledge]` [default: the recipe's]
    #[arg(long, value_enum)]
    pub(crate) masking: Option<MaskingArg>,
    /// What is learned of unlabelled pairs, in ITR's numbers: 1 groups of text and image, 2 of text and
    /// OCR text, 3 of text and caption, 4 the contrast; one of 1, 2, 3, 4, 1+4, 2+4, 3+4, or 0, which learns
    /// the labels of labelled pairs [default: the recipe's objectives]
    #[arg(long, value_name = "TASKS")]
    pub(crate) tasks: Option<String>,
    /// Keep the inputs of transformer blocks alone for the backward pass and make the rest again: less
    /// memory, more time, the same gradients [default: as the recipe says]
    #[arg(long)]
    pub(crate) gradient_checkpointing: bool,
    /// Most memory that a step may take, such as `4G` or `900M`: with gradient checkpointing where that
    /// helps, and in as few micro-batches as hold in it [default: as the recipe says]
    #[arg(long, value_name = "SIZE", value_parser = bytes)]
    pub(crate) memory: Option<u64>,
    /// Build the model, check it against its weights, print the plan and stop; needs no data
    #[arg(long, conflicts_with = "resume")]
    pub(crate) dry_run: bool,
    /// Folder of the run [default: runs/NAME]
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
    /// Go on from the newest checkpoint in the run's folder
    #[arg(long)]
    pub(crate) resume: bool,
    /// Seed of weights, data order and masks, instead of the recipe's
    #[arg(long, value_name = "N")]
    pub(crate) seed: Option<u64>,
    /// Optimiser steps, instead of the recipe's
    #[arg(long, value_name = "N")]
    pub(crate) steps: Option<u64>,
    #[command(flatten)]
    pub(crate) ranks: RankArgs,
}

/// Keys of a recipe that are typed.
#[derive(Args, Debug, Default)]
pub(crate) struct SetArgs {
    /// Another value of any key of the recipe, such as `schedule.batch_size=64`; may be given several times
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) set: Vec<String>,
}

/// `chiasm plan`.
#[derive(Args, Debug)]
pub(crate) struct PlanArgs {
    /// Recipe file, or the name of a built-in recipe (see `chiasm recipe list`)
    pub(crate) recipe: String,
    #[command(flatten)]
    pub(crate) set: SetArgs,
    /// Frames of every clip [default: the recipe's, else 1]
    #[arg(long, value_name = "N")]
    pub(crate) frames: Option<usize>,
    /// Mean tokens of a text, special ones included [default: 16, or the recipe's longest]
    #[arg(long, value_name = "N")]
    pub(crate) text_len: Option<usize>,
}

/// Which samples.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum SplitArg {
    /// Training samples
    Train,
    /// Validation samples
    Val,
    /// Test samples
    Test,
    /// All samples
    All,
}

impl SplitArg {
    /// The split, unless it is all of them.
    pub(crate) fn one(self) -> Option<Split> {
        match self {
            Self::Train => Some(Split::Train),
            Self::Val => Some(Split::Val),
            Self::Test => Some(Split::Test),
            Self::All => None,
        }
    }
}

/// Which checkpoint of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum CheckpointArg {
    /// The newest
    Last,
    /// The one with the best figure on the validation split
    Best,
}

/// How a model is opened that is only read.
#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct ReadArgs {
    /// Which checkpoint of a run
    #[arg(long, value_enum, default_value = "last")]
    pub(crate) checkpoint: CheckpointArg,
    /// In what matrices are multiplied; docs/guides/precision.md has what fewer bits cost
    #[arg(long, value_enum, default_value = "f32", value_name = "PRECISION")]
    pub(crate) precision: PrecisionArg,
}

/// In what a model's matrices are multiplied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum PrecisionArg {
    /// As they are
    F32,
    /// In 16 bits: faster on GPUs and on CPUs with AVX-512 BF16, hardly less exact
    Bf16,
    /// In 8 bits: faster still on CPUs with AVX-512 VNNI, a little less exact
    Int8,
}

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum EvalTask {
    /// What the model was trained for: classes, the region of a text, or else retrieval
    Auto,
    /// Find pictures or clips by texts, and texts by pictures
    Retrieval,
    /// The class of every pair: answers, truth, relation
    Classes,
    /// The region that a text refers to
    Grounding,
}

/// `chiasm align`.
#[derive(Args, Debug)]
pub(crate) struct AlignArgs {
    /// Folder of a run, or a model folder
    pub(crate) run: PathBuf,
    /// Phrases with boxes or masks, such as ALIGN-BENCH, Flickr30k Entities or phrases.jsonl
    #[arg(long, value_name = "PATH")]
    pub(crate) data: Option<String>,
    #[command(flatten)]
    pub(crate) source: SourceArgs,
    /// Which checkpoint of a run
    #[arg(long, value_enum, default_value = "last")]
    pub(crate) checkpoint: CheckpointArg,
    /// Which samples
    #[arg(long, value_enum, default_value = "test")]
    pub(crate) split: SplitArg,
    /// Pictures at most
    #[arg(long, value_name = "N")]
    pub(crate) limit: Option<usize>,
    /// Predictions file [default: RUN/alignment-SPLIT.jsonl]
    #[arg(long, value_name = "FILE")]
    pub(crate) predictions: Option<PathBuf>,
}

/// Which knowledge leads masks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum MaskingArg {
    /// Nothing is hidden
    None,
    /// Words and regions alike
    Random,
    /// What lies close to a hidden one in its own modality
    Intra,
    /// What of the other modality says little about it
    Cross,
    /// Both
    Both,
}

/// `chiasm calibrate`.
#[derive(Args, Debug)]
pub(crate) struct CalibrateArgs {
    /// Folder of a run, or a model folder
    pub(crate) run: PathBuf,
    /// Which checkpoint of a run
    #[arg(long, value_enum, default_value = "last")]
    pub(crate) checkpoint: CheckpointArg,
    /// Rule whose value is looked for; all of them without
    #[arg(long, value_name = "RULE")]
    pub(crate) rule: Option<String>,
    /// Share of attention's keys that is to be kept
    #[arg(long, value_name = "SHARE", default_value = "0.5")]
    pub(crate) keep: f64,
    /// Which samples
    #[arg(long, value_enum, default_value = "val")]
    pub(crate) split: SplitArg,
    /// Samples looked at, at most
    #[arg(long, value_name = "N", default_value = "1000")]
    pub(crate) limit: usize,
    /// Data instead of the run's
    #[arg(long, value_name = "PATH")]
    pub(crate) data: Option<String>,
    #[command(flatten)]
    pub(crate) source: SourceArgs,
}

/// `chiasm eval`.
#[derive(Args, Debug)]
pub(crate) struct EvalArgs {
    /// Folder of a run, a model folder, or a file with published weights
    pub(crate) run: PathBuf,
    #[command(flatten)]
    pub(crate) read: ReadArgs,
    /// Which samples
    #[arg(long, value_enum, default_value = "test")]
    pub(crate) split: SplitArg,
    /// Data instead of the run's
    #[arg(long, value_name = "PATH")]
    pub(crate) data: Option<String>,
    #[command(flatten)]
    pub(crate) source: SourceArgs,
    /// What is measured
    #[arg(long, value_enum, default_value = "auto")]
    pub(crate) task: EvalTask,
    /// Candidates of each query that the fusion encoder re-ranks; 0 = none [default: the recipe's]
    #[arg(long, value_name = "N")]
    pub(crate) shortlist: Option<usize>,
    /// Let the fusion encoder score all pairs, and compare that with re-ranking the shortlist
    #[arg(long)]
    pub(crate) exhaustive: bool,
    /// Show the model grey pictures: a baseline of texts alone
    #[arg(long)]
    pub(crate) blind: bool,
    /// Attention keeps only what passes a threshold: a rule and its value, such as `prob_abs=0.01`, or
    /// `off` [default: as the model was trained]
    #[arg(long, value_name = "RULE=VALUE")]
    pub(crate) select: Option<String>,
    /// Also write the predicted classes for a leaderboard: answers as VQA v2's JSON, true and false as
    /// NLVR2's lines
    #[arg(long, value_name = "FILE")]
    pub(crate) submission: Option<PathBuf>,
    /// Predictions file [default: RUN/predictions-SPLIT.safetensors, .jsonl for classes, with the
    /// data's name where `--data` is given]
    #[arg(long, value_name = "FILE")]
    pub(crate) predictions: Option<PathBuf>,
}

/// How a tie between a right and a wrong candidate counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum TieArg {
    /// As a miss: a model that scores everything equal gets nothing
    Pessimistic,
    /// As a hit
    Optimistic,
    /// The candidate that comes first in the data wins, as a stable sort does
    Stable,
}

/// `chiasm score`.
#[derive(Args, Debug)]
pub(crate) struct ScoreArgs {
    /// A predictions file
    pub(crate) predictions: PathBuf,
    /// How ties count
    #[arg(long, value_enum, default_value = "pessimistic")]
    pub(crate) ties: TieArg,
}

/// How the graph of a caption is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum GraphForm {
    /// A fact a line
    Text,
    /// The DOT language of Graphviz
    Dot,
    /// Numbers of words, as this field stores graphs beside captions; without regions
    Tsg,
}

/// `chiasm graph`.
#[derive(Args, Debug)]
pub(crate) struct GraphArgs {
    /// The caption
    #[arg(required_unless_present_any = ["data", "regions"])]
    pub(crate) caption: Option<String>,
    /// Regions of the picture, a .npz file: how they lie to each other, and what of the caption they show
    #[arg(long, value_name = "FILE", conflicts_with = "data")]
    pub(crate) regions: Option<PathBuf>,
    /// Word vectors that say what of the caption the regions show, a text file such as GloVe's [default: a
    /// built-in list of synonyms]
    #[arg(long, value_name = "FILE", requires = "regions", requires = "caption")]
    pub(crate) vectors: Option<PathBuf>,
    /// How the graph is printed
    #[arg(long, value_enum, default_value = "text", conflicts_with = "data")]
    pub(crate) format: GraphForm,
    /// Captions instead: a JSON object with `caption` a line. Prints each with its graph, a line each
    #[arg(long, value_name = "FILE", conflicts_with = "caption")]
    pub(crate) data: Option<PathBuf>,
    /// Score the graphs against those in the data, written as FACTUAL writes them
    #[arg(long, requires = "data", conflicts_with = "caption")]
    pub(crate) score: bool,
    /// Score these graphs, lines as `--data` prints them, instead of our own
    #[arg(long, value_name = "FILE", requires = "score")]
    pub(crate) predictions: Option<PathBuf>,
    /// Count synonyms of the built-in list as the same word
    #[arg(long, requires = "score")]
    pub(crate) synonyms: bool,
}

/// `chiasm data`.
#[derive(Args, Debug)]
pub(crate) struct DataArgs {
    /// What to do with the data
    #[command(subcommand)]
    pub(crate) command: DataCommand,
}

/// What to do with data.
#[derive(Debug, Subcommand)]
pub(crate) enum DataCommand {
    /// Describe the formats that can be read
    Formats,
    /// Read every row and decode every picture; list what cannot be used and why
    Check {
        /// A CSV, TSV, JSON-lines, Parquet or Karpathy file, a folder of pictures with texts
        /// beside them, or `builtin:emoji`
        path: String,
        #[command(flatten)]
        source: Box<SourceArgs>,
        /// Where to write the list of unusable samples
        #[arg(long, value_name = "FILE", default_value = "quarantine.jsonl")]
        quarantine: PathBuf,
        #[command(flatten)]
        ranks: RankArgs,
    },
    /// Find samples of B that A already holds: same bytes, same look, same id, same text
    Audit(Box<AuditArgs>),
    /// Decode clips once and write their frames as WebDataset shards
    Frames(Box<FramesArgs>),
    /// Write the answer vocabulary of visual questions
    Answers(Box<AnswersArgs>),
}

/// Which frames of a clip.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum SamplingArg {
    /// The middle of each of as many equal segments
    Centres,
    /// Evenly from the first frame to the last
    FirstToLast,
    /// A random frame of each segment
    Random,
}

/// `chiasm data frames`.
#[derive(Args, Debug)]
pub(crate) struct FramesArgs {
    /// Clips, in any format of `chiasm data formats`
    pub(crate) data: String,
    #[command(flatten)]
    pub(crate) source: SourceArgs,
    /// Folder of the shards; what is there already is not decoded again
    #[arg(long, value_name = "DIR", default_value = "frames")]
    pub(crate) out: PathBuf,
    /// Frames taken of each clip
    #[arg(long, value_name = "N", default_value_t = 12)]
    pub(crate) frames: usize,
    /// Which frames
    #[arg(long, value_enum, default_value = "centres")]
    pub(crate) sampling: SamplingArg,
    /// Seed of `--sampling random`
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) seed: u64,
    /// Scale frames whose short side is longer down to so many pixels [default: as they are]
    #[arg(long, value_name = "PIXELS")]
    pub(crate) size: Option<usize>,
    /// JPEG quality, 1 to 100; 0 writes PNG, without loss
    #[arg(long, value_name = "N", default_value_t = 90)]
    pub(crate) quality: u8,
}

/// `chiasm data answers`.
#[derive(Args, Debug)]
pub(crate) struct AnswersArgs {
    /// Questions with answers; several are taken together. Samples of `test` splits are left out
    #[arg(required = true)]
    pub(crate) data: Vec<String>,
    #[command(flatten)]
    pub(crate) source: SourceArgs,
    /// File to write
    #[arg(long, value_name = "FILE", default_value = "answers.json")]
    pub(crate) out: PathBuf,
    /// Questions that an answer must be the most frequent one of
    #[arg(long, value_name = "N", default_value_t = chiasm_data::answers::MIN_COUNT)]
    pub(crate) least: usize,
    /// Write a plain list, not the two maps of the published code
    #[arg(long)]
    pub(crate) list: bool,
}

/// `chiasm data audit`.
#[derive(Args, Debug)]
pub(crate) struct AuditArgs {
    /// Data that was seen, for example in training: any data, or DATA:SPLIT, such as
    /// `pairs.csv:train`
    #[arg(value_name = "A")]
    pub(crate) seen: String,
    /// Data that should be new, in the same way
    #[arg(value_name = "B")]
    pub(crate) tested: String,
    /// Split of A [default: what stands after its last colon, else all]
    #[arg(long, value_name = "SPLIT")]
    pub(crate) split_a: Option<Split>,
    /// Split of B [default: what stands after its last colon, else all]
    #[arg(long, value_name = "SPLIT")]
    pub(crate) split_b: Option<Split>,
    #[command(flatten)]
    pub(crate) source: SourceArgs,
    /// Where to write the ids of the affected samples of B, by kind, as JSON
    #[arg(long, value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) ranks: RankArgs,
}

/// `chiasm regions`.
#[derive(Args, Debug)]
pub(crate) struct RegionsArgs {
    /// What to do with regions
    #[command(subcommand)]
    pub(crate) command: RegionsCommand,
}

/// What to do with regions.
#[derive(Debug, Subcommand)]
pub(crate) enum RegionsCommand {
    /// Find boxes of things in pictures and write a feature for each
    Extract(Box<ExtractArgs>),
    /// Show what made a set of regions, and the regions of a picture
    Inspect(InspectRegionsArgs),
}

/// Who finds the boxes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ProviderArg {
    /// The image tower alone: neighbouring places that look alike are one region
    Grid,
    /// YOLOv4-tiny, with boxes of the tower where it finds too few
    Detector,
    /// A file, `--boxes`: those that people drew, or another detector's
    Boxes,
    /// Nobody: DATA are features that came as files
    Files,
}

/// How a set of regions lies on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum StoreArg {
    /// Tars of archives
    Shards,
    /// A .npz a picture
    Npz,
}

/// `chiasm regions extract`.
#[derive(Args, Debug)]
pub(crate) struct ExtractArgs {
    /// Pictures: a folder of them, or data in any format of `chiasm data formats`. With `--provider
    /// files` the features: a set, a folder of .npz files, or a .tsv
    pub(crate) data: String,
    #[command(flatten)]
    pub(crate) source: SourceArgs,
    /// Which samples' pictures
    #[arg(long, value_enum, default_value = "all")]
    pub(crate) split: SplitArg,
    /// Folder of the set; pictures that are there already are left out
    #[arg(long, value_name = "DIR", default_value = "regions")]
    pub(crate) out: PathBuf,
    /// Who finds the boxes [default: `detector` where `--detector` is given, `boxes` where `--boxes` is,
    /// else `grid`]
    #[arg(long, value_enum)]
    pub(crate) provider: Option<ProviderArg>,
    /// Boxes of the pictures in COCO's form, such as RefCOCO's `instances.json`
    #[arg(long, value_name = "FILE", conflicts_with = "detector")]
    pub(crate) boxes: Option<PathBuf>,
    /// Let given boxes stand in for those of this set: models that learned from it take them
    #[arg(long, value_name = "REGIONS", requires = "boxes")]
    pub(crate) like: Option<PathBuf>,
    /// Image tower that features come from: CLIP, ViT, DINOv2, a convolutional network, or a run.
    /// CLIP and runs also name regions by the nearest text
    #[arg(long, value_name = "PATH")]
    pub(crate) weights_vision: Option<PathBuf>,
    /// Which checkpoint of a run
    #[arg(long, value_enum, default_value = "last")]
    pub(crate) checkpoint: CheckpointArg,
    /// Weights of YOLOv4-tiny, as darknet writes them
    #[arg(long, value_name = "FILE")]
    pub(crate) detector: Option<PathBuf>,
    /// Regions of a picture at most
    #[arg(long, value_name = "N", default_value_t = 36)]
    pub(crate) top: usize,
    /// Side that pictures are scaled to for the tower, in pixels [default: the tower's own]
    #[arg(long, value_name = "PIXELS")]
    pub(crate) size: Option<usize>,
    /// How the set lies on the disk
    #[arg(long, value_enum, default_value = "shards")]
    pub(crate) store: StoreArg,
    /// Store features in half precision
    #[arg(long)]
    pub(crate) half: bool,
    /// Pictures that go through the tower together
    #[arg(long, value_name = "N", default_value_t = 16)]
    pub(crate) batch_size: usize,
    #[command(flatten)]
    pub(crate) ranks: RankArgs,
}

/// `chiasm regions inspect`.
#[derive(Args, Debug)]
pub(crate) struct InspectRegionsArgs {
    /// What `chiasm regions extract` wrote, a folder of .npz files, or a .tsv
    pub(crate) path: PathBuf,
    /// Show the regions of this picture: its name, with or without extension, or COCO's number
    #[arg(long, value_name = "ID")]
    pub(crate) image: Option<String>,
    /// The picture's file, to draw its regions on
    #[arg(long, value_name = "FILE", requires = "image", requires = "draw")]
    pub(crate) picture: Option<PathBuf>,
    /// Draw the regions and write them as PNG
    #[arg(long, value_name = "FILE", requires = "picture")]
    pub(crate) draw: Option<PathBuf>,
    /// Read everything and compare it with the hashes of the set
    #[arg(long)]
    pub(crate) verify: bool,
}

/// What a recipe is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum TaskArg {
    /// What the data is good for
    Auto,
    /// Find pictures by words, and words by pictures
    Retrieval,
    /// Answer questions about pictures
    Answers,
    /// Tell the label of a text with its picture or pictures
    Labels,
}

/// `chiasm new`.
#[derive(Args, Debug)]
pub(crate) struct NewArgs {
    /// Your data, in any format of `chiasm data formats`
    #[arg(long, value_name = "PATH")]
    pub(crate) from: String,
    /// What the model is for
    #[arg(long, value_enum, default_value = "auto")]
    pub(crate) task: TaskArg,
    /// Folder of the recipe [default: the data's name]
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
    /// Make new splits also where the data has its own
    #[arg(long)]
    pub(crate) resplit: bool,
    #[command(flatten)]
    pub(crate) source: SourceArgs,
}

/// `chiasm search`.
#[derive(Args, Debug)]
pub(crate) struct SearchArgs {
    /// An index, in its folder or behind the address that it was pushed to; or what would be embedded for
    /// this search alone: the folder of a run, a model folder, or a file with published weights
    #[arg(value_name = "INDEX|RUN")]
    pub(crate) run: PathBuf,
    #[command(flatten)]
    pub(crate) read: ReadArgs,
    /// The model that made the index, where it is now [default: where it was]
    #[arg(long, value_name = "MODEL")]
    pub(crate) model: Option<PathBuf>,
    /// What items of an index must fulfil, such as `split=test and label!=cat`
    #[arg(long, value_name = "FILTER")]
    pub(crate) filter: Option<String>,
    /// Look at every item of an index, also where there is a graph for approximate search
    #[arg(long)]
    pub(crate) exact: bool,
    /// Let the fusion encoder rank this many again that an index found
    #[arg(long, value_name = "N")]
    pub(crate) rerank: Option<usize>,
    /// What to look for; each argument is one search
    #[arg(required_unless_present = "like")]
    pub(crate) words: Vec<String>,
    /// Look for pictures like this one; may be given several times
    #[arg(long, value_name = "IMAGE")]
    pub(crate) like: Vec<PathBuf>,
    /// Also write what was found as a page with pictures
    #[arg(long, value_name = "FILE")]
    pub(crate) page: Option<PathBuf>,
    /// Pictures shown a search
    #[arg(long, short = 'n', default_value_t = 5, value_name = "N")]
    pub(crate) top: usize,
    /// Which pictures to search
    #[arg(long, value_enum, default_value = "all")]
    pub(crate) split: SplitArg,
    /// Data instead of the run's
    #[arg(long, value_name = "PATH")]
    pub(crate) data: Option<String>,
    #[command(flatten)]
    pub(crate) source: SourceArgs,
}

/// `chiasm embed`.
#[derive(Args, Debug)]
pub(crate) struct EmbedArgs {
    /// Folder of a run, a model folder, or a file with published weights
    pub(crate) model: PathBuf,
    #[command(flatten)]
    pub(crate) read: ReadArgs,
    /// Which samples
    #[arg(long, value_enum, default_value = "all")]
    pub(crate) split: SplitArg,
    /// Data instead of the run's
    #[arg(long, value_name = "PATH")]
    pub(crate) data: Option<String>,
    #[command(flatten)]
    pub(crate) source: SourceArgs,
    /// Write the vector of every pair of a picture and one of its texts instead, as heads over pairs read it
    #[arg(long)]
    pub(crate) pairs: bool,
    /// File to write, safetensors: `image_embeds`, `text_embeds`, `image_of_text`; ids, splits, labels and
    /// ratings of the samples; with `--pairs` `pair_vectors`, a row a text,
    /// in place of the first two
    #[arg(long, value_name = "FILE", default_value = "embeddings.safetensors")]
    pub(crate) out: PathBuf,
    #[command(flatten)]
    pub(crate) ranks: RankArgs,
}

/// `chiasm convert`.
#[derive(Args, Debug)]
pub(crate) struct ConvertArgs {
    /// Folder of a run, a model folder, or a file with weights
    pub(crate) input: PathBuf,
    /// Folder to write; must not hold anything
    pub(crate) output: PathBuf,
    /// Which checkpoint of a run
    #[arg(long, value_enum, default_value = "last")]
    pub(crate) checkpoint: CheckpointArg,
}

/// `chiasm inspect`.
#[derive(Args, Debug)]
pub(crate) struct InspectArgs {
    /// A file with weights (safetensors; PyTorch .bin, .pt, .pth, .ckpt, .pkl), or a folder with one
    pub(crate) path: PathBuf,
    /// List every tensor, not one line for equal ones of all layers
    #[arg(long)]
    pub(crate) tensors: bool,
}

/// `chiasm recipe`.
#[derive(Args, Debug)]
pub(crate) struct RecipeArgs {
    /// What to show
    #[command(subcommand)]
    pub(crate) command: RecipeCommand,
}

/// What to show of recipes.
#[derive(Debug, Subcommand)]
pub(crate) enum RecipeCommand {
    /// Names of the built-in recipes
    List,
    /// A recipe with every value spelled out
    Show {
        /// Recipe file or built-in name
        recipe: String,
    },
    /// JSON schema of recipe files
    Schema,
}

/// A size as it is typed: bytes, or thousands, millions or thousand millions of them.
fn bytes(typed: &str) -> Result<u64, String> {
    let wrong = || "write a number of bytes, with K, M or G behind it if you like".to_owned();
    let number = typed.trim_end_matches(['k', 'K', 'm', 'M', 'g', 'G', 'B', 'b', 'i']);
    let unit = match typed
        .as_bytes()
        .get(number.len())
        .map(u8::to_ascii_lowercase)
    {
        Some(b'k') => 1e3,
        Some(b'm') => 1e6,
        Some(b'g') => 1e9,
        _ => 1.0,
    };
    let value: f64 = number.parse().map_err(|_| wrong())?;
    match value.is_finite() && value > 0.0 {
        true => Ok((value * unit) as u64),
        false => Err(wrong()),
    }
}

//! `chiasm serve`: models over HTTP, with a page.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use burn::tensor::Device;
use chiasm_index::Store;
use chiasm_serve::{
    Card, Config, Engine as _, FetchConfig, Keys, ModelQueue, Parts, PictureLimits, QueueConfig,
    Scope,
};
use clap::Args;

use crate::cli::{Global, ReadArgs};
use crate::commands::relate::Relater;
use crate::error::CliError;
use crate::output::{self, note};
use crate::regional::RegionalArgs;
use crate::serving::Served;
use crate::{device, store};

/// `chiasm serve`.
#[derive(Args, Debug)]
pub(crate) struct ServeArgs {
    /// Models: folders of runs, model folders, or files with published weights, each as PATH or NAME=PATH
    /// [default: the model that made the index]
    #[arg(required_unless_present_any = ["index", "new_key"])]
    pub(crate) models: Vec<String>,
    #[command(flatten)]
    pub(crate) read: ReadArgs,
    /// An index to search, as `chiasm index` made it: its folder, or the address that it was pushed to
    #[arg(long, value_name = "INDEX")]
    pub(crate) index: Option<PathBuf>,
    /// Relation model of the first model, as `chiasm probe --out` wrote it
    #[arg(long, value_name = "FILE")]
    pub(crate) relation: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) regional: RegionalArgs,
    /// Regions that models of regions learned from, whose settings are used [default: those of the run]
    #[arg(long, value_name = "REGIONS", requires = "weights_vision")]
    pub(crate) regions: Option<PathBuf>,
    /// Address to listen on
    #[arg(long, value_name = "ADDRESS", default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST), env = "CHIASM_HOST")]
    pub(crate) host: IpAddr,
    /// Port to listen on; 0 takes a free one
    #[arg(long, value_name = "PORT", default_value_t = 8080, env = "CHIASM_PORT")]
    pub(crate) port: u16,
    /// Answer other machines; needs `--keys`
    #[arg(long)]
    pub(crate) allow_remote: bool,
    /// Fetch pictures behind https addresses that requests name; only from the public net
    #[arg(long)]
    pub(crate) fetch: bool,
    /// File with the keys of those who may ask
    #[arg(long, value_name = "FILE", env = "CHIASM_KEYS")]
    pub(crate) keys: Option<PathBuf>,
    /// Make a key under this name, write its hash into `--keys`, print it once, and end
    #[arg(long, value_name = "NAME", requires = "keys")]
    pub(crate) new_key: Option<String>,
    /// Scope of the new key: only reading, or also metrics and reloading
    #[arg(long, value_name = "SCOPE", default_value = "read", value_parser = scope)]
    pub(crate) scope: Scope,
    /// Requests that are answered at a time; more get 429
    #[arg(long, value_name = "N", default_value_t = Config::default().max_requests)]
    pub(crate) max_requests: usize,
    /// Tokens that may wait for a model; more get 429
    #[arg(long, value_name = "N", default_value_t = QueueConfig::default().waiting_tokens)]
    pub(crate) max_waiting_tokens: usize,
    /// Tokens of a batch
    #[arg(long, value_name = "N", default_value_t = QueueConfig::default().batch_tokens)]
    pub(crate) batch_tokens: usize,
    /// Largest body of a request, in MiB
    #[arg(long, value_name = "MIB", default_value_t = Config::default().max_body_bytes >> 20)]
    pub(crate) max_body: usize,
    /// Most pixels of a picture, in millions
    #[arg(long, value_name = "MILLIONS", default_value_t = PictureLimits::default().max_pixels / 1_000_000)]
    pub(crate) max_pixels: u64,
    /// Most texts or pictures of a request
    #[arg(long, value_name = "N", default_value_t = Config::default().max_items)]
    pub(crate) max_items: usize,
    /// Longest time for an answer, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = Config::default().deadline.as_secs())]
    pub(crate) deadline: u64,
}

fn scope(typed: &str) -> Result<Scope, String> {
    match typed {
        "read" => Ok(Scope::Read),
        "admin" => Ok(Scope::Admin),
        _ => Err("write read or admin".to_owned()),
    }
}

pub(crate) fn run(args: &ServeArgs, global: &Global) -> Result<(), CliError> {
    if let (Some(name), Some(file)) = (&args.new_key, &args.keys) {
        return new_key(name, args.scope, file);
    }
    let keys = args.keys.as_deref().map(read_keys).transpose()?;
    if args.allow_remote && keys.as_ref().is_none_or(Keys::is_empty) {
        return Err(CliError::new(
            "`--allow-remote` needs keys: everybody who reaches the machine could ask",
            "make one with `chiasm serve --new-key NAME --keys FILE`, and start with `--keys FILE`"
                .to_owned(),
        ));
    }
    if !args.host.is_loopback() && !args.allow_remote {
        return Err(CliError::new(
            format!("`--host {}` can be reached from other machines", args.host),
            "say that you want this with `--allow-remote`, and name `--keys`".to_owned(),
        ));
    }
    let index = args.index.as_deref().map(store::open).transpose()?;
    let device = device::open(global)?;
    let queue = QueueConfig {
        waiting_tokens: args.max_waiting_tokens.max(1),
        batch_tokens: args.batch_tokens.max(1),
        deadline: Duration::from_secs(args.deadline.max(1)),
    };
    let mut models = Vec::new();
    let mut makes_regions = false;
    for (place, (name, path)) in named(args, index.as_deref())?.iter().enumerate() {
        let relation = args.relation.as_deref().filter(|_| place == 0);
        let served = open(name, path, args, relation, &device)?;
        note(&said(&served.card()));
        makes_regions |= served.makes_regions();
        models.push(Arc::new(
            ModelQueue::start(Arc::new(served), queue)
                .map_err(|error| CliError::new(format!("cannot start a thread: {error}"), None))?,
        ));
    }
    if !makes_regions {
        args.regional.refuse("no model sees regions")?;
    }
    let parts = Parts {
        config: Config {
            max_body_bytes: args.max_body << 20,
            picture: PictureLimits {
                max_pixels: args.max_pixels * 1_000_000,
                ..PictureLimits::default()
            },
            max_items: args.max_items,
            max_requests: args.max_requests.max(1),
            deadline: Duration::from_secs(args.deadline.max(1)),
            only_local: !args.allow_remote,
            fetch: args.fetch.then(FetchConfig::default),
            ..Config::default()
        },
        models,
        index,
        keys,
        log: Box::new(note),
    };
    let json = global.json;
    chiasm_serve::serve(parts, SocketAddr::new(args.host, args.port), |address| {
        match json {
            true => output::result(&format!("{{\"address\":\"http://{address}\"}}")),
            false => output::result(&format!(
                "page:      http://{address}/\ninterface: http://{address}/openapi.json\nstop with Ctrl-C"
            )),
        }
    })
    .map_err(|error| CliError::new(error.to_string(), error.hint()))
}

fn read_keys(file: &Path) -> Result<Keys, CliError> {
    Keys::read(file).map_err(|error| CliError::new(format!("{}: {error}", file.display()), None))
}

fn new_key(name: &str, scope: Scope, file: &Path) -> Result<(), CliError> {
    let mut keys = match file.exists() {
        true => read_keys(file)?,
        false => Keys::default(),
    };
    let key = keys
        .add(name, scope, file)
        .map_err(|error| CliError::new(format!("{}: {error}", file.display()), None))?;
    note("this is the only time that the key is shown:");
    output::result(&key);
    Ok(())
}

/// Names and paths of the models: those that were typed, or the one that made the index.
fn named(args: &ServeArgs, index: Option<&dyn Store>) -> Result<Vec<(String, PathBuf)>, CliError> {
    let mut named: Vec<(String, PathBuf)> = Vec::new();
    let mut typed = args.models.clone();
    if let (true, Some(index)) = (typed.is_empty(), index) {
        typed.push(index.identity().model.clone());
    }
    for typed in &typed {
        let (name, path) = match typed.split_once('=') {
            Some((name, path)) if !Path::new(typed).exists() => (name.to_owned(), path),
            _ => {
                let file = Path::new(typed).file_name();
                let name = file.map_or(typed.clone().into(), |name| name.to_string_lossy());
                (name.into_owned(), typed.as_str())
            }
        };
        if named.iter().any(|(known, _)| *known == name) {
            return Err(CliError::new(
                format!("two models are called `{name}`"),
                "name them: NAME=PATH".to_owned(),
            ));
        }
        named.push((name, PathBuf::from(path)));
    }
    Ok(named)
}

fn open(
    name: &str,
    path: &Path,
    args: &ServeArgs,
    relation: Option<&Path>,
    device: &Device,
) -> Result<Served, CliError> {
    if !path.exists() {
        return Err(CliError::new(
            format!("there is no model at {}", path.display()),
            "give a run, a model folder, or a file with published weights".to_owned(),
        ));
    }
    let relater = relation
        .map(|file| Relater::open(file, &[], device.clone()))
        .transpose()?;
    let regions = (args.regions.as_deref(), &args.regional);
    Served::open(name, path, args.read, relater, regions, device)
}

/// A model in a line.
fn said(card: &Card) -> String {
    let abilities: Vec<&str> = card
        .abilities
        .iter()
        .map(|ability| ability.name())
        .collect();
    format!("{}: {}", card.id, abilities.join(", "))
}

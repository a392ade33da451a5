//! Regions of a picture that is at hand, for models that see regions: the provider that made what they learned
//! from, run again.

use std::path::{Path, PathBuf};

use burn::tensor::Device;
use chiasm_data::regions::{RegionIdentity, RegionSet};
use chiasm_data::{RegionRows, Regions, Rgb};
use chiasm_nn::published::encoder::Sizes;
use chiasm_regions::{Provider, RegionError, prepare};
use clap::Args;
use serde_json::Value;

use crate::cli::CheckpointArg;
use crate::commands::regions::{detector, grid};
use crate::error::CliError;
use crate::model::Model;

/// Where regions of pictures come from, for models that see regions.
#[derive(Args, Debug, Default)]
pub(crate) struct RegionalArgs {
    /// For a model of regions: the image tower that its regions' features come from
    #[arg(long, value_name = "PATH")]
    pub(crate) weights_vision: Option<PathBuf>,
    /// For a model of regions: weights of the detector that found them, where one did
    #[arg(long, value_name = "FILE", requires = "weights_vision")]
    pub(crate) detector: Option<PathBuf>,
}

impl RegionalArgs {
    /// What is wrong where a tower of regions is named, and nothing makes regions with it.
    pub(crate) fn refuse(&self, why: &str) -> Result<(), CliError> {
        match &self.weights_vision {
            None => Ok(()),
            Some(path) => Err(CliError::new(
                format!("`--weights-vision {}` has no use: {why}", path.display()),
                "leave it out".to_owned(),
            )),
        }
    }
}

/// Makes regions as a model learned them.
pub(crate) struct Regional {
    provider: Box<dyn Provider + Send + Sync>,
    /// Regions of a picture that the model takes.
    most: usize,
}

impl Regional {
    /// Opens the provider of a model that sees regions; `None` of one that does not, or where no tower is named.
    /// `set` has the settings: that which the model learned from, or one like it.
    pub(crate) fn of(
        model: &Model,
        set: Option<&Path>,
        args: &RegionalArgs,
        device: &Device,
    ) -> Result<Option<Self>, CliError> {
        let Model::Own(trained) = model else {
            return Ok(None);
        };
        let (Some(regions), Some(weights)) = (&trained.config.regions, &args.weights_vision) else {
            return Ok(None);
        };
        let expected = RegionIdentity {
            provider: regions.provider.clone(),
            dim: regions.features,
            hash: regions.provider_hash.clone(),
        };
        let set = set.or(trained.recipe.data.regions.as_deref());
        let path = set.ok_or_else(|| {
            CliError::new(
                "it is not known how the model's regions were made",
                "name the set that it learned from with `--regions`".to_owned(),
            )
        })?;
        let set = RegionSet::look(path)?;
        set.require(&expected, path)?;
        let provider = provider(weights, args.detector.as_deref(), &set, device)?;
        let own = provider.set().identity();
        if own != expected {
            return Err(CliError::new(
                format!(
                    "{} makes other regions than the `{}` of {} that the model learned from",
                    weights.display(),
                    set.provider,
                    path.display()
                ),
                format!(
                    "give the weights that `chiasm regions inspect {}` lists",
                    path.display()
                ),
            ));
        }
        Ok(Some(Self {
            provider,
            most: regions.most,
        }))
    }

    /// The regions of a picture.
    pub(crate) fn regions(&self, picture: &Rgb) -> Result<Regions, RegionError> {
        let prepared = prepare("picture", picture, &self.provider.inputs());
        let mut found = self.provider.regions(&[prepared])?;
        Ok(found.pop().unwrap_or_default())
    }

    /// The regions of some pictures as a model takes them.
    pub(crate) fn rows(&self, pictures: &[&Rgb]) -> Result<RegionRows, RegionError> {
        let mut rows = RegionRows {
            dim: self.provider.set().dim,
            ..RegionRows::default()
        };
        for picture in pictures {
            rows.push(&self.regions(picture)?, self.most);
        }
        Ok(rows)
    }
}

/// The provider that made a set, of weights that are said to be the same.
fn provider(
    weights: &Path,
    file: Option<&Path>,
    set: &RegionSet,
    device: &Device,
) -> Result<Box<dyn Provider + Send + Sync>, CliError> {
    let setting = |name: &str| {
        let number = set.settings.get(name).and_then(Value::as_u64);
        number.and_then(|number| usize::try_from(number).ok())
    };
    let sizes = Sizes {
        image_size: setting("image_size"),
        ..Sizes::default()
    };
    let most = setting("regions").ok_or_else(|| {
        CliError::new(
            format!("regions of `{}` cannot be made again", set.provider),
            "take a model that learned from regions of `grid` or `detector`".to_owned(),
        )
    })?;
    // A provider borrows its tower, and is needed as long as the process lives.
    let device: &'static Device = Box::leak(Box::new(device.clone()));
    let model = Model::open_sized(weights, CheckpointArg::Last, sizes, device)?;
    let model: &'static Model = Box::leak(Box::new(model));
    let grid = grid(model, most, device)?;
    Ok(match file {
        Some(file) => Box::new(detector(grid, file, device)?),
        None => Box::new(grid),
    })
}

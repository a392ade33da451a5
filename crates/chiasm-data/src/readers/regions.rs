//! A folder of region features that carry their texts: one `.npz` a picture, named after it, with an array
//! `text`; the pictures lie in `images/` beside it.
//!
//! Given is the folder of the archives, or the one above it if they lie in `features/`. Features
//! without texts are no data set; they are attached to one, see [`OpenOptions::regions`].

use std::fs::File;
use std::path::{Path, PathBuf};

use chiasm_format::numpy::{Npz, NumpyError};

use super::collect::{Collector, Picture, RawRow};
use super::folder::holds_pictures;
use super::{Format, OpenOptions, Opened, Source, name_of};
use crate::dataset::{Annotations, ImageSource, RegionSource, Unit};
use crate::error::DataError;
use crate::regions::archives;

/// Names of the array of texts.
const TEXTS: [&str; 4] = ["text", "texts", "caption", "captions"];

pub(super) const FORMAT: Format = Format {
    name: "regions",
    what: "region features with texts (folder of .npz, pictures in images/)",
    recognises: |source| folder(source).is_some() && !holds_pictures(&source.path),
    open,
};

/// Where the archives are.
fn folder(source: &Source) -> Option<PathBuf> {
    let places = [source.path.clone(), source.path.join("features")];
    let has_archives = |folder: &PathBuf| archives(folder).is_ok_and(|found| !found.is_empty());
    places
        .into_iter()
        .filter(|_| source.is_folder)
        .find(has_archives)
}

fn open(source: &Source, options: &OpenOptions) -> Result<Opened, DataError> {
    let folder = folder(source).unwrap_or_else(|| source.path.clone());
    let mut collector = Collector::new(&folder, options, Unit::Image);
    for (number, path) in (1..).zip(archives(&folder)?) {
        let name = path
            .file_stem()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        match texts(&path) {
            Ok(texts) => collector.add(RawRow {
                annotations: Annotations {
                    regions: Some(RegionSource::Npz(ImageSource::Path(path))),
                    ..Annotations::default()
                },
                ..RawRow::new(number, Picture::Named(name), texts)
            }),
            Err(reason) => collector.refuse_file(&name, &path, reason),
        }
    }
    let mut opened = collector.finish()?;
    opened.dataset.name = name_of(&source.path);
    Ok(opened)
}

fn texts(path: &Path) -> Result<Vec<String>, String> {
    let file = File::open(path).map_err(|error| error.to_string())?;
    let read = || -> Result<Option<Vec<String>>, NumpyError> {
        let mut npz = Npz::open(file)?;
        match TEXTS.iter().find(|name| npz.has(name)) {
            Some(name) => Ok(npz.read(name)?.to_strings()),
            None => Ok(None),
        }
    };
    let texts = read().map_err(|error| error.to_string())?;
    texts.ok_or_else(|| "it has no array `text` of strings".to_owned())
}

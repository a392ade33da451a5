//! Where the clips of a data set are: a video, a folder of frames, or numbered frames beside others.

use std::path::{Path, PathBuf};

use crate::dataset::{Clip, ImageSource, Visual};

/// Endings of videos, in the order in which they are looked for.
const VIDEOS: [&str; 4] = ["mp4", "webm", "mkv", "avi"];

/// Endings of frames.
const FRAMES: [&str; 4] = ["jpg", "jpeg", "png", "webp"];

/// Cap on the frames of a clip: a day of them at one a second.
const MAX_FRAMES: usize = 86_400;

/// The folders in which clips are looked for.
pub(super) struct Clips {
    folders: Vec<PathBuf>,
}

impl Clips {
    /// Looks in those of the folders that are there; in the first when none is, so that the check can
    /// say where a clip was expected.
    pub(super) fn new(folders: impl IntoIterator<Item = PathBuf>) -> Self {
        let all: Vec<PathBuf> = folders.into_iter().collect();
        let there: Vec<PathBuf> = all
            .iter()
            .filter(|folder| folder.is_dir())
            .cloned()
            .collect();
        let first = || all.into_iter().take(1).collect();
        Self {
            folders: if there.is_empty() { first() } else { there },
        }
    }

    /// The clip of a name, right in a folder or in its folder `within`. Frames are taken before a
    /// video: whoever unpacked them wants them used. Frames are `NAME/*.jpg`, in the order of their
    /// names, or `NAME_000001.jpg` and so on, as at one a second.
    pub(super) fn find(&self, name: &str, within: Option<&str>) -> Visual {
        let inner = within.iter().flat_map(|within| {
            let folders = self.folders.iter();
            folders.map(move |folder| folder.join(within))
        });
        let places: Vec<PathBuf> = self.folders.iter().cloned().chain(inner).collect();
        let frames = places.iter().map(|place| {
            let unpacked = pictures(&place.join(name));
            if unpacked.is_empty() {
                numbered(place, name)
            } else {
                unpacked
            }
        });
        if let Some(frames) = frames.into_iter().find(|frames| !frames.is_empty()) {
            let frames = frames.into_iter().map(ImageSource::Path);
            return Visual::Clip(Clip::Frames(frames.collect()));
        }
        let videos = places
            .iter()
            .flat_map(|place| VIDEOS.map(|extension| place.join(format!("{name}.{extension}"))));
        let mut videos = videos.peekable();
        let first = videos.peek().cloned().unwrap_or_default();
        Visual::Clip(Clip::Video(
            videos.find(|path| path.is_file()).unwrap_or(first),
        ))
    }
}

/// The pictures in a folder by name; none when there is no such folder.
fn pictures(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let is_frame = |path: &PathBuf| {
        let extension = path.extension().unwrap_or_default();
        FRAMES
            .iter()
            .any(|known| extension.eq_ignore_ascii_case(known))
    };
    let pictures = entries.map(|entry| entry.path()).filter(is_frame);
    let mut pictures: Vec<PathBuf> = pictures.take(MAX_FRAMES).collect();
    pictures.sort();
    pictures
}

/// `NAME_000001.jpg` and those that follow it.
fn numbered(folder: &Path, name: &str) -> Vec<PathBuf> {
    (1..=MAX_FRAMES)
        .map(|number| folder.join(format!("{name}_{number:06}.jpg")))
        .take_while(|path| path.is_file())
        .collect()
}

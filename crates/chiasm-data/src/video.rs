//! Frames of video files, by the programs `ffmpeg` and `ffprobe` where they are installed.
//!
//! Owns how these programs are called and held to limits. They read files that nobody vouches for, so
//! they get no shell, no standard input, no network and no other file: only the `file` protocol and a
//! list of container formats, without playlists that name further files. Their answer is read up to a
//! cap, and they are killed when they take too long. Which frames to take is decided in
//! [`crate::frames`].
//!
//! `CHIASM_FFMPEG` is the path of `ffmpeg`; `ffprobe` is then expected beside it. Without it both are
//! looked for as the system looks for programs.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use serde::Deserialize;

use crate::decode::Rgb;
use crate::frames::{ClipError, ClipLimits};

/// Endings of file names that are taken for videos.
pub const VIDEO_EXTENSIONS: [&str; 12] = [
    "mp4", "m4v", "mov", "webm", "mkv", "avi", "mpg", "mpeg", "ogv", "flv", "wmv", "3gp",
];

/// Containers that are opened, by the names of ffmpeg's readers. No playlists.
const CONTAINERS: &str = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpeg,mpegts,mpegvideo,ogg,flv,asf,ivf,h264,hevc,av1,obu";

/// The variable that names ffmpeg.
const VARIABLE: &str = "CHIASM_FFMPEG";

/// Cap on what ffprobe may answer: 1 MiB.
const MAX_DESCRIPTION: u64 = 1 << 20;

/// What is kept of what a program complains about.
const MAX_COMPLAINT: u64 = 8 << 10;

/// Largest single allocation that ffmpeg may make: 1 GiB.
const MAX_ALLOCATION: &str = "1073741824";

/// True for a file whose name says that it is a video.
pub(crate) fn is_video(path: &Path) -> bool {
    path.extension().is_some_and(|extension| {
        VIDEO_EXTENSIONS
            .iter()
            .any(|known| extension.eq_ignore_ascii_case(known))
    })
}

/// What a file says about its video.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Video {
    /// Number of frames.
    pub(crate) frames: usize,
    /// Size of a frame as it is coded.
    pub(crate) width: u32,
    pub(crate) height: u32,
    /// Mean frames a second, where the file says so.
    pub(crate) fps: Option<f64>,
    /// How long it is, where the file says so.
    pub(crate) seconds: Option<f64>,
}

/// How frames are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Count {
    /// By packets, which is fast. Some codecs have packets that show nothing.
    Packets,
    /// By decoding all of it.
    Frames,
}

#[derive(Deserialize)]
struct Description {
    #[serde(default)]
    streams: Vec<Stream>,
    #[serde(default)]
    format: Format,
}

#[derive(Deserialize)]
struct Stream {
    width: Option<u32>,
    height: Option<u32>,
    avg_frame_rate: Option<String>,
    nb_read_packets: Option<String>,
    nb_read_frames: Option<String>,
}

#[derive(Default, Deserialize)]
struct Format {
    duration: Option<String>,
}

/// Asks ffprobe.
///
/// # Errors
/// If there is no ffprobe, no video in the file, or something is beyond the limits.
pub(crate) fn probe(path: &Path, count: Count, limits: &ClipLimits) -> Result<Video, ClipError> {
    let mut arguments = common();
    arguments.extend(
        [
            match count {
                Count::Packets => "-count_packets",
                Count::Frames => "-count_frames",
            },
            "-select_streams",
            "v:0",
            "-show_entries",
            "stream=width,height,avg_frame_rate,nb_read_packets,nb_read_frames:format=duration",
            "-of",
            "json",
            "-i",
        ]
        .map(OsString::from),
    );
    arguments.push(locator(path)?);
    let answer = run(
        &program("ffprobe"),
        &arguments,
        MAX_DESCRIPTION,
        limits.max_wait,
    )?;
    let description: Description = serde_json::from_slice(&answer).map_err(|error| {
        ClipError::Video(format!("ffprobe's answer is not as expected: {error}"))
    })?;
    let stream = description.streams.first().ok_or(ClipError::NoVideo)?;
    let counted = stream
        .nb_read_frames
        .as_ref()
        .or(stream.nb_read_packets.as_ref());
    let video = Video {
        frames: counted.and_then(|text| text.parse().ok()).unwrap_or(0),
        width: stream.width.unwrap_or(0),
        height: stream.height.unwrap_or(0),
        fps: stream.avg_frame_rate.as_deref().and_then(ratio),
        seconds: description
            .format
            .duration
            .and_then(|text| text.parse().ok()),
    };
    if video.frames == 0 {
        return Err(ClipError::NoVideo);
    }
    limits.picture.check_size(video.width, video.height)?;
    limits.check_frames(video.frames)?;
    if let Some(seconds) = video.seconds {
        limits.check_seconds(seconds)?;
    }
    Ok(video)
}

/// The frames with these numbers, in their order; fewer when the video ends before.
///
/// # Errors
/// If there is no ffmpeg, or it fails, takes too long or answers too much.
pub(crate) fn decode_frames(
    path: &Path,
    video: &Video,
    wanted: &BTreeSet<usize>,
    limits: &ClipLimits,
) -> Result<Vec<Rgb>, ClipError> {
    let pixels = u64::from(video.width) * u64::from(video.height);
    limits.check_pixels(pixels.saturating_mul(wanted.len() as u64))?;
    let chosen: Vec<String> = wanted
        .iter()
        .map(|number| format!("eq(n,{number})"))
        .collect();
    let mut arguments = common();
    arguments
        .extend(["-nostdin", "-max_alloc", MAX_ALLOCATION, "-threads", "1"].map(OsString::from));
    arguments.extend([
        "-max_pixels".into(),
        limits
            .picture
            .max_pixels
            .min(i32::MAX as u64)
            .to_string()
            .into(),
    ]);
    arguments.push("-i".into());
    arguments.push(locator(path)?);
    // New times, a frame each: then the output neither repeats nor leaves out any, in every version.
    let filter = format!("select='{}',settb=1/25,setpts=N", chosen.join("+"));
    let frames = wanted.len().to_string();
    arguments.extend(
        [
            "-map",
            "0:v:0",
            "-vf",
            &filter,
            "-r",
            "25",
            "-frames:v",
            &frames,
        ]
        .map(OsString::from),
    );
    arguments.extend(
        [
            "-threads",
            "1",
            "-f",
            "image2pipe",
            "-c:v",
            "ppm",
            "-pix_fmt",
            "rgb24",
            "pipe:1",
        ]
        .map(OsString::from),
    );
    let frame_bytes = pixels * 3 + 64;
    let cap = frame_bytes.saturating_mul(wanted.len() as u64);
    let answer = run(&program("ffmpeg"), &arguments, cap, limits.max_wait)?;
    let mut rest = answer.as_slice();
    let mut pictures = Vec::with_capacity(wanted.len());
    while !rest.is_empty() {
        let (picture, behind) = read_ppm(rest)
            .ok_or_else(|| ClipError::Video("ffmpeg's answer is cut off".to_owned()))?;
        pictures.push(picture);
        rest = behind;
    }
    Ok(pictures)
}

/// What both programs are told first.
fn common() -> Vec<OsString> {
    [
        "-v",
        "error",
        "-hide_banner",
        "-protocol_whitelist",
        "file",
        "-format_whitelist",
        CONTAINERS,
    ]
    .map(OsString::from)
    .to_vec()
}

/// `file:` and the whole path: a name can then be taken neither for an option nor for an address.
fn locator(path: &Path) -> Result<OsString, ClipError> {
    let whole = std::path::absolute(path).map_err(|error| ClipError::Video(error.to_string()))?;
    let mut locator = OsString::from("file:");
    locator.push(whole);
    Ok(locator)
}

/// The path of `ffmpeg` or `ffprobe`.
fn program(name: &str) -> PathBuf {
    let Some(ffmpeg) = std::env::var_os(VARIABLE).filter(|value| !value.is_empty()) else {
        return PathBuf::from(name);
    };
    let ffmpeg = PathBuf::from(ffmpeg);
    if name == "ffmpeg" {
        return ffmpeg;
    }
    let mut beside = ffmpeg.with_file_name(name);
    if let Some(extension) = ffmpeg.extension() {
        beside.set_extension(extension);
    }
    beside
}

/// `30000/1001` as a number.
fn ratio(text: &str) -> Option<f64> {
    let (over, under) = text.split_once('/')?;
    let rate = over.parse::<f64>().ok()? / under.parse::<f64>().ok()?;
    (rate.is_finite() && rate > 0.0).then_some(rate)
}

/// A binary PPM with values up to 255, and what follows it.
fn read_ppm(bytes: &[u8]) -> Option<(Rgb, &[u8])> {
    let mut rest = bytes.strip_prefix(b"P6")?;
    let mut number = || {
        let start = rest.iter().position(|byte| !byte.is_ascii_whitespace())?;
        let digits = rest.get(start..)?;
        let end = digits.iter().position(|byte| !byte.is_ascii_digit())?;
        let (digits, behind) = digits.split_at_checked(end)?;
        rest = behind;
        std::str::from_utf8(digits).ok()?.parse::<usize>().ok()
    };
    let (width, height, highest) = (number()?, number()?, number()?);
    let (pixels, behind) = rest
        .get(1..)?
        .split_at_checked(width.checked_mul(height)?.checked_mul(3)?)?;
    (highest == 255).then_some(())?;
    Some((Rgb::new(width, height, pixels.to_vec())?, behind))
}

/// A process that ends with its owner.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // Both fail when it has ended by itself, which is what is wanted.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs a program to its end and returns what it wrote.
fn run(
    program: &Path,
    arguments: &[OsString],
    cap: u64,
    wait: Duration,
) -> Result<Vec<u8>, ClipError> {
    let name = program
        .file_name()
        .unwrap_or(OsStr::new("ffmpeg"))
        .to_string_lossy()
        .into_owned();
    let deadline = Instant::now() + wait;
    let spawned = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut running = match spawned {
        Ok(child) => Running(child),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(ClipError::NoProgram(program.display().to_string()));
        }
        Err(error) => return Err(ClipError::Video(format!("{name} does not start: {error}"))),
    };
    let (sender, receiver) = channel();
    if let Some(output) = running.0.stdout.take() {
        std::thread::spawn(move || {
            let mut bytes = Vec::new();
            let read = output.take(cap.saturating_add(1)).read_to_end(&mut bytes);
            // Nobody listens any more when the time is up.
            let _ = sender.send(read.map(|_| bytes));
        });
    }
    let complaint = running.0.stderr.take().map(|mut errors| {
        std::thread::spawn(move || {
            let mut text = Vec::new();
            let _ = errors.by_ref().take(MAX_COMPLAINT).read_to_end(&mut text);
            // Read to the end, or the program waits for its complaints to be taken.
            let _ = std::io::copy(&mut errors, &mut std::io::sink());
            text
        })
    });
    let too_slow = || ClipError::TooSlow {
        program: name.clone(),
        seconds: wait.as_secs(),
    };
    let bytes = match receiver.recv_timeout(wait) {
        Ok(Ok(bytes)) if bytes.len() as u64 > cap => {
            return Err(ClipError::Video(format!(
                "{name} answers more than {cap} bytes"
            )));
        }
        Ok(Ok(bytes)) => bytes,
        Ok(Err(error)) => return Err(ClipError::Video(format!("{name}: {error}"))),
        Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return Err(too_slow()),
    };
    // Its answer is complete; it has closed its output and is about to end.
    let status = loop {
        match running.0.try_wait() {
            Ok(Some(status)) => break status,
            Ok(None) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(1)),
            Ok(None) => return Err(too_slow()),
            Err(error) => return Err(ClipError::Video(format!("{name}: {error}"))),
        }
    };
    if status.success() {
        return Ok(bytes);
    }
    let complaint = complaint
        .and_then(|thread| thread.join().ok())
        .unwrap_or_default();
    Err(ClipError::Video(format!(
        "{name} cannot read it: {}",
        summary(&complaint)
    )))
}

/// The last lines of what a program said, in one.
fn summary(complaint: &[u8]) -> String {
    let text = String::from_utf8_lossy(complaint);
    let lines: Vec<&str> = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect();
    let last = lines.iter().skip(lines.len().saturating_sub(3)).copied();
    let line: String = last.collect::<Vec<_>>().join("; ");
    let printable: String = line
        .chars()
        .filter(|sign| !sign.is_control())
        .take(300)
        .collect();
    if printable.is_empty() {
        "it does not say why".to_owned()
    } else {
        printable
    }
}

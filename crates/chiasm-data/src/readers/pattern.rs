//! Names that stand for several files: `shards/*.tar`, `train-{00000..00041}.tar`, `{train,val}.tar`.

use std::path::{Path, PathBuf};

use crate::error::DataError;

/// Cap on the files that a pattern may name.
const MAX_FILES: usize = 100_000;

/// Whether a path that does not exist can be meant as a pattern.
pub(super) fn is_pattern(path: &Path) -> bool {
    path.to_string_lossy().contains(['*', '?', '[', '{'])
}

/// The files that a pattern names: ranges and lists in the order in which they stand there, what `*`,
/// `?` and `[..]` find in the order of the alphabet.
///
/// # Errors
/// A pattern that cannot be read, that nothing matches, or whose range names a file that is missing.
pub(super) fn expand(pattern: &Path) -> Result<Vec<PathBuf>, DataError> {
    let refused = |reason: String| DataError::Pattern {
        pattern: pattern.to_owned(),
        reason,
    };
    let text = pattern
        .to_str()
        .ok_or_else(|| refused("it is not UTF-8".to_owned()))?;
    let mut files = Vec::new();
    let mut missing = Vec::new();
    for name in braces(text).map_err(refused)? {
        if !name.contains(['*', '?', '[']) {
            let path = PathBuf::from(name);
            let is_file = path.is_file();
            if is_file { &mut files } else { &mut missing }.push(path);
            continue;
        }
        let found = glob::glob(&name).map_err(|error| refused(error.to_string()))?;
        for path in found {
            let path = path.map_err(|error| {
                let path = error.path().to_owned();
                DataError::io(path, error.into())
            })?;
            if path.is_file() {
                files.push(path);
            }
            if files.len() > MAX_FILES {
                return Err(refused(format!("it matches more than {MAX_FILES} files")));
            }
        }
    }
    // Of a range every file is meant: a shard that was not copied must not go unnoticed.
    match missing.as_slice() {
        [first, ..] => Err(refused(format!(
            "{} of the {} files that it names are missing, first `{}`",
            missing.len(),
            missing.len() + files.len(),
            first.display()
        ))),
        [] if files.is_empty() => Err(refused("no file matches".to_owned())),
        [] => Ok(files),
    }
}

/// The names that braces stand for, leftmost brace slowest. Braces in braces are not read.
fn braces(text: &str) -> Result<Vec<String>, String> {
    let Some((before, rest)) = text.split_once('{') else {
        return Ok(vec![text.to_owned()]);
    };
    let (inner, after) = rest.split_once('}').ok_or("`{` without `}`")?;
    if inner.contains('{') {
        return Err("braces in braces are not read".to_owned());
    }
    let choices: Vec<String> = match inner.split_once("..") {
        Some((first, last)) => range(first, last)?,
        None => inner.split(',').map(str::to_owned).collect(),
    };
    let ends = braces(after)?;
    if choices.len().saturating_mul(ends.len()) > MAX_FILES {
        return Err(format!("it names more than {MAX_FILES} files"));
    }
    let name = |choice: &String| {
        let begin = format!("{before}{choice}");
        ends.iter()
            .map(move |end| format!("{begin}{end}"))
            .collect::<Vec<_>>()
    };
    Ok(choices.iter().flat_map(name).collect())
}

/// The numbers of a range, as wide as the wider end when one of them starts with a zero.
fn range(first: &str, last: &str) -> Result<Vec<String>, String> {
    let number = |text: &str| {
        let plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let number = text.parse::<u32>().ok().filter(|_| plain);
        number.ok_or_else(|| format!("`{first}..{last}` is no range of numbers"))
    };
    let (from, to) = (number(first)?, number(last)?);
    if from > to {
        return Err(format!("the range `{first}..{last}` runs backwards"));
    }
    if (to - from) as usize >= MAX_FILES {
        return Err(format!("it names more than {MAX_FILES} files"));
    }
    let padded = [first, last]
        .iter()
        .any(|end| end.len() > 1 && end.starts_with('0'));
    let width = if padded {
        first.len().max(last.len())
    } else {
        0
    };
    Ok((from..=to)
        .map(|number| format!("{number:0width$}"))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn braces_name_lists_and_ranges() {
        let expand = |text| braces(text).unwrap();
        assert_eq!(expand("a.tar"), ["a.tar"]);
        assert_eq!(
            expand("{a,b}-{08..10}.tar"),
            [
                "a-08.tar", "a-09.tar", "a-10.tar", "b-08.tar", "b-09.tar", "b-10.tar"
            ]
        );
        assert_eq!(expand("x{9..11}"), ["x9", "x10", "x11"]);
        assert_eq!(expand("x{,y}"), ["x", "xy"]);
        assert_eq!(expand("{00000..00041}.tar").len(), 42);
        for bad in [
            "a{b",
            "{{a}}",
            "{3..1}",
            "{a..c}",
            "{1..}",
            "{+1..2}",
            "{0..100000}",
            "{0..9999}{0..9999}",
            "{0..99999999999}",
            "{-1..3}",
        ] {
            assert!(braces(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn patterns_find_files() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["b-01.tar", "a-00.tar", "b-00.tar", "other.txt"] {
            std::fs::write(folder.path().join(name), b"").unwrap();
        }
        std::fs::create_dir(folder.path().join("c-00.tar")).unwrap();
        let names = |pattern: &str| {
            let found = expand(&folder.path().join(pattern)).map_err(|error| error.to_string())?;
            let names = found
                .iter()
                .map(|path| path.file_name().unwrap().to_string_lossy().into_owned());
            Ok::<_, String>(names.collect::<Vec<_>>())
        };
        assert_eq!(
            names("*.tar").unwrap(),
            ["a-00.tar", "b-00.tar", "b-01.tar"]
        );
        assert_eq!(
            names("{b,a}-0?.tar").unwrap(),
            ["b-00.tar", "b-01.tar", "a-00.tar"]
        );
        assert_eq!(names("b-{00..01}.tar").unwrap(), ["b-00.tar", "b-01.tar"]);
        let missing = names("b-{00..03}.tar").unwrap_err();
        assert!(
            missing.contains("2 of the 4") && missing.contains("b-02.tar"),
            "{missing}"
        );
        assert!(names("d*.tar").unwrap_err().contains("no file matches"));
        assert!(names("a**b[").is_err());
    }
}

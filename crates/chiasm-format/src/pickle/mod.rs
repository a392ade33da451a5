//! Python pickles, read without running anything.
//!
//! A pickle is a program for a small stack machine that may call any function of Python. Here the
//! machine only builds data: names outside a short list of tensors and containers ([`lookup`]) end the
//! reading, and "calls" of the others are kept as a label with arguments. Protocols 0 to 5 are read,
//! those of Python 2 included.
//!
//! # What is bounded
//!
//! * A pickle is at most [`Limits::bytes`] long and makes at most [`Limits::values`] values.
//! * What is held in memory is linear in the bytes read: at most [`HELD_PER_BYTE`] for each, however
//!   the program is written. Calls are never carried out, so nothing is copied.
//! * Values may be shared, and so a short program can stand for a tree of any size, or for an endless
//!   one. After reading, the size of that tree is computed: above [`UNFOLDED_PER_BYTE`] times the bytes
//!   read, deeper than [`MAX_DEPTH`], or endless, and the pickle is refused. Whoever walks a
//!   [`Value`] can therefore do so by plain recursion.
//!
//! ```
//! use chiasm_format::pickle::{Limits, parse};
//!
//! // pickle.dumps({"sent_ids": [0, 1]}, protocol=0)
//! let bytes = b"(dp0\nVsent_ids\np1\n(lp2\nI0\naI1\nas.";
//! let pickle = parse(bytes, &Limits::default())?;
//! let ids: Vec<_> = pickle.root().get("sent_ids").into_iter().flat_map(|ids| ids.items()).collect();
//! assert_eq!(ids[1].as_i64(), Some(1));
//!
//! let error = parse(b"cos\nsystem\n(S'ls'\ntR.", &Limits::default()).unwrap_err();
//! assert!(error.to_string().contains("`os.system`"));
//! # Ok::<(), chiasm_format::FormatError>(())
//! ```

mod array;
mod globals;
mod machine;
mod text;
mod unfold;
mod value;

use std::io::BufRead;

pub use globals::{Global, lookup};
pub use value::Value;

use crate::error::FormatError;

/// Most bytes of memory that are held for each byte of a pickle.
pub const HELD_PER_BYTE: usize = 128;
/// Size of the tree that a pickle may unfold to, for each of its bytes. One mebibyte is always allowed.
///
/// A value counts as one, and a text or byte string as its bytes. In files that people use the factor is
/// below ten: keys of dictionaries are shared.
pub const UNFOLDED_PER_BYTE: u64 = 64;
/// Deepest nesting of containers.
pub const MAX_DEPTH: u32 = 256;

/// How much a pickle may ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of the pickle itself. Default: 512 MiB, at most 4 GiB.
    pub bytes: u64,
    /// Values that it makes. Default: 33,554,432, which take 1 GiB.
    pub values: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            bytes: 512 << 20,
            values: 32 << 20,
        }
    }
}

/// A pickle that was read.
#[derive(Debug)]
pub struct Pickle {
    nodes: Vec<Node>,
    text: String,
    bytes: Vec<u8>,
    root: Id,
    len: u64,
}

/// Where a value stands among the nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Id(u32);

/// A part of `Pickle::text` or `Pickle::bytes`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Span {
    start: u32,
    len: u32,
}

#[derive(Debug)]
pub(crate) enum Node {
    None,
    Bool(bool),
    Int(i128),
    /// A whole number beyond 128 bits; nobody asks for its value.
    HugeInt,
    Float(f64),
    Text(Span),
    /// `str` of Python 2: text or bytes, only its user knows.
    Str2(Span),
    Bytes(Span),
    List(Vec<Id>),
    Tuple(Box<[Id]>),
    Set(Vec<Id>),
    Dict(Vec<(Id, Id)>),
    Global(Global),
    Object(Box<Object>),
    /// A reference to something outside the pickle: in PyTorch, a storage.
    Persistent(Id),
}

/// What a call, an instance and its later state would have made.
#[derive(Debug)]
pub(crate) struct Object {
    global: Global,
    args: Id,
    state: Option<Id>,
    items: Vec<Id>,
    entries: Vec<(Id, Id)>,
}

/// Reads the pickle that `bytes` begin with; bytes after its end are not looked at.
///
/// # Errors
/// A name that is not on the list, damage with its offset, or a limit.
pub fn parse(bytes: &[u8], limits: &Limits) -> Result<Pickle, FormatError> {
    parse_from(bytes, bytes.len() as u64, limits)
}

/// Reads one pickle out of a stream of which at most `len` bytes are left.
///
/// A length inside the pickle is compared with what is left before memory is taken, so `len` must not
/// be larger than what the stream really holds. The stream is left behind the pickle's last byte.
///
/// # Errors
/// As for [`parse`].
pub fn parse_from(reader: impl BufRead, len: u64, limits: &Limits) -> Result<Pickle, FormatError> {
    let pickle = machine::run(reader, len, limits)?;
    unfold::check(&pickle)?;
    Ok(pickle)
}

impl Pickle {
    /// The value that was pickled.
    #[must_use]
    pub fn root(&self) -> Value<'_> {
        Value::new(self, self.root)
    }

    /// Bytes from the pickle's first to its last.
    #[must_use]
    #[allow(clippy::len_without_is_empty, reason = "no pickle is empty")]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// What the pickle refers to outside itself, in the order of mention.
    pub(crate) fn references(&self) -> impl Iterator<Item = Value<'_>> {
        let nodes = self.nodes.iter().enumerate();
        nodes
            .filter(|(_, node)| matches!(node, Node::Persistent(_)))
            .map(|(index, _)| Value::new(self, Id(index as u32)))
    }

    fn node(&self, id: Id) -> &Node {
        self.nodes.get(id.0 as usize).unwrap_or(&Node::None)
    }

    fn text(&self, span: Span) -> &str {
        let start = span.start as usize;
        self.text
            .get(start..start + span.len as usize)
            .unwrap_or_default()
    }

    fn bytes(&self, span: Span) -> &[u8] {
        let start = span.start as usize;
        self.bytes
            .get(start..start + span.len as usize)
            .unwrap_or_default()
    }
}

fn damaged(offset: u64, message: impl Into<String>) -> FormatError {
    FormatError::damaged("pickle", format!("byte {offset}"), message)
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Pickle {
        /// Bytes of memory behind the pickle.
        fn held(&self) -> usize {
            let id = size_of::<Id>();
            let behind = |node: &Node| match node {
                Node::List(items) | Node::Set(items) => items.capacity() * id,
                Node::Tuple(items) => items.len() * id,
                Node::Dict(entries) => entries.capacity() * 2 * id,
                Node::Object(object) => {
                    size_of::<Object>()
                        + object.items.capacity() * id
                        + object.entries.capacity() * 2 * id
                }
                _ => 0,
            };
            self.nodes.capacity() * size_of::<Node>()
                + self.nodes.iter().map(behind).sum::<usize>()
                + self.text.capacity()
                + self.bytes.capacity()
        }
    }

    /// The programs that make the most of each of their bytes: cheap values, containers of one item,
    /// calls, and large things mentioned again and again.
    #[test]
    fn what_is_held_is_linear_in_the_bytes_read() {
        let names = b"cargparse\nNamespace\nq\x00)q\x010(".to_vec();
        let big = |of: &[u8]| [&b"\x80\x02("[..], &of.repeat(40), b"lq\x000"].concat();
        for (head, step, tail) in [
            (&b"("[..], &b"]"[..], &b"l."[..]),
            (b"(", b")", b"l."),
            (b"(", b"}", b"l."),
            (b"(", b"N\x85", b"l."),
            (b"(", b"]Na", b"l."),
            (b"(", b"}NNs", b"l."),
            (b"(", b"K\x00", b"l."),
            (b"(", b"]\x94", b"l."),
            (b"(", b"U\x01a", b"l."),
            (&names, b"h\x00h\x01R", b"l."),
            (&names, b"h\x00h\x01RNa", b"l."),
            (&names, b"h\x00h\x01\x81NNs", b"l."),
            (&big(b"U\x04abcd"), b"cbuiltins\nset\nh\x00\x85R0", b"N."),
            (
                &big(b"(NNt"),
                b"ccollections\nOrderedDict\nh\x00\x85R0",
                b"N.",
            ),
            (
                &big(b"X\x01\x00\x00\x00a"),
                b"c_codecs\nencode\nh\x00\x85R0",
                b"N.",
            ),
        ] {
            for steps in [10, 60, 2000] {
                let program = [head, &step.repeat(steps), tail].concat();
                let shown = String::from_utf8_lossy(step);
                let pickle = parse(&program, &Limits::default()).unwrap();
                // The smallest buffers hold four items.
                let most = program.len() * HELD_PER_BYTE + 4 * size_of::<Node>();
                assert!(
                    pickle.held() <= most,
                    "{shown}: {} of {most}",
                    pickle.held()
                );
            }
        }
        assert!(size_of::<Node>() <= 32, "the bound above counts on it");
    }

    #[test]
    fn a_small_pickle_that_promises_much_holds_little() {
        // Each asks for gigabytes in a few bytes; nothing is set aside before the bytes are there.
        for program in [
            &b"\x80\x02X\xff\xff\xff\x7f"[..],
            b"\x80\x02B\xff\xff\xff\x7f",
            b"\x80\x04\x8d\x00\x00\x00\x00\x01\x00\x00\x00",
        ] {
            let mut machine_sees = program.to_vec();
            machine_sees.resize(200, b'a');
            assert!(parse(&machine_sees, &Limits::default()).is_err());
            // Even when the stream claims to be that long, only what comes is kept.
            let error = parse_from(&*machine_sees, 1 << 40, &Limits::default()).unwrap_err();
            assert!(
                error.to_string().contains("ends in the middle")
                    || error.to_string().contains("cap")
            );
        }
    }
}

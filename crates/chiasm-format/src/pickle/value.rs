//! Looking at what a pickle holds.

use std::borrow::Cow;

use super::{Global, Id, Node, Object, Pickle};

/// One value of a pickle, cheap to copy.
///
/// The accessors answer `None`, or nothing to iterate over, when the value is of another type, so that a
/// reader can chain them and refuse a row at the end.
#[derive(Clone, Copy)]
pub struct Value<'a> {
    pickle: &'a Pickle,
    id: Id,
}

impl<'a> Value<'a> {
    pub(crate) fn new(pickle: &'a Pickle, id: Id) -> Self {
        Self { pickle, id }
    }

    pub(crate) fn id(self) -> Id {
        self.id
    }

    fn at(self, id: Id) -> Self {
        Self::new(self.pickle, id)
    }

    fn node(self) -> &'a Node {
        self.pickle.node(self.id)
    }

    pub(crate) fn object(self) -> Option<&'a Object> {
        match self.node() {
            Node::Object(object) => Some(object),
            _ => None,
        }
    }

    /// True for Python's `None`.
    #[must_use]
    pub fn is_none(self) -> bool {
        matches!(self.node(), Node::None)
    }

    /// A truth value.
    #[must_use]
    pub fn as_bool(self) -> Option<bool> {
        match self.node() {
            Node::Bool(value) => Some(*value),
            _ => None,
        }
    }

    /// A whole number that fits, also out of NumPy; a truth value is 0 or 1 as in Python.
    #[must_use]
    pub fn as_i64(self) -> Option<i64> {
        i64::try_from(self.as_i128()?).ok()
    }

    pub(crate) fn as_i128(self) -> Option<i128> {
        match self.node() {
            Node::Int(value) => Some(*value),
            Node::Bool(value) => Some((*value).into()),
            _ => self
                .scalar()?
                .to_i64()
                .ok()?
                .first()
                .map(|value| i128::from(*value)),
        }
    }

    /// A whole number that is a size or an index.
    #[must_use]
    pub fn as_usize(self) -> Option<usize> {
        usize::try_from(self.as_i128()?).ok()
    }

    /// A number, also out of NumPy; beyond 2^53 a whole number is rounded.
    #[must_use]
    pub fn as_f64(self) -> Option<f64> {
        match self.node() {
            Node::Float(value) => Some(*value),
            Node::Int(value) => Some(*value as f64),
            _ => self.scalar()?.to_f64().ok()?.first().copied(),
        }
    }

    /// A text. `str` of Python 2 is read as UTF-8 where it is UTF-8, as Latin-1 otherwise.
    #[must_use]
    pub fn as_str(self) -> Option<Cow<'a, str>> {
        match self.node() {
            Node::Text(span) => Some(Cow::Borrowed(self.pickle.text(*span))),
            Node::Str2(span) => {
                let bytes = self.pickle.bytes(*span);
                Some(match std::str::from_utf8(bytes) {
                    Ok(text) => Cow::Borrowed(text),
                    Err(_) => bytes.iter().copied().map(char::from).collect(),
                })
            }
            _ => None,
        }
    }

    /// A byte string, in whichever way the protocol wrote it.
    #[must_use]
    pub fn as_bytes(self) -> Option<Cow<'a, [u8]>> {
        match self.node() {
            Node::Bytes(span) | Node::Str2(span) => Some(Cow::Borrowed(self.pickle.bytes(*span))),
            Node::Object(object) => self.bytes_of(object),
            _ => None,
        }
    }

    /// Length of [`Value::as_bytes`].
    pub(crate) fn byte_len(self) -> Option<u64> {
        match self.node() {
            Node::Bytes(span) | Node::Str2(span) => Some(span.len.into()),
            _ => self.as_bytes().map(|bytes| bytes.len() as u64),
        }
    }

    /// `bytearray(b"..")`, `_codecs.encode(text, "latin1")`, and the first around the second.
    fn bytes_of(self, object: &'a Object) -> Option<Cow<'a, [u8]>> {
        let first = self.at(object.args).item(0);
        match (object.global, first) {
            (Global::Bytes, None) => Some(Cow::Borrowed(&[])),
            (Global::Bytes, Some(of)) => match of.node() {
                Node::Text(_) => of.latin_1(),
                Node::Object(inner) if inner.global == Global::Bytes => None,
                _ => of.as_bytes(),
            },
            (Global::Encode, Some(of)) => of.latin_1(),
            _ => None,
        }
    }

    /// The characters of a text as bytes. `None` when one of them is no byte.
    fn latin_1(self) -> Option<Cow<'a, [u8]>> {
        let text = self.as_str()?;
        let bytes = text.chars().map(|character| u8::try_from(character).ok());
        bytes.collect::<Option<Vec<u8>>>().map(Cow::Owned)
    }

    /// The value under a key of a dictionary or an attribute of a plain object; the last one when the
    /// pickle gives several.
    #[must_use]
    pub fn get(self, key: &str) -> Option<Self> {
        self.entries()
            .rev()
            .find(|(found, _)| found.as_str().is_some_and(|found| found == key))
            .map(|(_, value)| value)
    }

    /// True for dictionaries and plain objects with attributes.
    #[must_use]
    pub fn is_dict(self) -> bool {
        match self.node() {
            Node::Dict(_) => true,
            Node::Object(object) => object.global.is_dict(),
            _ => false,
        }
    }

    /// Keys and values of a dictionary, attributes of a plain object, in order.
    pub fn entries(self) -> impl DoubleEndedIterator<Item = (Self, Self)> {
        // What it was made from, what was set later, and attributes.
        let (mut made_from, mut set, mut attributes) = (None, None, None);
        match self.node() {
            Node::Dict(entries) => set = Some(&**entries),
            Node::Object(object) if object.global.is_dict() => {
                set = Some(&*object.entries);
                attributes = object.state;
                made_from = self.made_from(object);
            }
            _ => {}
        }
        let pairs_of = move |id: Option<Id>| match id.map(|id| self.pickle.node(id)) {
            Some(Node::Dict(entries)) => &**entries,
            _ => &[],
        };
        let list_of = move |id: Option<Id>| match id.map(|id| self.pickle.node(id)) {
            Some(Node::List(items)) => &**items,
            _ => &[],
        };
        let listed = list_of(made_from).iter().filter_map(move |pair| {
            let pair = self.at(*pair);
            Some((pair.item(0)?.id, pair.item(1)?.id))
        });
        pairs_of(made_from)
            .iter()
            .copied()
            .chain(listed)
            .chain(set.unwrap_or_default().iter().copied())
            .chain(pairs_of(attributes).iter().copied())
            .map(move |(key, value)| (self.at(key), self.at(value)))
    }

    /// The one argument that a dictionary was made from.
    fn made_from(self, object: &'a Object) -> Option<Id> {
        if object.global == Global::DefaultDict {
            return None;
        }
        match self.pickle.node(object.args) {
            Node::Tuple(args) => args.first().copied(),
            Node::Dict(_) => Some(object.args),
            _ => None,
        }
    }

    /// Items of a list, tuple or set, in order.
    pub fn items(self) -> impl DoubleEndedIterator<Item = Self> + ExactSizeIterator + Clone {
        self.slice().iter().map(move |id| self.at(*id))
    }

    /// True for lists, tuples and sets.
    #[must_use]
    pub fn is_sequence(self) -> bool {
        match self.node() {
            Node::List(_) | Node::Tuple(_) | Node::Set(_) => true,
            Node::Object(object) => object.global == Global::Sequence,
            _ => false,
        }
    }

    /// Item `index` of a list, tuple or set.
    #[must_use]
    pub fn item(self, index: usize) -> Option<Self> {
        self.slice().get(index).map(|id| self.at(*id))
    }

    fn slice(self) -> &'a [Id] {
        let plain = |node: &'a Node| match node {
            Node::List(items) | Node::Set(items) => &**items,
            Node::Tuple(items) => &**items,
            _ => &[],
        };
        match self.node() {
            Node::Object(object) if object.global == Global::Sequence => {
                if !object.items.is_empty() {
                    return &object.items;
                }
                // `set([..])`: one argument, which is the sequence.
                let args = plain(self.pickle.node(object.args));
                args.first().map_or(&[], |of| plain(self.pickle.node(*of)))
            }
            node => plain(node),
        }
    }

    /// What the label of a name stands for, when the value is a name.
    pub(crate) fn as_global(self) -> Option<Global> {
        match self.node() {
            Node::Global(global) => Some(*global),
            _ => None,
        }
    }

    /// What a reference out of the pickle says.
    pub(crate) fn as_persistent(self) -> Option<Self> {
        match self.node() {
            Node::Persistent(id) => Some(self.at(*id)),
            _ => None,
        }
    }

    /// The label, arguments and state of an object.
    pub(crate) fn as_call(self) -> Option<(Global, Self, Option<Self>)> {
        let object = self.object()?;
        let state = object.state.map(|id| self.at(id));
        Some((object.global, self.at(object.args), state))
    }

    /// What it is, in a few words, for messages: `7`, `"bert"`, `a list of 3`.
    #[must_use]
    pub fn describe(self) -> String {
        const LONGEST: usize = 60;
        if let Some(text) = self.as_str() {
            let cut: String = text.chars().take(LONGEST).collect();
            let dots = if text.chars().nth(LONGEST).is_some() {
                "…"
            } else {
                ""
            };
            return format!("{cut:?}{dots}");
        }
        if self.is_dict() {
            return format!("a dictionary of {}", self.entries().count());
        }
        if self.is_sequence() {
            return format!("a list of {}", self.items().len());
        }
        match self.node() {
            Node::None => "None".into(),
            Node::Bool(true) => "True".into(),
            Node::Bool(false) => "False".into(),
            Node::Int(value) => value.to_string(),
            Node::HugeInt => "a whole number beyond 128 bits".into(),
            Node::Float(value) => format!("{value:?}"),
            Node::Bytes(span) => format!("{} bytes", span.len),
            Node::Persistent(_) => "a storage".into(),
            Node::Global(_) => "a class or function".into(),
            Node::Object(object) => match object.global {
                Global::Tensor | Global::Parameter | Global::TensorWithAttributes => {
                    "a tensor".into()
                }
                Global::ArrayShell | Global::ArrayFromBuffer => "an array".into(),
                Global::ArrayScalar => self
                    .as_f64()
                    .map_or_else(|| "a NumPy scalar".into(), |value| format!("{value:?}")),
                _ => "an object".into(),
            },
            Node::Text(_)
            | Node::Str2(_)
            | Node::List(_)
            | Node::Tuple(_)
            | Node::Set(_)
            | Node::Dict(_) => String::new(),
        }
    }
}

impl std::fmt::Debug for Value<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.describe())
    }
}

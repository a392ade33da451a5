//! The stack machine, with data in the place of calls.

use std::collections::HashMap;
use std::io::{self, BufRead, Read};

use super::globals::{Global, lookup};
use super::text::{raw_unicode, unquote};
use super::{Id, Limits, Node, Object, Pickle, Span, damaged};
use crate::error::{FormatError, check_cap, shown};

/// Longest line of a number, a name or a memo index in the text protocols.
const MAX_WORD: usize = 4096;

/// Runs the program at the head of `reader`.
pub(super) fn run(reader: impl BufRead, len: u64, limits: &Limits) -> Result<Pickle, FormatError> {
    let mut machine = Machine {
        input: Input {
            reader,
            position: 0,
            left: len.min(limits.bytes).min(u32::MAX.into()),
            cut: len > limits.bytes,
        },
        limits: *limits,
        nodes: Vec::new(),
        text: String::new(),
        bytes: Vec::new(),
        stack: Vec::new(),
        marks: Vec::new(),
        memo: HashMap::new(),
    };
    while machine.step()? {}
    let root = machine.pop()?;
    Ok(Pickle {
        nodes: machine.nodes,
        text: machine.text,
        bytes: machine.bytes,
        root,
        len: machine.input.position,
    })
}

struct Machine<R> {
    input: Input<R>,
    limits: Limits,
    nodes: Vec<Node>,
    text: String,
    bytes: Vec<u8>,
    stack: Vec<Id>,
    /// Heights of the stack at each mark.
    marks: Vec<usize>,
    /// A map, because an index is any number that the file likes.
    memo: HashMap<u32, Id>,
}

impl<R: BufRead> Machine<R> {
    /// One instruction; false after the last.
    fn step(&mut self) -> Result<bool, FormatError> {
        match self.input.byte()? {
            // Protocol and frames: only sizes of what follows.
            0x80 => {
                let protocol = self.input.byte()?;
                if protocol > 5 {
                    return Err(self.damaged(format!("protocol {protocol} is unknown")));
                }
            }
            0x95 => {
                let frame = self.input.u64()?;
                self.input.require(frame)?;
            }
            b'.' => return Ok(false),

            b'(' => self.marks.push(self.stack.len()),
            b'0' => self.discard()?,
            b'1' => drop(self.pop_marked()?),
            b'2' => {
                let top = self.top()?;
                self.stack.push(top);
            }

            b'N' => self.push(Node::None)?,
            0x88 => self.push(Node::Bool(true))?,
            0x89 => self.push(Node::Bool(false))?,
            b'I' => self.int_line()?,
            b'L' => self.long_line()?,
            b'J' => {
                let value = self.input.i32()?;
                self.push(Node::Int(value.into()))?;
            }
            b'K' => {
                let value = self.input.byte()?;
                self.push(Node::Int(value.into()))?;
            }
            b'M' => {
                let value = u16::from_le_bytes(self.input.array()?);
                self.push(Node::Int(value.into()))?;
            }
            0x8a => {
                let len = self.input.byte()?;
                self.long(len.into())?;
            }
            0x8b => {
                let len = self.input.len_i32()?;
                self.long(len)?;
            }
            b'F' => {
                let line = self.input.word()?;
                let parsed = std::str::from_utf8(&line)
                    .ok()
                    .and_then(|text| text.trim().parse().ok());
                let value = parsed.ok_or_else(|| self.damaged("a number that is none"))?;
                self.push(Node::Float(value))?;
            }
            b'G' => {
                let value = f64::from_be_bytes(self.input.array()?);
                self.push(Node::Float(value))?;
            }

            b'S' => {
                let line = self.input.line()?;
                let bytes =
                    unquote(&line).ok_or_else(|| self.damaged("a string without its quotes"))?;
                let span = self.keep_bytes(&bytes)?;
                self.push(Node::Str2(span))?;
            }
            b'T' => {
                let len = self.input.len_i32()?;
                let span = self.read_bytes(len)?;
                self.push(Node::Str2(span))?;
            }
            b'U' => {
                let len = self.input.byte()?;
                let span = self.read_bytes(len.into())?;
                self.push(Node::Str2(span))?;
            }
            b'V' => {
                let line = self.input.line()?;
                let text =
                    raw_unicode(&line).ok_or_else(|| self.damaged("an escape that is cut"))?;
                let span = self.keep_text(&text)?;
                self.push(Node::Text(span))?;
            }
            0x8c => {
                let len = self.input.byte()?;
                self.text(len.into())?;
            }
            b'X' => {
                let len = self.input.u32()?;
                self.text(len.into())?;
            }
            0x8d => {
                let len = self.input.u64()?;
                self.text(len)?;
            }
            b'C' => {
                let len = self.input.byte()?;
                self.byte_string(len.into())?;
            }
            b'B' => {
                let len = self.input.u32()?;
                self.byte_string(len.into())?;
            }
            // BYTEARRAY8 differs from BINBYTES8 in what may be changed later, which nobody does here.
            0x8e | 0x96 => {
                let len = self.input.u64()?;
                self.byte_string(len)?;
            }

            b']' => self.push(Node::List(Vec::new()))?,
            b'}' => self.push(Node::Dict(Vec::new()))?,
            0x8f => self.push(Node::Set(Vec::new()))?,
            b')' => self.push(Node::Tuple(Box::default()))?,
            b'l' => {
                let items = self.pop_marked()?;
                self.push(Node::List(items))?;
            }
            b't' => {
                let items = self.pop_marked()?;
                self.push(Node::Tuple(items.into()))?;
            }
            0x91 => {
                let items = self.pop_marked()?;
                self.push(Node::Set(items))?;
            }
            b'd' => {
                let items = self.pop_marked()?;
                let entries = self.pairs(&items)?;
                self.push(Node::Dict(entries))?;
            }
            0x85 => self.tuple::<1>()?,
            0x86 => self.tuple::<2>()?,
            0x87 => self.tuple::<3>()?,
            b'a' => {
                let item = self.pop()?;
                self.extend(&[item])?;
            }
            b'e' | 0x90 => {
                let items = self.pop_marked()?;
                self.extend(&items)?;
            }
            b's' => {
                let value = self.pop()?;
                let key = self.pop()?;
                self.insert(&[(key, value)])?;
            }
            b'u' => {
                let items = self.pop_marked()?;
                let entries = self.pairs(&items)?;
                self.insert(&entries)?;
            }

            b'g' => {
                let index = self.input.index()?;
                self.get(index)?;
            }
            b'h' => {
                let index = self.input.byte()?;
                self.get(index.into())?;
            }
            b'j' => {
                let index = self.input.u32()?;
                self.get(index)?;
            }
            b'p' => {
                let index = self.input.index()?;
                self.put(index)?;
            }
            b'q' => {
                let index = self.input.byte()?;
                self.put(index.into())?;
            }
            b'r' => {
                let index = self.input.u32()?;
                self.put(index)?;
            }
            0x94 => {
                // No more entries than bytes read, and those are fewer than u32::MAX.
                let index = self.memo.len() as u32;
                self.put(index)?;
            }

            b'c' => {
                let (module, name) = (self.input.name()?, self.input.name()?);
                self.global(&module, &name)?;
            }
            0x93 => {
                let (name, module) = (self.pop()?, self.pop()?);
                let (Some(module), Some(name)) = (self.name(module), self.name(name)) else {
                    return Err(self.damaged("a global without a name"));
                };
                self.global(&module, &name)?;
            }
            b'R' | 0x81 => {
                let args = self.pop()?;
                let callable = self.pop()?;
                self.call(callable, args)?;
            }
            0x92 => {
                // Keyword arguments belong to classes that are not on the list.
                let (keywords, args, callable) = (self.pop()?, self.pop()?, self.pop()?);
                if !matches!(self.node(keywords), Node::Dict(entries) if entries.is_empty()) {
                    return Err(self.damaged("an instance with keyword arguments"));
                }
                self.call(callable, args)?;
            }
            b'o' => {
                let mut items = self.pop_marked()?;
                if items.is_empty() {
                    return Err(self.damaged("an instance without a class"));
                }
                let callable = items.remove(0);
                let args = self.add(Node::Tuple(items.into()))?;
                self.call(callable, args)?;
            }
            b'i' => {
                let (module, name) = (self.input.name()?, self.input.name()?);
                let items = self.pop_marked()?;
                let args = self.add(Node::Tuple(items.into()))?;
                self.global(&module, &name)?;
                let callable = self.pop()?;
                self.call(callable, args)?;
            }
            b'b' => {
                let state = self.pop()?;
                self.build(state)?;
            }

            b'P' => {
                let line = self.input.line()?;
                let text = String::from_utf8_lossy(&line).into_owned();
                let span = self.keep_text(&text)?;
                let id = self.add(Node::Text(span))?;
                self.push(Node::Persistent(id))?;
            }
            b'Q' => {
                let id = self.pop()?;
                self.push(Node::Persistent(id))?;
            }

            0x82..=0x84 => return Err(self.unsupported("the pickle uses a registry of extensions")),
            0x97 | 0x98 => return Err(self.unsupported("the pickle keeps buffers outside itself")),
            other => return Err(self.damaged(format!("{other:#04x} is no instruction"))),
        }
        Ok(true)
    }

    // Stack and memo.

    fn add(&mut self, node: Node) -> Result<Id, FormatError> {
        let count = self.nodes.len() as u64;
        let cap = self.limits.values.min(u32::MAX.into());
        check_cap("values in the pickle", count + 1, cap)?;
        self.nodes.push(node);
        Ok(Id(count as u32))
    }

    fn push(&mut self, node: Node) -> Result<(), FormatError> {
        let id = self.add(node)?;
        self.stack.push(id);
        Ok(())
    }

    /// Height below which lies what belongs to a mark.
    fn floor(&self) -> usize {
        self.marks.last().copied().unwrap_or(0)
    }

    fn top(&self) -> Result<Id, FormatError> {
        let own = self.stack.get(self.floor()..).unwrap_or_default();
        own.last()
            .copied()
            .ok_or_else(|| self.damaged("an instruction finds nothing on the stack"))
    }

    fn pop(&mut self) -> Result<Id, FormatError> {
        let top = self.top()?;
        self.stack.pop();
        Ok(top)
    }

    /// `POP` takes a mark when that is on top.
    fn discard(&mut self) -> Result<(), FormatError> {
        if self.marks.last() == Some(&self.stack.len()) {
            self.marks.pop();
            return Ok(());
        }
        self.pop().map(drop)
    }

    fn pop_marked(&mut self) -> Result<Vec<Id>, FormatError> {
        let Some(height) = self.marks.pop() else {
            return Err(self.damaged("an instruction finds no mark on the stack"));
        };
        Ok(self.stack.split_off(height))
    }

    fn get(&mut self, index: u32) -> Result<(), FormatError> {
        let Some(id) = self.memo.get(&index) else {
            return Err(self.damaged(format!("memo entry {index} does not exist")));
        };
        self.stack.push(*id);
        Ok(())
    }

    fn put(&mut self, index: u32) -> Result<(), FormatError> {
        let top = self.top()?;
        self.memo.insert(index, top);
        Ok(())
    }

    // Texts and numbers.

    fn keep_bytes(&mut self, bytes: &[u8]) -> Result<Span, FormatError> {
        let span = self.span(self.bytes.len(), bytes.len())?;
        self.bytes.extend_from_slice(bytes);
        Ok(span)
    }

    fn keep_text(&mut self, text: &str) -> Result<Span, FormatError> {
        let span = self.span(self.text.len(), text.len())?;
        self.text.push_str(text);
        Ok(span)
    }

    fn span(&self, start: usize, len: usize) -> Result<Span, FormatError> {
        // Replacement characters make a text up to three times longer than its bytes in the file.
        check_cap(
            "bytes of text in the pickle",
            (start + len) as u64,
            u32::MAX.into(),
        )?;
        Ok(Span {
            start: start as u32,
            len: len as u32,
        })
    }

    fn read_bytes(&mut self, len: u64) -> Result<Span, FormatError> {
        let bytes = self.input.take(len)?;
        self.keep_bytes(&bytes)
    }

    fn byte_string(&mut self, len: u64) -> Result<(), FormatError> {
        let span = self.read_bytes(len)?;
        self.push(Node::Bytes(span))
    }

    /// Text in UTF-8; a half of a surrogate pair, which Python lets through, is replaced.
    fn text(&mut self, len: u64) -> Result<(), FormatError> {
        let bytes = self.input.take(len)?;
        let span = self.keep_text(&String::from_utf8_lossy(&bytes))?;
        self.push(Node::Text(span))
    }

    fn int_line(&mut self) -> Result<(), FormatError> {
        let line = self.input.word()?;
        let node = match &*line {
            b"01" => Node::Bool(true),
            b"00" => Node::Bool(false),
            line => self.whole(line)?,
        };
        self.push(node)
    }

    fn long_line(&mut self) -> Result<(), FormatError> {
        let line = self.input.word()?;
        let node = self.whole(line.strip_suffix(b"L").unwrap_or(&line))?;
        self.push(node)
    }

    fn whole(&self, digits: &[u8]) -> Result<Node, FormatError> {
        let text = std::str::from_utf8(digits).unwrap_or_default().trim();
        if let Ok(value) = text.parse() {
            return Ok(Node::Int(value));
        }
        let unsigned = text.strip_prefix('-').unwrap_or(text);
        if unsigned.len() > 30 && unsigned.bytes().all(|byte| byte.is_ascii_digit()) {
            return Ok(Node::HugeInt);
        }
        Err(self.damaged("a whole number that is none"))
    }

    /// A whole number in two's complement, least byte first.
    fn long(&mut self, len: u64) -> Result<(), FormatError> {
        let bytes = self.input.take(len)?;
        let negative = bytes.last().is_some_and(|last| last & 0x80 != 0);
        let mut wide = [if negative { 0xff } else { 0 }; 16];
        let node = match wide.get_mut(..bytes.len()) {
            Some(low) => {
                low.copy_from_slice(&bytes);
                Node::Int(i128::from_le_bytes(wide))
            }
            None => Node::HugeInt,
        };
        self.push(node)
    }

    // Containers.

    fn tuple<const N: usize>(&mut self) -> Result<(), FormatError> {
        let mut items = [Id(0); N];
        for item in items.iter_mut().rev() {
            *item = self.pop()?;
        }
        self.push(Node::Tuple(items.into()))
    }

    fn pairs(&self, items: &[Id]) -> Result<Vec<(Id, Id)>, FormatError> {
        let (pairs, rest) = items.as_chunks::<2>();
        if !rest.is_empty() {
            return Err(self.damaged("a key without a value"));
        }
        Ok(pairs.iter().map(|[key, value]| (*key, *value)).collect())
    }

    fn extend(&mut self, more: &[Id]) -> Result<(), FormatError> {
        let top = self.top()?;
        match self.nodes.get_mut(top.0 as usize) {
            Some(Node::List(items) | Node::Set(items)) => items.extend_from_slice(more),
            Some(Node::Object(object)) => object.items.extend_from_slice(more),
            _ => return Err(self.damaged("items for what is no list")),
        }
        Ok(())
    }

    fn insert(&mut self, more: &[(Id, Id)]) -> Result<(), FormatError> {
        let top = self.top()?;
        match self.nodes.get_mut(top.0 as usize) {
            Some(Node::Dict(entries)) => entries.extend_from_slice(more),
            Some(Node::Object(object)) => object.entries.extend_from_slice(more),
            _ => return Err(self.damaged("entries for what is no dictionary")),
        }
        Ok(())
    }

    // Names and calls.

    fn node(&self, id: Id) -> &Node {
        self.nodes.get(id.0 as usize).unwrap_or(&Node::None)
    }

    fn name(&self, id: Id) -> Option<String> {
        let Node::Text(span) = self.node(id) else {
            return None;
        };
        let start = span.start as usize;
        let name = self.text.get(start..start + span.len as usize)?;
        // Copied for every mention, so a long one must not be shared by many; none is this long.
        let end = name.floor_char_boundary(MAX_WORD);
        name.get(..end).map(str::to_owned)
    }

    fn global(&mut self, module: &str, name: &str) -> Result<(), FormatError> {
        let global = lookup(module, name).ok_or_else(|| FormatError::Global {
            module: shown(module),
            name: shown(name),
            offset: self.input.position,
        })?;
        self.push(Node::Global(global))
    }

    /// Stands for `callable(*args)`.
    fn call(&mut self, callable: Id, args: Id) -> Result<(), FormatError> {
        let &Node::Global(mut global) = self.node(callable) else {
            return Err(self.damaged("a call of what is no function"));
        };
        let Node::Tuple(arguments) = self.node(args) else {
            return Err(self.damaged("a call whose arguments are no tuple"));
        };
        let mut content = args;
        if global == Global::Reconstructor {
            // (class, base, state of the base): for dictionaries the state is the content.
            let (Some(class), Some(base)) = (arguments.first(), arguments.get(2)) else {
                return Err(self.damaged("an instance without a class"));
            };
            let &Node::Global(of) = self.node(*class) else {
                return Err(self.damaged("an instance of what is no class"));
            };
            (global, content) = (of, *base);
        }
        if !global.is_callable() || global == Global::Reconstructor {
            return Err(self.damaged("a call of what is only a name"));
        }
        let is_empty = matches!(self.node(content), Node::Tuple(items) if items.is_empty());
        if global == Global::Dict && is_empty {
            return self.push(Node::Dict(Vec::new()));
        }
        self.push(Node::Object(Box::new(Object {
            global,
            args: content,
            state: None,
            items: Vec::new(),
            entries: Vec::new(),
        })))
    }

    /// Gives the object on top its state. Attributes of a dictionary (`_metadata` of a state dict) are
    /// not content and are left out.
    fn build(&mut self, state: Id) -> Result<(), FormatError> {
        let top = self.top()?;
        match self.nodes.get_mut(top.0 as usize) {
            Some(Node::Object(object)) => object.state = Some(state),
            Some(Node::Dict(_) | Node::Set(_) | Node::List(_)) => {}
            _ => return Err(self.damaged("state for what is no object")),
        }
        Ok(())
    }

    fn damaged(&self, message: impl Into<String>) -> FormatError {
        damaged(self.input.position, message)
    }

    fn unsupported(&self, what: &str) -> FormatError {
        FormatError::Unsupported {
            what: format!("{what}, at byte {}", self.input.position),
            hint: "load it in Python and write it again with `pickle.dump(value, file, protocol=4)`",
        }
    }
}

/// The bytes of the program, with a count of what is left.
struct Input<R> {
    reader: R,
    position: u64,
    left: u64,
    /// True when what is left is less than the stream holds, because of the limit.
    cut: bool,
}

impl<R: BufRead> Input<R> {
    fn require(&self, len: u64) -> Result<(), FormatError> {
        if len <= self.left {
            return Ok(());
        }
        if self.cut {
            let found = self.position.saturating_add(len);
            return check_cap("bytes of the pickle", found, self.position + self.left);
        }
        Err(self.ended())
    }

    fn ended(&self) -> FormatError {
        damaged(self.position, "it ends in the middle")
    }

    fn failed(&self, error: &io::Error) -> FormatError {
        if error.kind() == io::ErrorKind::UnexpectedEof {
            return self.ended();
        }
        damaged(self.position, error.to_string())
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], FormatError> {
        self.require(N as u64)?;
        let mut bytes = [0; N];
        let read = self.reader.read_exact(&mut bytes);
        read.map_err(|error| self.failed(&error))?;
        self.advance(N);
        Ok(bytes)
    }

    fn advance(&mut self, len: usize) {
        self.position += len as u64;
        self.left -= len as u64;
    }

    fn take(&mut self, len: u64) -> Result<Vec<u8>, FormatError> {
        self.require(len)?;
        // No more than is there: what is left is a promise of whoever gave the length.
        let mut bytes = Vec::new();
        let read = self.reader.by_ref().take(len).read_to_end(&mut bytes);
        read.map_err(|error| self.failed(&error))?;
        if bytes.len() as u64 != len {
            return Err(self.ended());
        }
        self.advance(bytes.len());
        Ok(bytes)
    }

    /// A line without its end.
    fn line(&mut self) -> Result<Vec<u8>, FormatError> {
        self.line_within(self.left)
    }

    /// A line that holds a number or a name.
    fn word(&mut self) -> Result<Vec<u8>, FormatError> {
        self.line_within(self.left.min(MAX_WORD as u64))
    }

    fn line_within(&mut self, most: u64) -> Result<Vec<u8>, FormatError> {
        let mut line = Vec::new();
        let read = self.reader.by_ref().take(most).read_until(b'\n', &mut line);
        read.map_err(|error| self.failed(&error))?;
        self.advance(line.len());
        if line.pop() != Some(b'\n') {
            return Err(damaged(self.position, "a line without an end"));
        }
        if line.last() == Some(&b'\r') {
            line.pop();
        }
        Ok(line)
    }

    fn name(&mut self) -> Result<String, FormatError> {
        let line = self.word()?;
        String::from_utf8(line).map_err(|_| damaged(self.position, "a name that is not UTF-8"))
    }

    fn index(&mut self) -> Result<u32, FormatError> {
        let line = self.word()?;
        let parsed = std::str::from_utf8(&line)
            .ok()
            .and_then(|text| text.parse().ok());
        parsed.ok_or_else(|| damaged(self.position, "a memo index that is no number"))
    }

    fn byte(&mut self) -> Result<u8, FormatError> {
        self.array().map(|[byte]| byte)
    }

    fn u32(&mut self) -> Result<u32, FormatError> {
        self.array().map(u32::from_le_bytes)
    }

    fn i32(&mut self) -> Result<i32, FormatError> {
        self.array().map(i32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, FormatError> {
        self.array().map(u64::from_le_bytes)
    }

    /// A length that the oldest instructions keep as a signed number.
    fn len_i32(&mut self) -> Result<u64, FormatError> {
        let len = self.i32()?;
        u64::try_from(len).map_err(|_| damaged(self.position, "a negative length"))
    }
}

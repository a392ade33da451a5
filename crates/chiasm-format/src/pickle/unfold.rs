//! How large the tree is that shared values stand for.

use super::{Id, MAX_DEPTH, Node, Pickle, UNFOLDED_PER_BYTE, damaged};
use crate::error::{FormatError, check_cap};

/// What is known of a node: nothing, that it is being looked at, or size and depth of its tree.
#[derive(Clone, Copy)]
enum Known {
    Nothing,
    Open,
    Tree { size: u64, depth: u32 },
}

/// Refuses a pickle whose root cannot be walked by plain recursion in bounded time and depth.
pub(super) fn check(pickle: &Pickle) -> Result<(), FormatError> {
    let mut known = vec![Known::Nothing; pickle.nodes.len()];
    // Each node is met twice: on the way in its parts are put on top of it, on the way out they are known.
    let mut open = vec![pickle.root];
    let mut parts = Vec::new();
    while let Some(&id) = open.last() {
        let Some(&state) = known.get(id.0 as usize) else {
            open.pop();
            continue;
        };
        parts.clear();
        match state {
            Known::Tree { .. } => {
                open.pop();
            }
            Known::Nothing => {
                set(&mut known, id, Known::Open);
                pickle.parts(id, &mut parts);
                for part in &parts {
                    match known.get(part.0 as usize) {
                        Some(Known::Open) => return Err(endless(pickle)),
                        Some(Known::Nothing) => open.push(*part),
                        Some(Known::Tree { .. }) | None => {}
                    }
                }
            }
            Known::Open => {
                open.pop();
                pickle.parts(id, &mut parts);
                let (mut size, mut depth) = (pickle.own_size(id), 0);
                for part in &parts {
                    if let Some(Known::Tree {
                        size: of,
                        depth: at,
                    }) = known.get(part.0 as usize)
                    {
                        size = size.saturating_add(*of);
                        depth = depth.max(at + 1);
                    }
                }
                check_cap("depth of the pickle", depth.into(), MAX_DEPTH.into())?;
                set(&mut known, id, Known::Tree { size, depth });
            }
        }
    }
    let Some(Known::Tree { size, .. }) = known.get(pickle.root.0 as usize) else {
        return Err(endless(pickle));
    };
    let cap = (pickle.len * UNFOLDED_PER_BYTE).max(1 << 20);
    check_cap("values that the pickle unfolds to", *size, cap)
}

fn set(known: &mut [Known], id: Id, state: Known) {
    if let Some(known) = known.get_mut(id.0 as usize) {
        *known = state;
    }
}

fn endless(pickle: &Pickle) -> FormatError {
    damaged(pickle.len, "a container holds itself")
}

impl Pickle {
    /// Appends what `id` is made of.
    fn parts(&self, id: Id, parts: &mut Vec<Id>) {
        let pairs = |parts: &mut Vec<Id>, entries: &[(Id, Id)]| {
            parts.extend(entries.iter().flat_map(|(key, value)| [*key, *value]));
        };
        match self.node(id) {
            Node::List(items) | Node::Set(items) => parts.extend(items),
            Node::Tuple(items) => parts.extend(items),
            Node::Dict(entries) => pairs(parts, entries),
            Node::Persistent(of) => parts.push(*of),
            Node::Object(object) => {
                parts.push(object.args);
                parts.extend(object.state);
                parts.extend(&object.items);
                pairs(parts, &object.entries);
            }
            Node::None
            | Node::Bool(_)
            | Node::Int(_)
            | Node::HugeInt
            | Node::Float(_)
            | Node::Text(_)
            | Node::Str2(_)
            | Node::Bytes(_)
            | Node::Global(_) => {}
        }
    }

    fn own_size(&self, id: Id) -> u64 {
        match self.node(id) {
            Node::Text(span) | Node::Str2(span) | Node::Bytes(span) => 1 + u64::from(span.len),
            _ => 1,
        }
    }
}

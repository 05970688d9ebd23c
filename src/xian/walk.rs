//! Reading one file of the state: every group with `value`, `block` or both becomes a
//! record, depth first, by name.
//!
//! Laws:
//!
//! * Memory does not grow with the file: see [`links`](super::links).
//! * What the chain's code never makes (other links than its own, other objects than
//!   groups, other attributes, other types) ends the walk with a word on what stands
//!   where. Left out, it would be lost at the next restore without a word.
//! * A walk ends: no deeper than [`MAX_LEVELS`](super::path::MAX_LEVELS), and no more
//!   groups than a file of its size can hold. A group that two links lead to is refused
//!   by the number of links that it notes itself; where that number lies too, the
//!   count of groups ends the walk.

use std::ffi::CStr;
use std::io;
use std::path::Path;

use super::hdf5::{Attribute, File, Found, Group, Library, Problem};
use super::links::Links;
use super::path::Here;
use crate::state::{MAX_STAMP_BYTES, MAX_VALUE_BYTES};

/// The attribute that holds a value.
pub(super) const VALUE: &CStr = c"value";
/// The attribute that holds the time of the block that wrote it.
pub(super) const BLOCK: &CStr = c"block";

/// The least that a group takes in a file: its header and the link to it have 72
/// bytes in the most compact form.
const LEAST_GROUP_BYTES: u64 = 64;

/// A group as it was found.
pub(super) struct Seen<'a> {
    pub(super) key: &'a [u8],
    pub(super) value: Option<&'a [u8]>,
    pub(super) stamp: SeenStamp<'a>,
}

/// The time of its block as it was found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum SeenStamp<'a> {
    Absent,
    Text(&'a [u8]),
    Int(i64),
}

/// Why a walk ended early.
pub(super) enum Ended<E> {
    /// Something stands in the file that does not belong there, or cannot be read.
    Content { key: Vec<u8>, problem: Problem },
    /// The system refuses a file that is being made, or may not be read.
    Fault(io::Error),
    /// Who takes or gives the records does not go on.
    Taker(E),
}

/// Who takes records.
pub(super) trait Taker {
    /// Why it stops.
    type Error;
    /// A record.
    fn take(&mut self, seen: Seen<'_>) -> Result<(), Self::Error>;
    /// Called often while nothing is found.
    fn alive(&mut self);
}

/// Walks through the file at `path`.
pub(super) fn walk<T: Taker>(path: &Path, taker: &mut T) -> Result<(), Ended<T::Error>> {
    // Whoever may not read it is told so, and not that it is damaged.
    let file = std::fs::File::open(path).map_err(Ended::Fault)?;
    let bytes = file.metadata().map_err(Ended::Fault)?.len();
    drop(file);
    let mut ended = Ok(());
    let library = Library::with(|library| {
        let file = File::open(library, path)?;
        let mut walk = Walk {
            here: Here::default(),
            groups_left: bytes / LEAST_GROUP_BYTES,
            taker,
        };
        ended = walk.all(&file);
        Ok(())
    });
    library.map_err(|problem| Ended::Content {
        key: Vec::new(),
        problem,
    })?;
    ended
}

struct Walk<'t, T> {
    here: Here,
    groups_left: u64,
    taker: &'t mut T,
}

impl<T: Taker> Walk<'_, T> {
    fn all(&mut self, file: &File<'_>) -> Result<(), Ended<T::Error>> {
        let root = file.root().map_err(|problem| self.at_here(problem))?;
        let mut open = Vec::new();
        if let Some(links) = self.visit(&root)? {
            open.push((root, links));
        }
        while let Some((group, links)) = open.last_mut() {
            let next = links.next(group, &mut || self.taker.alive());
            let Some(link) = next.map_err(|problem| self.at_here(problem))? else {
                open.pop();
                self.here.leave();
                continue;
            };
            let entered = self.here.enter(&link.name);
            entered.map_err(|problem| self.at_here(problem.to_owned()))?;
            let child = match link.found {
                Found::Object(token) => group.child(token),
                Found::Soft => Err("it is a soft link; the chain makes none".to_owned()),
                Found::Foreign => Err("it is a link into another file".to_owned()),
            };
            let child = child.map_err(|problem| self.at_here(problem))?;
            match self.visit(&child)? {
                Some(links) => open.push((child, links)),
                None => self.here.leave(),
            }
        }
        Ok(())
    }

    /// Looks at one group; gives its links where it has some.
    fn visit(&mut self, group: &Group<'_>) -> Result<Option<Links>, Ended<T::Error>> {
        self.count().map_err(|problem| self.at_here(problem))?;
        let found = read(group).map_err(|problem| self.at_here(problem))?;
        let value = match &found.value {
            None => None,
            Some(Attribute::Text(text)) => Some(text.as_bytes()),
            Some(Attribute::Int(_)) => {
                return Err(self.at_here("its value is a number, not a text".to_owned()));
            }
        };
        let stamp = match &found.block {
            None => SeenStamp::Absent,
            Some(Attribute::Text(text)) => SeenStamp::Text(text.as_bytes()),
            Some(Attribute::Int(number)) => SeenStamp::Int(*number),
        };
        check(value, stamp).map_err(|problem| self.at_here(problem))?;
        if value.is_some() || stamp != SeenStamp::Absent {
            let key = self.here.key();
            let seen = Seen { key, value, stamp };
            self.taker.take(seen).map_err(Ended::Taker)?;
        } else {
            self.taker.alive();
        }
        let shape = group.shape().map_err(|problem| self.at_here(problem))?;
        let has_links = shape.links > 0;
        Ok(has_links.then(|| Links::new(shape, self.here.level())))
    }

    fn count(&mut self) -> Result<(), Problem> {
        let left = self.groups_left.checked_sub(1);
        self.groups_left = left.ok_or_else(|| {
            "the file is too small for so many groups: its links go in circles".to_owned()
        })?;
        Ok(())
    }

    fn at_here(&self, problem: Problem) -> Ended<T::Error> {
        Ended::Content {
            key: self.here.key().to_vec(),
            problem,
        }
    }
}

/// The two attributes of a group.
struct Attributes {
    value: Option<Attribute>,
    block: Option<Attribute>,
}

fn read(group: &Group<'_>) -> Result<Attributes, Problem> {
    let facts = group.facts()?;
    if !facts.is_group {
        return Err("it is no group".to_owned());
    }
    if facts.references > 1 {
        return Err(format!("{} links lead to it", facts.references));
    }
    let named = |name: &CStr| {
        let attribute = group.attribute(name);
        attribute.map_err(|problem| format!("its attribute {}: {problem}", name.to_string_lossy()))
    };
    let value = named(VALUE)?;
    let block = named(BLOCK)?;
    let known = u64::from(value.is_some()) + u64::from(block.is_some());
    if facts.attributes != known {
        return Err("it has attributes beside value and block".to_owned());
    }
    Ok(Attributes { value, block })
}

/// Records are text, within the limits of the state's format.
fn check(value: Option<&[u8]>, stamp: SeenStamp<'_>) -> Result<(), Problem> {
    if let Some(value) = value {
        check_text("value", value, MAX_VALUE_BYTES)?;
    }
    if let SeenStamp::Text(text) = stamp {
        check_text("block", text, MAX_STAMP_BYTES)?;
    }
    Ok(())
}

fn check_text(what: &str, text: &[u8], limit: usize) -> Result<(), Problem> {
    if text.len() > limit {
        let len = text.len();
        return Err(format!("its {what} has {len} bytes, more than {limit}"));
    }
    match std::str::from_utf8(text) {
        Ok(_) => Ok(()),
        Err(_) => Err(format!("its {what} is not UTF-8")),
    }
}

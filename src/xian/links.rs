//! The links of a group in the order of their names.
//!
//! A group that the chain's code made keeps its links sorted; they come as they
//! stand. One of the later formats keeps them by a hash, so they have to be sorted
//! here. As many as the memory takes are held, the smallest; the group is gone through
//! again for the next ones. So a group of any size takes the same memory, and half a
//! microsecond a link for each time.

use std::cmp::Ordering;
use std::ops::ControlFlow;
use std::vec;

use super::hdf5::{Found, Group, Kind, Problem, Shape};

/// Bytes of names that a group on the first level holds; half of it each level
/// below, as groups above hold theirs meanwhile. With 64 bytes to a name, half a
/// million links are read in one go.
const MOST_BYTES: usize = 64 << 20;
/// What a group on any level may hold.
const LEAST_BYTES: usize = 256 << 10;
/// What a link takes in memory beside its name.
const LINK_BYTES: usize = 48;

/// A link that was read.
pub(super) struct Link {
    pub(super) name: Box<[u8]>,
    pub(super) found: Found,
}

/// Gives the links of one group.
pub(super) struct Links {
    shape: Shape,
    budget: usize,
    batch: vec::IntoIter<Link>,
    /// Links that were given or are in the batch.
    seen: u64,
    /// The last of the batch.
    last: Option<Box<[u8]>>,
}

impl Links {
    /// Of a group of this shape, so many levels below the root.
    pub(super) fn new(shape: Shape, level: usize) -> Self {
        let budget = MOST_BYTES.checked_shr(level as u32).unwrap_or(0);
        Self {
            shape,
            budget: budget.max(LEAST_BYTES),
            batch: Vec::new().into_iter(),
            seen: 0,
            last: None,
        }
    }

    /// The next link. `alive` is called now and then while they are gathered.
    pub(super) fn next(
        &mut self,
        group: &Group<'_>,
        alive: &mut dyn FnMut(),
    ) -> Result<Option<Link>, Problem> {
        if let Some(link) = self.batch.next() {
            return Ok(Some(link));
        }
        if self.seen == self.shape.links {
            return Ok(None);
        }
        let batch = match self.shape.kind {
            Kind::Sorted => self.read_sorted(group, alive)?,
            Kind::Few | Kind::Hashed => self.read_smallest(group, alive)?,
        };
        let Some(last) = batch.last() else {
            return Err(format!(
                "it says that it has {} links, and shows {}",
                self.shape.links, self.seen
            ));
        };
        self.last = Some(last.name.clone());
        self.seen += batch.len() as u64;
        self.batch = batch.into_iter();
        Ok(self.batch.next())
    }

    /// Those that follow, as they stand.
    fn read_sorted(
        &self,
        group: &Group<'_>,
        alive: &mut dyn FnMut(),
    ) -> Result<Vec<Link>, Problem> {
        let mut batch: Vec<Link> = Vec::new();
        let (mut bytes, mut wrong) = (0, None);
        group.each_link(self.shape.kind, self.seen, &mut |name, found| {
            alive();
            let before = batch.last().map(|link| &link.name).or(self.last.as_ref());
            if before.is_some_and(|before| **before >= *name) {
                wrong = Some(out_of_order(name));
                return ControlFlow::Break(());
            }
            bytes += name.len() + LINK_BYTES;
            batch.push(Link {
                name: name.into(),
                found,
            });
            match bytes < self.budget {
                true => ControlFlow::Continue(()),
                false => ControlFlow::Break(()),
            }
        })?;
        match wrong {
            Some(wrong) => Err(wrong),
            None => Ok(batch),
        }
    }

    /// The smallest of those that were not given yet.
    fn read_smallest(
        &self,
        group: &Group<'_>,
        alive: &mut dyn FnMut(),
    ) -> Result<Vec<Link>, Problem> {
        let mut batch: Vec<Link> = Vec::new();
        let (mut bytes, mut shown) = (0, 0);
        // Where it was cut: what is greater comes another time.
        let mut ceiling: Option<Box<[u8]>> = None;
        group.each_link(self.shape.kind, 0, &mut |name, found| {
            alive();
            shown += 1;
            if shown > self.shape.links {
                return ControlFlow::Break(());
            }
            let given = self.last.as_ref().is_some_and(|last| *name <= **last);
            let late = ceiling.as_ref().is_some_and(|last| *name > **last);
            if given || late {
                return ControlFlow::Continue(());
            }
            bytes += name.len() + LINK_BYTES;
            batch.push(Link {
                name: name.into(),
                found,
            });
            if bytes > 2 * self.budget {
                bytes = cut(&mut batch, self.budget);
                ceiling = batch.last().map(|link| link.name.clone());
            }
            ControlFlow::Continue(())
        })?;
        if shown != self.shape.links {
            return Err(format!(
                "it says that it has {} links, and shows {shown}",
                self.shape.links
            ));
        }
        batch.sort_unstable_by(by_name);
        match batch.windows(2).find(|pair| pair[0].name == pair[1].name) {
            Some(pair) => Err(out_of_order(&pair[0].name)),
            None => Ok(batch),
        }
    }
}

/// Keeps the smallest, in order, up to `budget` bytes; gives their bytes.
fn cut(batch: &mut Vec<Link>, budget: usize) -> usize {
    batch.sort_unstable_by(by_name);
    let mut bytes = 0;
    let keep = batch.iter().take_while(|link| {
        bytes += link.name.len() + LINK_BYTES;
        bytes <= budget
    });
    let keep = keep.count().max(1);
    batch.truncate(keep);
    batch.iter().map(|link| link.name.len() + LINK_BYTES).sum()
}

fn by_name(one: &Link, other: &Link) -> Ordering {
    one.name.cmp(&other.name)
}

fn out_of_order(name: &[u8]) -> Problem {
    format!(
        "its link {} stands twice, or not where it should",
        name.escape_ascii()
    )
}

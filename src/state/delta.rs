//! What changed from one state to another, and how the other is made of it.
//!
//! Both ways are merges of two streams in the order of places: memory is one
//! record of each. Streams are iterators of results, so that whoever reads a disk
//! on the other side can fail; after an error they end.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use super::StateError;
use super::entry::Last;
use super::record::{Change, Place, Record};
use crate::snapshot::Scope;

/// How a record differs from the base's.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Difference {
    /// The base has none at this place.
    Added(Record),
    /// The base has another.
    Changed {
        /// The base's.
        before: Record,
        /// The new one.
        after: Record,
    },
    /// The base has this one, the new state has none.
    Removed(Record),
}

impl Difference {
    /// The place where the states differ.
    pub fn place(&self) -> &Place {
        match self {
            Self::Added(record) | Self::Removed(record) => record.place(),
            Self::Changed { after, .. } => after.place(),
        }
    }

    /// What a delta says of it.
    pub fn into_change(self) -> Change {
        match self {
            Self::Added(record) | Self::Changed { after: record, .. } => Change::Put(record),
            Self::Removed(record) => Change::Removed(record.place().clone()),
        }
    }
}

/// The differences of a new state from its base, in the order of places.
pub struct Differences<B: Iterator, N: Iterator> {
    base: InOrder<B>,
    new: InOrder<N>,
    is_at_end: bool,
}

impl<B, N, E> Differences<B, N>
where
    B: Iterator<Item = Result<Record, E>>,
    N: Iterator<Item = Result<Record, E>>,
    E: From<StateError>,
{
    /// Compares two streams of records.
    pub fn new(base: B, new: N) -> Self {
        Self {
            base: InOrder::new(base),
            new: InOrder::new(new),
            is_at_end: false,
        }
    }

    fn read(&mut self) -> Result<Option<Difference>, E> {
        loop {
            let (before, after) = match first(&mut self.base, &mut self.new) {
                Ordering::Less => (self.base.take()?, None),
                Ordering::Greater => (None, self.new.take()?),
                Ordering::Equal => (self.base.take()?, self.new.take()?),
            };
            return Ok(Some(match (before, after) {
                (None, None) => return Ok(None),
                (None, Some(record)) => Difference::Added(record),
                (Some(record), None) => Difference::Removed(record),
                (Some(before), Some(after)) if before == after => continue,
                (Some(before), Some(after)) => Difference::Changed { before, after },
            }));
        }
    }
}

impl<B, N, E> Iterator for Differences<B, N>
where
    B: Iterator<Item = Result<Record, E>>,
    N: Iterator<Item = Result<Record, E>>,
    E: From<StateError>,
{
    type Item = Result<Difference, E>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.is_at_end {
            return None;
        }
        let read = self.read();
        self.is_at_end = !matches!(read, Ok(Some(_)));
        read.transpose()
    }
}

/// The records of the state that a delta makes of its base. A change that removes
/// what the base does not have is an error: it is the delta of another base. The
/// hash in the delta's notes says whether all of it was right.
pub struct Applied<B: Iterator, C: Iterator> {
    base: InOrder<B>,
    changes: InOrder<C>,
    is_at_end: bool,
}

impl<B, C, E> Applied<B, C>
where
    B: Iterator<Item = Result<Record, E>>,
    C: Iterator<Item = Result<Change, E>>,
    E: From<StateError>,
{
    /// Merges a stream of records with a stream of changes.
    pub fn new(base: B, changes: C) -> Self {
        Self {
            base: InOrder::new(base),
            changes: InOrder::new(changes),
            is_at_end: false,
        }
    }

    fn read(&mut self) -> Result<Option<Record>, E> {
        loop {
            let side = first(&mut self.base, &mut self.changes);
            if side == Ordering::Less {
                return self.base.take();
            }
            let before = match side {
                Ordering::Equal => self.base.take()?,
                _ => None,
            };
            match self.changes.take()? {
                None => return Ok(None),
                Some(Change::Put(record)) => return Ok(Some(record)),
                Some(Change::Removed(_)) if before.is_some() => {}
                Some(Change::Removed(place)) => {
                    return Err(StateError::OtherBase(place.to_string()).into());
                }
            }
        }
    }
}

impl<B, C, E> Iterator for Applied<B, C>
where
    B: Iterator<Item = Result<Record, E>>,
    C: Iterator<Item = Result<Change, E>>,
    E: From<StateError>,
{
    type Item = Result<Record, E>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.is_at_end {
            return None;
        }
        let read = self.read();
        self.is_at_end = !matches!(read, Ok(Some(_)));
        read.transpose()
    }
}

/// A stream of records, of whatever makes it.
pub type RecordStream<'a, E> = Box<dyn Iterator<Item = Result<Record, E>> + 'a>;

/// The records that a chain of deltas makes of its base, each of what the one
/// before made.
pub fn applied_all<'a, C, E>(
    base: RecordStream<'a, E>,
    deltas: impl IntoIterator<Item = C>,
) -> RecordStream<'a, E>
where
    C: Iterator<Item = Result<Change, E>> + 'a,
    E: From<StateError> + 'a,
{
    deltas
        .into_iter()
        .fold(base, |base, changes| Box::new(Applied::new(base, changes)))
}

/// What stands at a place.
trait Placed {
    fn place(&self) -> &Place;
}

impl Placed for Record {
    fn place(&self) -> &Place {
        self.place()
    }
}

impl Placed for Change {
    fn place(&self) -> &Place {
        self.place()
    }
}

/// A stream with a look at its next item, in which a place out of order is an
/// error: a merge would go wrong there without a sign.
struct InOrder<I: Iterator> {
    inner: I,
    next: Option<I::Item>,
    is_looked_at: bool,
    last: Last,
}

impl<I, T, E> InOrder<I>
where
    I: Iterator<Item = Result<T, E>>,
    T: Placed,
    E: From<StateError>,
{
    fn new(inner: I) -> Self {
        Self {
            inner,
            next: None,
            is_looked_at: false,
            last: Last::default(),
        }
    }

    fn peek(&mut self) -> Option<&Result<T, E>> {
        if !self.is_looked_at {
            self.is_looked_at = true;
            self.next = self.inner.next().map(|item| {
                let item = item?;
                self.last.check_order(item.place())?;
                self.last.set(item.place());
                Ok(item)
            });
        }
        self.next.as_ref()
    }

    fn take(&mut self) -> Result<Option<T>, E> {
        self.peek();
        self.is_looked_at = false;
        self.next.take().transpose()
    }
}

/// Which of two streams has the next place: the first one (`Less`), the second,
/// or both. An error comes ahead of all places, the end behind them.
fn first<A, B, T, U, E>(a: &mut InOrder<A>, b: &mut InOrder<B>) -> Ordering
where
    A: Iterator<Item = Result<T, E>>,
    B: Iterator<Item = Result<U, E>>,
    T: Placed,
    U: Placed,
    E: From<StateError>,
{
    match (a.peek(), b.peek()) {
        (Some(Err(_)), _) => Ordering::Less,
        (_, Some(Err(_))) => Ordering::Greater,
        (Some(Ok(a)), Some(Ok(b))) => a.place().cmp(b.place()),
        (Some(_), None) => Ordering::Less,
        (None, Some(_)) => Ordering::Greater,
        (None, None) => Ordering::Equal,
    }
}

/// How many records, and how many bytes of keys and values.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Tally {
    /// Records.
    pub records: u64,
    /// Bytes of their keys, values and stamps' texts.
    pub bytes: u64,
}

/// What differs in one scope.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct ScopeSummary {
    /// Records that the base does not have.
    pub added: Tally,
    /// Records that the base has otherwise; bytes of the new ones.
    pub changed: Tally,
    /// Records that only the base has.
    pub removed: Tally,
}

/// What differs, by scope. Holds a few numbers for each scope with a difference.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Summary(BTreeMap<Scope, ScopeSummary>);

impl Summary {
    /// Counts a difference.
    pub fn add(&mut self, difference: &Difference) {
        let scope = difference.place().scope.clone();
        let scope = self.0.entry(scope).or_default();
        let (tally, record) = match difference {
            Difference::Added(record) => (&mut scope.added, record),
            Difference::Changed { after, .. } => (&mut scope.changed, after),
            Difference::Removed(record) => (&mut scope.removed, record),
        };
        tally.records += 1;
        tally.bytes += record.content_bytes() as u64;
    }

    /// The scopes with a difference, in order.
    pub fn scopes(&self) -> impl Iterator<Item = (&Scope, &ScopeSummary)> {
        self.0.iter()
    }
}

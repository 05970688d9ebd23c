//! Making one file of the state from its records.

use std::fs;
use std::io;
use std::path::Path;

use super::hdf5::{Library, NewFile, NewGroup, Problem, system_error};
use super::path::{self, SEPARATOR};
use super::walk::{BLOCK, Ended, VALUE};
use crate::state::{Record, Stamp};

/// Makes a file at `path`, where none may be, from what `next` gives in order, and
/// waits until the disk has it. What is left after an error is no file of the state.
pub(super) fn write<E>(
    path: &Path,
    mut next: impl FnMut() -> Result<Option<Record>, E>,
) -> Result<(), Ended<E>> {
    let mut ended = Ok(());
    let library = Library::with(|library| {
        let file = NewFile::create(library, path)?;
        ended = fill(&file, &mut next);
        match ended.is_ok() {
            true => file.close(),
            false => Ok(()),
        }
    });
    ended?;
    library.map_err(|problem| failed(&[], problem))?;
    let synced = fs::File::open(path).and_then(|file| file.sync_all());
    synced.map_err(Ended::Fault)
}

/// What did not work at a key: by the system, or because of the records.
fn failed<E>(key: &[u8], problem: Problem) -> Ended<E> {
    match system_error(&problem) {
        // The place of records that came before.
        Some(error) if error.kind() != io::ErrorKind::AlreadyExists => Ended::Fault(error),
        _ => Ended::Content {
            key: key.to_vec(),
            problem,
        },
    }
}

fn fill<E>(
    file: &NewFile<'_>,
    next: &mut impl FnMut() -> Result<Option<Record>, E>,
) -> Result<(), Ended<E>> {
    let root = file.root().map_err(|problem| failed(&[], problem))?;
    let mut open = Open {
        key: Vec::new(),
        groups: vec![(0, root)],
    };
    let mut following = next().map_err(Ended::Taker)?;
    while let Some(record) = following {
        following = next().map_err(Ended::Taker)?;
        let after = following.as_ref().map(|record| record.key().as_bytes());
        open.put(&record, after)
            .map_err(|problem| failed(record.key().as_bytes(), problem))?;
    }
    Ok(())
}

/// The groups on the way to the last that was made, as far as more may follow in them.
struct Open<'f> {
    /// The key of the innermost.
    key: Vec<u8>,
    /// With the length of its key.
    groups: Vec<(usize, NewGroup<'f>)>,
}

impl Open<'_> {
    /// Makes the group of a record; `after` is the key of the next one.
    fn put(&mut self, record: &Record, after: Option<&[u8]>) -> Result<(), Problem> {
        let key = record.key().as_bytes();
        if after.is_some_and(|after| after <= key) {
            return Err("the next record does not follow it".to_owned());
        }
        let names = path::check_key(key).map_err(str::to_owned)?;
        let has_children = after.is_some_and(|after| is_below(key, after));
        self.leave_for(key);
        let mut missing = names.into_iter().skip(self.groups.len() - 1).peekable();
        let mut made = None;
        while let Some(name) = missing.next() {
            let is_last = missing.peek().is_none();
            let (len, above) = self.groups.last().ok_or("there is no root")?;
            let group = above.group(name, has_children || !is_last)?;
            let len = len + usize::from(*len > 0) + name.len();
            if is_last && !has_children {
                made = Some(group);
            } else {
                self.groups.push((len, group));
            }
        }
        self.key.clear();
        self.key.extend_from_slice(key);
        let group = match &made {
            Some(group) => group,
            None => &self.groups.last().ok_or("there is no root")?.1,
        };
        if let Some(value) = record.value() {
            group.set_text(VALUE, value)?;
        }
        match record.stamp() {
            Stamp::Absent => Ok(()),
            Stamp::Text(text) => group.set_text(BLOCK, text.as_str().as_bytes()),
            Stamp::Int(number) => group.set_int(BLOCK, *number),
        }
    }

    /// Closes the groups that `key` does not lie in.
    fn leave_for(&mut self, key: &[u8]) {
        while let Some((len, _)) = self.groups.last()
            && *len > 0
            && !is_below(&self.key[..*len], key)
        {
            self.groups.pop();
        }
    }
}

/// Whether the second key lies below the first.
fn is_below(above: &[u8], key: &[u8]) -> bool {
    match key.strip_prefix(above) {
        Some(rest) => above.is_empty() || rest.first() == Some(&SEPARATOR),
        None => false,
    }
}

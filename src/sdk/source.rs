//! The folder as a [`Source`]: which of its snapshots are waited for, read, offered
//! and left out.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::SdkError;
use super::examine::{Examined, Finished, examine};
use super::files::{self, Form, Name, Opened, is_gone};
use super::pace;
use crate::snapshot::hash::sha256;
use crate::snapshot::{Digest, Manifest, Offer, OpenSnapshot, Source, SourceError};

/// Offers of one folder, the newest: more than anybody keeps, and no more than the
/// hall remembers as taken.
pub const MAX_OFFERS: usize = 32;
/// Formats of which the end is known; see the room's own words.
const FORMATS: RangeInclusive<u32> = 1..=3;
/// A node writes a chunk in one go, so files that are the same for so long are not
/// being written.
pub(super) const QUIET: Duration = Duration::from_secs(10);
/// The same where all files are full: the node may be at work on the next chunk. Also
/// the pause after a disk that did not read.
pub(super) const LONG_QUIET: Duration = Duration::from_secs(600);

/// What decides beside the files.
#[derive(Clone, Debug)]
pub struct View {
    /// Heights whose application hash the chain tells, and behind which it has the
    /// two blocks that a restoring node asks for.
    pub heights: RangeInclusive<u64>,
    /// The chain's snapshots that are in the store: they are not read again.
    pub here: Vec<Arc<Manifest>>,
}

/// The snapshots of a folder. Blocking.
pub struct SnapshotFolder {
    dir: PathBuf,
    /// So many of the newest are looked at.
    newest: usize,
    stop: Box<dyn Fn() -> bool + Send>,
    view: View,
    /// What was found of those that are looked at.
    known: BTreeMap<Name, Known>,
    waiting: Option<String>,
}

struct Known {
    /// What was found holds while the files have it.
    stamp: Digest,
    found: Found,
}

enum Found {
    /// Not read; from then on it may be.
    Unread {
        from: Instant,
        why: String,
    },
    Finished(Arc<Finished>),
    LeftOut(String),
}

/// How it stands with a snapshot.
enum Standing {
    Offered(Offer),
    /// It can be read now.
    Ripe(Form),
    Waiting(String),
    LeftOut(String),
    Gone,
}

impl SnapshotFolder {
    /// Of `dir` the `newest` snapshots, at most [`MAX_OFFERS`]; reads nothing yet.
    /// Work ends early when `stop` says so.
    pub fn new(dir: &Path, newest: usize, stop: impl Fn() -> bool + Send + 'static) -> Self {
        Self {
            dir: dir.to_owned(),
            newest: newest.min(MAX_OFFERS),
            stop: Box::new(stop),
            view: View {
                heights: RangeInclusive::new(1, 0),
                here: Vec::new(),
            },
            known: BTreeMap::new(),
            waiting: None,
        }
    }

    /// How the world stands, for the next [`Source::list`].
    pub fn see(&mut self, view: View) {
        self.view = view;
    }

    /// Why the newest snapshot, as far as it is newer than all that was offered, was
    /// not.
    pub fn waiting(&self) -> Option<&str> {
        self.waiting.as_deref()
    }

    /// What can be opened, newest first. Of the snapshots that were not read yet, the
    /// oldest is: it takes the time that reading takes, and the shelf wants the newest
    /// to arrive last.
    pub(super) fn look(&mut self, now: Instant) -> Result<Vec<Offer>, SdkError> {
        let names = files::newest(&self.dir).map_err(|source| SdkError::Folder {
            path: self.dir.clone(),
            source,
        })?;
        let mut offers = Vec::new();
        let mut looked_at = BTreeSet::new();
        let mut ripe = None;
        let mut waiting = None;
        // Those that are left out take no room.
        let mut counted = 0;
        for name in names {
            if counted == self.newest || (self.stop)() {
                break;
            }
            looked_at.insert(name);
            counted += 1;
            let why = match self.standing(name, now) {
                Standing::Offered(offer) => {
                    offers.push(offer);
                    continue;
                }
                Standing::Ripe(form) => {
                    ripe = Some((name, form));
                    "it is read soon".to_owned()
                }
                Standing::Waiting(why) => why,
                Standing::LeftOut(why) => {
                    counted -= 1;
                    why
                }
                Standing::Gone => {
                    counted -= 1;
                    continue;
                }
            };
            if offers.is_empty() && waiting.is_none() {
                waiting = Some((name, why));
            }
        }
        self.known.retain(|name, _| looked_at.contains(name));
        if let Some((name, form)) = ripe {
            let read = self.read(name, form, now);
            let is_told = |told: &(Name, String)| told.0 > name;
            match read {
                Ok(offer) => {
                    waiting = waiting.filter(is_told);
                    let at = offers.partition_point(|newer| is_newer(newer, name));
                    offers.insert(at, offer);
                }
                Err(_) if offers.iter().any(|newer| is_newer(newer, name)) => {}
                Err(why) => waiting = waiting.filter(is_told).or(Some((name, why))),
            }
        }
        self.waiting = waiting.map(|(name, why)| sentence(name, &why));
        Ok(offers)
    }

    fn standing(&mut self, name: Name, now: Instant) -> Standing {
        if !FORMATS.contains(&name.format) {
            let why =
                "only the formats 1 to 3 can be told finished; --harvest takes it from the node";
            return Standing::LeftOut(why.to_owned());
        }
        if name.height > *self.view.heights.end() {
            return Standing::Waiting("the chain is not two blocks further yet".to_owned());
        }
        if name.height < *self.view.heights.start() {
            let why = "the RPC does not have the block behind it any more";
            return Standing::LeftOut(why.to_owned());
        }
        let look = match files::look(&self.dir, name) {
            Ok(look) => look,
            Err(error) if is_gone(&error) => return Standing::Gone,
            Err(error) => return Standing::LeftOut(error.to_string()),
        };
        if let Ok(form) = look.form
            && let Some(offer) = self.here(name, form)
        {
            return Standing::Offered(offer);
        }
        let same = self.known.get(&name);
        if same.is_none_or(|known| known.stamp != look.stamp) {
            let is_full = look.form.as_ref().is_ok_and(|form| form.is_full());
            let quiet = if is_full { LONG_QUIET } else { QUIET };
            let found = Found::Unread {
                from: now + quiet,
                why: "its files may still change".to_owned(),
            };
            self.set(name, look.stamp, found);
        }
        match &self.known[&name].found {
            Found::Finished(finished) => Standing::Offered(finished.offer.clone()),
            Found::LeftOut(why) => Standing::LeftOut(why.clone()),
            Found::Unread { from, why } if now < *from => Standing::Waiting(why.clone()),
            Found::Unread { .. } => match look.form {
                Ok(form) => Standing::Ripe(form),
                Err(unfit) => {
                    Standing::LeftOut(self.leave_out(name, look.stamp, unfit.to_string()))
                }
            },
        }
    }

    /// The offer of a snapshot of these sizes that is in the store.
    fn here(&self, name: Name, form: Form) -> Option<Offer> {
        let is_it = |manifest: &&Arc<Manifest>| {
            manifest.height() == name.height
                && manifest.format() == name.format
                && manifest.chunk_count() == form.chunks
                && manifest.total_bytes() == form.total_bytes()
        };
        let manifest = self.view.here.iter().find(is_it)?;
        Some(Offer {
            height: name.height,
            format: name.format,
            chunks: form.chunks,
            hash: manifest.hash().clone(),
            metadata: manifest.metadata().clone(),
        })
    }

    fn set(&mut self, name: Name, stamp: Digest, found: Found) {
        self.known.insert(name, Known { stamp, found });
    }

    fn leave_out(&mut self, name: Name, stamp: Digest, why: String) -> String {
        tracing::warn!(
            height = name.height,
            format = name.format,
            why,
            "a snapshot of the folder is left out"
        );
        self.set(name, stamp, Found::LeftOut(why.clone()));
        why
    }

    /// Reads one that is ripe; tells why it is no offer.
    fn read(&mut self, name: Name, form: Form, now: Instant) -> Result<Offer, String> {
        let stamp = self.known[&name].stamp;
        let examined = match Opened::open(&self.dir, name) {
            Ok(Some(opened)) => examine(&opened, name, form, &self.stop),
            Ok(None) => Ok(Examined::Changed),
            Err(error) => Err(error),
        };
        let is_same = files::look(&self.dir, name).is_ok_and(|look| look.stamp == stamp);
        match examined {
            Ok(Examined::Stopped) => Err("reading it was interrupted".to_owned()),
            Ok(Examined::Finished(finished)) if is_same => {
                let offer = finished.offer.clone();
                self.set(name, stamp, Found::Finished(Arc::new(finished)));
                Ok(offer)
            }
            Ok(Examined::Unfit(unfit)) if is_same => {
                Err(self.leave_out(name, stamp, unfit.to_string()))
            }
            Ok(_) => {
                tracing::info!(
                    height = name.height,
                    format = name.format,
                    "the node changed or removed a snapshot while it was read"
                );
                self.known.remove(&name);
                Err("it changed while it was read".to_owned())
            }
            Err(error) => {
                let why = words(&error);
                tracing::warn!(
                    height = name.height,
                    format = name.format,
                    error = why,
                    "a snapshot of the folder cannot be read"
                );
                let (from, told) = (now + LONG_QUIET, why.clone());
                self.set(name, stamp, Found::Unread { from, why });
                Err(told)
            }
        }
    }
}

fn is_newer(offer: &Offer, name: Name) -> bool {
    (offer.height, offer.format) > (name.height, name.format)
}

fn sentence(name: Name, why: &str) -> String {
    format!("height {}, format {}: {why}", name.height, name.format)
}

fn words(error: &SdkError) -> String {
    match std::error::Error::source(error) {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}

fn failed(error: SdkError) -> SourceError {
    SourceError::Failed(Box::new(error))
}

impl Source for SnapshotFolder {
    fn list(&mut self) -> Result<Vec<Offer>, SourceError> {
        self.look(Instant::now()).map_err(failed)
    }

    fn open(&mut self, offer: &Offer) -> Result<Box<dyn OpenSnapshot + '_>, SourceError> {
        let name = Name {
            height: offer.height,
            format: offer.format,
        };
        let finished = match self.known.get(&name).map(|known| &known.found) {
            Some(Found::Finished(finished)) if finished.offer == *offer => finished.clone(),
            _ => return Err(gone(name)),
        };
        let Some(opened) = Opened::open(&self.dir, name).map_err(failed)? else {
            return Err(gone(name));
        };
        Ok(Box::new(Reading {
            folder: self,
            name,
            opened,
            finished,
            next: 0,
        }))
    }
}

fn gone(name: Name) -> SourceError {
    SourceError::Gone {
        height: name.height,
        format: name.format,
    }
}

/// A snapshot under reading.
struct Reading<'a> {
    folder: &'a mut SnapshotFolder,
    name: Name,
    opened: Opened,
    finished: Arc<Finished>,
    /// The chunk to give next.
    next: u32,
}

impl OpenSnapshot for Reading<'_> {
    fn next_chunk(&mut self) -> Result<Option<Bytes>, SourceError> {
        let Some(expected) = self.finished.chunks.get(self.next as usize) else {
            return Ok(None);
        };
        let began = Instant::now();
        let size = self.finished.form.chunk_bytes(self.next);
        let chunk = self.opened.chunk(self.next, size).map_err(failed)?;
        match chunk.filter(|bytes| sha256(bytes) == *expected) {
            Some(bytes) => {
                self.next += 1;
                pace::rest(began);
                Ok(Some(bytes))
            }
            None => {
                // What was found of it holds no more.
                self.folder.known.remove(&self.name);
                Err(gone(self.name))
            }
        }
    }
}

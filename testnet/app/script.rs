//! What the application does wrong, and how often. [`HELP`] is the grammar.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use tendermint_proto::v0_38::abci::response_apply_snapshot_chunk::Result as Applied;
use tendermint_proto::v0_38::abci::response_offer_snapshot::Result as Offered;

use super::state::replace;

/// The grammar, for `--help`.
pub const HELP: &str = "\
What it does wrong: words with commas between them, of which the first that fits and \
is not used up counts.

  offer=RESULT           answers OfferSnapshot with it and restores nothing: reject,
                         reject-format, reject-sender, abort, unknown
  reject-heights=H[;H]   answers OfferSnapshot of these heights with REJECT
  apply=RESULT[@INDEX]   answers ApplySnapshotChunk, of this chunk or of any:
                           reject-snapshot, abort, unknown
                           retry-snapshot  CometBFT offers the snapshot again
                           retry           with this chunk to be fetched again
                           retry-forever   bare RETRY: CometBFT sends the same bytes
                                           again at once
  slow-apply=MS          waits so long before each chunk is taken
  hang-at-apply=INDEX    never answers this chunk; the other connections go on
  die-at-apply=INDEX     the program ends with code 1 when this chunk comes: once,
                         unless TIMES says otherwise
  keeps-part             writes down that it began to take a snapshot, and aborts each
                         restore until that is removed with its data: as applications
                         of the Cosmos SDK that were killed in the middle
  wrong-hash             restores, then answers Info with another application hash
                         until the next offer, block or start
  wrong-version          likewise with another version of its own
  once                   each word that has no TIMES is done one time

Every word but `once` takes xTIMES at its end: so many times, then no more. What is \
limited so is counted in the file of --marks, and a restart goes on counting.

Examples: offer=rejectx2 | apply=retry-snapshot@2x1,slow-apply=50 | wrong-hash,once";

/// A script: the things to do wrong, in the order in which they are looked at.
#[derive(Clone, Default)]
pub struct Script(Vec<Deed>);

#[derive(Clone)]
struct Deed {
    /// As it was written; what its count is filed under.
    text: String,
    kind: Kind,
    times: Option<u32>,
}

#[derive(Clone)]
enum Kind {
    Offer(Offered),
    RejectHeights(BTreeSet<u64>),
    Apply(Retold, Option<u32>),
    SlowApply(Duration),
    HangAtApply(u32),
    DieAtApply(u32),
    KeepsPart,
    Wrong(Denied),
}

/// What of a restored state is told wrongly.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Denied {
    Hash,
    Version,
}

/// An answer to a chunk that the script gives.
#[derive(Clone, Copy)]
pub struct Retold {
    pub result: Applied,
    /// The chunk is to be fetched again.
    pub refetch: bool,
}

/// What comes before a chunk is taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Before {
    Wait(Duration),
    Hang,
    Die,
}

impl Script {
    /// Reads a script.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut deeds: Vec<Deed> = Vec::new();
        let mut once = false;
        for word in text
            .split(',')
            .map(str::trim)
            .filter(|word| !word.is_empty())
        {
            if word == "once" {
                once = true;
                continue;
            }
            if deeds.iter().any(|deed| deed.text == word) {
                return Err(format!("'{word}' stands there twice"));
            }
            deeds.push(Deed::parse(word).map_err(|problem| format!("'{word}': {problem}"))?);
        }
        for deed in &mut deeds {
            let is_limited = once || matches!(deed.kind, Kind::DieAtApply(_));
            deed.times = deed.times.or(is_limited.then_some(1));
        }
        Ok(Self(deeds))
    }
}

impl Deed {
    fn parse(text: &str) -> Result<Self, String> {
        let (rest, times) = match text.rsplit_once('x') {
            Some((rest, times)) if times.starts_with(|c: char| c.is_ascii_digit()) => {
                let times = number(times)?;
                if times == 0 {
                    return Err("it would be done no time at all".to_owned());
                }
                (rest, Some(times))
            }
            _ => (text, None),
        };
        let (name, value) = match rest.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (rest, None),
        };
        let kind = match (name, value) {
            ("offer", Some(value)) => Kind::Offer(offered(value)?),
            ("reject-heights", Some(value)) => {
                Kind::RejectHeights(value.split(';').map(number).collect::<Result<_, _>>()?)
            }
            ("apply", Some(value)) => match value.split_once('@') {
                Some((value, index)) => Kind::Apply(retold(value)?, Some(number(index)?)),
                None => Kind::Apply(retold(value)?, None),
            },
            ("slow-apply", Some(value)) => Kind::SlowApply(Duration::from_millis(number(value)?)),
            ("hang-at-apply", Some(value)) => Kind::HangAtApply(number(value)?),
            ("die-at-apply", Some(value)) => Kind::DieAtApply(number(value)?),
            ("keeps-part", None) => Kind::KeepsPart,
            ("wrong-hash", None) => Kind::Wrong(Denied::Hash),
            ("wrong-version", None) => Kind::Wrong(Denied::Version),
            _ => return Err("no word of a script: see --help".to_owned()),
        };
        let text = text.to_owned();
        Ok(Self { text, kind, times })
    }
}

fn number<T: std::str::FromStr>(text: &str) -> Result<T, String> {
    text.parse()
        .map_err(|_| format!("'{text}' is no number that fits"))
}

fn offered(text: &str) -> Result<Offered, String> {
    Ok(match text {
        "reject" => Offered::Reject,
        "reject-format" => Offered::RejectFormat,
        "reject-sender" => Offered::RejectSender,
        "abort" => Offered::Abort,
        "unknown" => Offered::Unknown,
        _ => return Err(format!("'{text}' is no answer to an offer")),
    })
}

fn retold(text: &str) -> Result<Retold, String> {
    let result = match text {
        "reject-snapshot" => Applied::RejectSnapshot,
        "abort" => Applied::Abort,
        "retry-snapshot" => Applied::RetrySnapshot,
        "retry" | "retry-forever" => Applied::Retry,
        "unknown" => Applied::Unknown,
        _ => return Err(format!("'{text}' is no answer to a chunk")),
    };
    let refetch = text == "retry";
    Ok(Retold { result, refetch })
}

/// A script that is being followed.
pub struct Acting {
    script: Script,
    marks: PathBuf,
    /// How often each limited deed was done, by this process and those before it.
    done: BTreeMap<String, u32>,
}

impl Acting {
    /// Goes on from where an earlier process was.
    pub fn open(script: Script, marks: PathBuf) -> anyhow::Result<Self> {
        let mut done = BTreeMap::new();
        if marks.exists() {
            let text = fs::read_to_string(&marks)
                .with_context(|| format!("the marks {} cannot be read", marks.display()))?;
            for line in text.lines() {
                let mark = line
                    .split_once(' ')
                    .and_then(|(count, deed)| Some((deed.to_owned(), count.parse::<u32>().ok()?)));
                done.extend([mark.with_context(|| {
                    format!("the marks {} have the line {line:?}", marks.display())
                })?]);
            }
        }
        Ok(Self {
            script,
            marks,
            done,
        })
    }

    /// The script's answer to an offer.
    pub fn offered(&mut self, height: u64) -> anyhow::Result<Option<Offered>> {
        self.first(|kind| match kind {
            Kind::Offer(result) => Some(*result),
            Kind::RejectHeights(heights) if heights.contains(&height) => Some(Offered::Reject),
            _ => None,
        })
    }

    /// What comes before a chunk, all of it in order.
    pub fn before(&mut self, index: u32) -> anyhow::Result<Vec<Before>> {
        self.all(|kind| match kind {
            Kind::SlowApply(time) => Some(Before::Wait(*time)),
            Kind::HangAtApply(at) if *at == index => Some(Before::Hang),
            Kind::DieAtApply(at) if *at == index => Some(Before::Die),
            _ => None,
        })
    }

    /// The script's answer to a chunk.
    pub fn applied(&mut self, index: u32) -> anyhow::Result<Option<Retold>> {
        self.first(|kind| match kind {
            Kind::Apply(retold, at) if at.is_none_or(|at| at == index) => Some(*retold),
            _ => None,
        })
    }

    /// Whether a part of a snapshot stays for the next process to stumble over.
    pub fn keeps_part(&mut self) -> anyhow::Result<bool> {
        let keeps = self.first(|kind| matches!(kind, Kind::KeepsPart).then_some(()))?;
        Ok(keeps.is_some())
    }

    /// What of the restore that is complete now is to be denied in Info.
    pub fn denies(&mut self) -> anyhow::Result<Option<Denied>> {
        self.first(|kind| match kind {
            Kind::Wrong(denied) => Some(*denied),
            _ => None,
        })
    }

    fn first<T>(&mut self, fits: impl Fn(&Kind) -> Option<T>) -> anyhow::Result<Option<T>> {
        for at in 0..self.script.0.len() {
            if let Some(found) = self.use_up(at, &fits)? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    fn all<T>(&mut self, fits: impl Fn(&Kind) -> Option<T>) -> anyhow::Result<Vec<T>> {
        let mut all = Vec::new();
        for at in 0..self.script.0.len() {
            all.extend(self.use_up(at, &fits)?);
        }
        Ok(all)
    }

    /// Does a deed if it fits and is not used up; its count is on disk first.
    fn use_up<T>(
        &mut self,
        at: usize,
        fits: impl Fn(&Kind) -> Option<T>,
    ) -> anyhow::Result<Option<T>> {
        let deed = &self.script.0[at];
        let Some(found) = fits(&deed.kind) else {
            return Ok(None);
        };
        let Some(times) = deed.times else {
            return Ok(Some(found));
        };
        let done = self.done.entry(deed.text.clone()).or_default();
        if *done >= times {
            return Ok(None);
        }
        *done += 1;
        let mut text = String::new();
        for (deed, count) in &self.done {
            writeln!(text, "{count} {deed}")?;
        }
        replace(&self.marks, text.as_bytes())?;
        Ok(Some(found))
    }
}

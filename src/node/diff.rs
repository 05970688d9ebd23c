//! `diff`: what changed from one state to another, by scope. Blocking.

use std::time::Instant;

use tokio_util::sync::CancellationToken;

use super::command::{Amount, DiffCommand, Diffed, Failure, ScopeDiff, StateName};
use super::content::{Content, Reading};
use super::progress::Reporter;
use crate::state::{Differences, Summary, Tally};
use crate::store::Store;

/// Carries out `diff`: both states are read side by side.
pub(super) fn diff(
    store: &Store,
    command: &DiffCommand,
    reporter: &Reporter,
    cancel: &CancellationToken,
) -> Result<Diffed, Failure> {
    let started = Instant::now();
    let from = Content::open(store, &command.from)?;
    let to = Content::open(store, &command.to)?;
    let mut summary = Summary::default();
    if from.manifest().id() != to.manifest().id() {
        reporter.phase("comparing the records of both states");
        let total = from.chunk_bytes() + to.chunk_bytes();
        let reading = Reading::new(reporter, cancel, total);
        for difference in Differences::new(from.records(&reading)?, to.records(&reading)?) {
            summary.add(&difference?);
        }
    }
    let mut diffed = Diffed {
        from: name(&from),
        to: name(&to),
        added: Amount::default(),
        changed: Amount::default(),
        removed: Amount::default(),
        scopes: Vec::new(),
        seconds: 0.0,
    };
    for (scope, differs) in summary.scopes() {
        let scope = ScopeDiff {
            scope: scope.as_str().to_owned(),
            added: differs.added.into(),
            changed: differs.changed.into(),
            removed: differs.removed.into(),
        };
        diffed.added += scope.added;
        diffed.changed += scope.changed;
        diffed.removed += scope.removed;
        diffed.scopes.push(scope);
    }
    diffed.seconds = started.elapsed().as_secs_f64();
    Ok(diffed)
}

fn name(content: &Content) -> StateName {
    let manifest = content.manifest();
    StateName {
        manifest: manifest.id().to_string(),
        chain_id: manifest.chain_id().to_owned(),
        height: manifest.height(),
        records: content.notes().state.records,
    }
}

impl From<Tally> for Amount {
    fn from(tally: Tally) -> Self {
        Self {
            records: tally.records,
            bytes: tally.bytes,
        }
    }
}

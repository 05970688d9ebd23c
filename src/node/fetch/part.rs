//! `fetch --only`: the part of a snapshot that holds some contracts.
//!
//! To the scheduler the chunks that nobody asked for are as those that are here: it
//! neither asks for them nor checks them. The store knows better, and so does whoever
//! asks us.

use crate::node::command::{Failure, FailureCode};
use crate::node::content;
use crate::snapshot::{Bitmap, Manifest, Scope, UniqueIndex};
use crate::state::{Selection, StateError};

/// Scopes that a message names.
const MAX_NAMED: usize = 8;

/// The chunks that hold some scopes.
#[derive(Clone)]
pub(super) struct Part {
    /// The scopes that were asked for.
    pub(super) scopes: Vec<Scope>,
    /// Bytes of the chunks.
    pub(super) bytes: u64,
    /// How many chunks.
    pub(super) chunks: u32,
    /// By number of distinct chunk.
    wanted: Bitmap,
}

impl Part {
    /// Those that a person named; nothing where all of the snapshot is wanted.
    pub(super) fn named(manifest: &Manifest, names: &[String]) -> Result<Option<Self>, Failure> {
        if names.is_empty() {
            return Ok(None);
        }
        let content = manifest.state();
        let content = content.ok_or_else(|| content::no_records(manifest, &StateError::Opaque))?;
        if let Some(base) = content.base() {
            return Err(Failure::new(
                FailureCode::Usage,
                format!(
                    "{} is a delta from {base}: it has no contract as a whole",
                    manifest.id()
                ),
            )
            .hint("--only takes a full snapshot"));
        }
        let mut scopes = Vec::new();
        for name in names {
            let found = content
                .scopes()
                .iter()
                .filter(|scope| is_called(scope, name));
            let before = scopes.len();
            scopes.extend(found.cloned());
            if scopes.len() == before {
                return Err(no_scope(content.scopes(), name));
            }
        }
        scopes.sort();
        scopes.dedup();
        let selection = Selection::new(manifest, &scopes)?;
        let mut wanted = Bitmap::new(manifest.unique_count());
        for chunk in &selection.chunks {
            wanted.insert(manifest.unique_at(*chunk).get());
        }
        Ok(Some(Self {
            scopes,
            bytes: selection.bytes,
            chunks: wanted.count(),
            wanted,
        }))
    }

    /// The chunks that nobody asked for.
    pub(super) fn others<'a>(
        &'a self,
        manifest: &'a Manifest,
    ) -> impl Iterator<Item = UniqueIndex> + 'a {
        let chunks = manifest.unique_indexes();
        chunks.filter(|chunk| !self.has(*chunk))
    }

    /// Whether it has a chunk.
    pub(super) fn has(&self, chunk: UniqueIndex) -> bool {
        self.wanted.contains(chunk.get())
    }

    /// Bytes of what is here of it.
    pub(super) fn bytes_here(&self, manifest: &Manifest, have: &Bitmap) -> u64 {
        let mut have = have.clone();
        for piece in self
            .others(manifest)
            .flat_map(|chunk| manifest.pieces_of(chunk))
        {
            have.remove(piece.get());
        }
        super::gather::bytes_of(manifest, &have)
    }
}

/// A scope is called by its whole name, or by what stands behind the last slash.
fn is_called(scope: &Scope, name: &str) -> bool {
    let last = scope.as_str().rsplit('/').next();
    scope.as_str() == name || last == Some(name)
}

fn no_scope(scopes: &[Scope], name: &str) -> Failure {
    let some: Vec<&str> = scopes.iter().take(MAX_NAMED).map(Scope::as_str).collect();
    let more = match scopes.len() > some.len() {
        true => ", …",
        false => "",
    };
    Failure::new(
        FailureCode::NotFound,
        format!("the snapshot has no contract {name}"),
    )
    .hint(format!("it has {}{more}", some.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_contract_is_called_by_its_name_with_or_without_its_folder() {
        let scope = Scope::new("contract_state/con_a").unwrap();
        for name in ["contract_state/con_a", "con_a"] {
            assert!(is_called(&scope, name), "{name}");
        }
        for name in ["con", "_a", "contract_state", "", "/con_a"] {
            assert!(!is_called(&scope, name), "{name}");
        }
    }
}

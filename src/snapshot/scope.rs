//! The scopes of state content: by what name a part of the state can be asked for.

use std::fmt;
use std::sync::Arc;

/// The longest scope: two names of 255 bytes, the longest that a file system
/// takes, and the slash between them.
pub const MAX_SCOPE_BYTES: usize = 511;

/// The most scopes of one content: a scope is a contract, and a chunk holds many
/// small ones. With the longest names they fill a manifest; with the shortest they
/// take 10 MB of memory.
pub const MAX_SCOPES: usize = 100_000;

/// A part of the state that can be asked for by name, as one contract's. Text of
/// 1 to [`MAX_SCOPE_BYTES`] bytes without control characters, so that it can be
/// shown to people. It is no path: who makes a file of it looks for slashes and
/// dots first.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Scope(Arc<str>);

impl Scope {
    /// Checks a text.
    pub fn new(text: &str) -> Result<Self, ScopeError> {
        if text.is_empty() || text.len() > MAX_SCOPE_BYTES {
            return Err(ScopeError(format!(
                "has {} bytes; 1 to {MAX_SCOPE_BYTES} are possible",
                text.len()
            )));
        }
        if text.chars().any(char::is_control) {
            return Err(ScopeError("has a control character".to_owned()));
        }
        Ok(Self(text.into()))
    }

    /// Its text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Scope({self})")
    }
}

/// Why a text is no scope.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("scope: {0}")]
pub struct ScopeError(pub(super) String);

/// A run of scopes, as numbers in a content's list of them, both ends included.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ScopeRange {
    /// The first.
    pub first: u32,
    /// The last.
    pub last: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scope_may_have_its_limit_and_not_one_byte_more() {
        let fits = |len| Scope::new(&"s".repeat(len)).is_ok();
        assert!(!fits(0) && fits(1) && fits(MAX_SCOPE_BYTES) && !fits(MAX_SCOPE_BYTES + 1));
    }

    #[test]
    fn a_scope_can_be_shown() {
        for text in ["a\0b", "a\nb", "\x1b[2J", "a\u{85}"] {
            assert!(Scope::new(text).is_err(), "{text:?}");
        }
        assert!(Scope::new("contract_state/währung").is_ok());
    }
}

//! What can be wrong with a state.

/// Why something is no part of a state, or no state content.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum StateError {
    /// A part of a record outside its limits.
    #[error("{what}: {problem}")]
    Limit {
        /// Which part.
        what: &'static str,
        /// What is wrong with it.
        problem: String,
    },
}

impl StateError {
    pub(super) fn limit(what: &'static str, problem: impl Into<String>) -> Self {
        Self::Limit {
            what,
            problem: problem.into(),
        }
    }
}

//! What can go wrong with the adapter itself, or with an application that is
//! asked by us.

use std::io;

use super::Address;

/// Why something of the adapter does not work.
#[derive(Debug, thiserror::Error)]
pub enum AbciError {
    /// The text is no address of a socket.
    #[error(
        "'{0}' is no address of an application; one looks like tcp://127.0.0.1:26658 or \
         unix:///run/app.sock"
    )]
    Address(String),
    /// The port or socket cannot be opened.
    #[error("cannot listen on {address}")]
    Listen {
        /// As given.
        address: Address,
        /// Why.
        source: io::Error,
    },
    /// The application is not there, or hung up.
    #[error("the application at {address} cannot be asked ({what})")]
    App {
        /// Where it should be.
        address: Address,
        /// What it was asked.
        what: &'static str,
        /// Why.
        source: io::Error,
    },
    /// The application answered, but not what it was asked.
    #[error("the application at {address} answered {what} with {problem}")]
    Answer {
        /// Where it is.
        address: Address,
        /// What it was asked.
        what: &'static str,
        /// What came.
        problem: String,
    },
}

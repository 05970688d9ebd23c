//! The doors of a running daemon: the [`control`] socket, over which the
//! commands of its own user come in, and the [`http`] page, which shows its
//! state to anybody on this machine.
//!
//! Laws:
//!
//! * The control socket is a file of mode 0600 in the home: whoever may open it
//!   may also read and write everything the daemon keeps. Nothing on TCP changes
//!   anything.
//! * The page answers on loopback only, and only when the `Host` header names
//!   loopback: a web page in the user's browser cannot read it through a name
//!   that resolves to 127.0.0.1.
//! * Clients, line lengths, queues and the time a client may idle are bounded;
//!   a client that goes away takes its request with it.
//! * This room knows no command: requests, progress and answers are JSON values
//!   that the hall understands.

pub mod control;
pub mod http;

//! The hall: the only place where rooms meet.

pub mod command;
pub mod remote;

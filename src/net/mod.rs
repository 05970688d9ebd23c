//! (room under construction)

mod library;
pub mod pieces;
pub mod socket;

pub use library::Library;

//! (room under construction)

mod library;
pub mod pieces;

pub use library::Library;

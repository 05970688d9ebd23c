//! The store on a real disk: what comes back, what a kill leaves, what a full or
//! read-only or damaged disk does, and that others can read its files.

mod behaviour;
mod failures;
mod golden;
mod kill;
mod limits;
mod lost;
mod python;
mod reading;
mod support;

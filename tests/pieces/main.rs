//! The piece protocol, both sides: over pairs of pipes with a scripted peer at
//! one end, and between two nodes over memory and TCP.

mod asking;
mod hostile;
mod nodes;
mod rate;
mod serving;
mod shelf;
mod wires;

//! The network between real nodes: loopback TCP and QUIC, and the memory
//! transport.

mod bans;
mod bench;
mod discovery;
mod hostile;
mod networks;
mod restart;
mod serving;

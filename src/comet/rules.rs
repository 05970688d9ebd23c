//! Numbers of CometBFT's own that more than one part of the program goes by.

use std::time::Duration;

/// A light client believes no header from further in the future of its clock.
pub const MAX_CLOCK_DRIFT: Duration = Duration::from_secs(10);

/// How old a block may be that a light client trusts, where `statesync.trust_period` says
/// nothing: the default of `config.toml`, as Go writes it.
pub const TRUST_PERIOD: &str = "168h0m0s";

/// Bytes a second for `p2p.send_rate` and `p2p.recv_rate` that are no limit any more: the
/// disk and the application are slower. The default is 5 MB/s.
pub const FAST_RATE: i64 = 512_000_000;

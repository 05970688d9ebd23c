//! Notices that the machine's clock was set.
//!
//! Nothing here is measured by the clock of the wall: bans, pauses, leases and
//! the age of records count on the steady one, and the order in which peers were
//! met is kept as an order. The wall's time is written down for people only.

use std::time::{Duration, Instant, SystemTime};

/// What a step of the clock has at least. Slews and leap seconds stay below.
const MIN_JUMP: Duration = Duration::from_secs(60);

/// How far the wall's clock went apart from the steady one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Jump {
    /// Into the future; also when the machine slept.
    Ahead(Duration),
    /// Into the past.
    Back(Duration),
}

/// Both clocks at the last look. Pure.
#[derive(Debug)]
pub(super) struct Clock {
    wall: SystemTime,
    steady: Instant,
}

impl Clock {
    pub fn new(wall: SystemTime, steady: Instant) -> Self {
        Self { wall, steady }
    }

    /// Says whether the clock was set since the last look.
    pub fn handle_time(&mut self, wall: SystemTime, steady: Instant) -> Option<Jump> {
        let passed = steady.saturating_duration_since(self.steady);
        let before = std::mem::replace(self, Self { wall, steady });
        let jump = match wall.duration_since(before.wall) {
            Ok(forward) if forward >= passed => Jump::Ahead(forward - passed),
            Ok(forward) => Jump::Back(passed - forward),
            Err(back) => Jump::Back(passed.saturating_add(back.duration())),
        };
        let (Jump::Ahead(by) | Jump::Back(by)) = jump;
        (by >= MIN_JUMP).then_some(jump)
    }
}

impl std::fmt::Display for Jump {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Ahead(by) => write!(f, "{} s ahead", by.as_secs()),
            Self::Back(by) => write!(f, "{} s back", by.as_secs()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const TEN_YEARS: Duration = Duration::from_secs(10 * 365 * 86_400);

    #[test]
    fn a_clock_that_is_set_is_noticed_once_and_one_that_drifts_is_not() {
        let (mut wall, mut steady) = (SystemTime::now(), Instant::now());
        let mut clock = Clock::new(wall, steady);
        let mut pass = |wall_by: Duration, back: bool| {
            wall = if back { wall - wall_by } else { wall + wall_by };
            steady += SECOND;
            clock.handle_time(wall, steady)
        };
        assert_eq!(pass(SECOND, false), None);
        assert_eq!(
            pass(TEN_YEARS + SECOND, false),
            Some(Jump::Ahead(TEN_YEARS))
        );
        assert_eq!(pass(SECOND, false), None);
        assert_eq!(pass(TEN_YEARS, true), Some(Jump::Back(TEN_YEARS + SECOND)));
        assert_eq!(pass(SECOND * 2, false), None, "a slew");
        assert_eq!(pass(Duration::ZERO, false), None, "a leap second");
        assert_eq!(pass(MIN_JUMP + SECOND, false), Some(Jump::Ahead(MIN_JUMP)));
        assert_eq!(pass(MIN_JUMP, false), None);
    }
}

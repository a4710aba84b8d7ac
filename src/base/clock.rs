//! Time as values. Pure code takes an [`Instant`] or a [`Timestamp`] as an argument and never asks a clock.

use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

pub use std::time::{Duration, Instant};

/// Wall-clock time since 1970-01-01 UTC. Before 1970 the seconds are negative and the nanoseconds count forward.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Serialize, Deserialize)]
pub struct Timestamp {
    /// Whole seconds.
    pub secs: i64,
    /// 0 to 999,999,999. What comes from outside is brought into range by [`Timestamp::sane`].
    pub nanos: u32,
}

impl Timestamp {
    /// Now, by the system's clock.
    pub fn now() -> Self {
        Self::from(SystemTime::now())
    }

    /// Milliseconds from `earlier` to this; 0 if that is later.
    pub fn millis_since(self, earlier: Self) -> u64 {
        let (to, from) = (SystemTime::from(self), SystemTime::from(earlier));
        to.duration_since(from).map_or(0, |since| since.as_millis().min(u64::MAX.into()) as u64)
    }

    /// The same time with nanoseconds in range.
    pub fn sane(self) -> Self {
        Self { secs: self.secs, nanos: self.nanos.min(999_999_999) }
    }
}

impl From<SystemTime> for Timestamp {
    fn from(time: SystemTime) -> Self {
        match time.duration_since(UNIX_EPOCH) {
            Ok(since) => Self { secs: since.as_secs() as i64, nanos: since.subsec_nanos() },
            Err(before) => {
                let before = before.duration();
                match before.subsec_nanos() {
                    0 => Self { secs: -(before.as_secs() as i64), nanos: 0 },
                    nanos => Self { secs: -(before.as_secs() as i64) - 1, nanos: 1_000_000_000 - nanos },
                }
            }
        }
    }
}

impl From<Timestamp> for SystemTime {
    fn from(time: Timestamp) -> Self {
        let time = time.sane();
        let whole = Duration::from_secs(time.secs.unsigned_abs());
        let base = if time.secs < 0 { UNIX_EPOCH.checked_sub(whole) } else { UNIX_EPOCH.checked_add(whole) };
        base.and_then(|base| base.checked_add(Duration::from_nanos(time.nanos.into()))).unwrap_or(UNIX_EPOCH)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn goes_there_and_back(secs in -10_000_000_000i64..10_000_000_000, nanos in 0u32..1_000_000_000) {
            let time = Timestamp { secs, nanos };
            prop_assert_eq!(Timestamp::from(SystemTime::from(time)), time);
        }

        #[test]
        fn nothing_from_outside_panics(secs: i64, nanos: u32) {
            let _ = SystemTime::from(Timestamp { secs, nanos });
        }
    }
}

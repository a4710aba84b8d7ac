//! Members whose clocks are so far from this node's that neither takes the other's gossip. Pure.

use std::time::{Duration, Instant};

/// Between two warnings.
const WARN: Duration = Duration::from_secs(600);
/// What was noticed this long ago says nothing of now: members send something each second.
const FRESH: Duration = Duration::from_secs(120);

/// See the module.
#[derive(Debug, Default)]
pub struct Clocks {
    /// By how many seconds the last such member was ahead of this node, and when.
    last: Option<(i64, Instant)>,
    warned: Option<Instant>,
}

impl Clocks {
    /// Something came that was sent at `sent`, and is refused at `wall`, both in seconds since 1970. True if that is worth
    /// a warning.
    pub fn refused(&mut self, sent: u32, wall: u32, now: Instant) -> bool {
        self.last = Some((i64::from(sent) - i64::from(wall), now));
        let warn = self.warned.is_none_or(|warned| now.saturating_duration_since(warned) >= WARN);
        if warn {
            self.warned = Some(now);
        }
        warn
    }

    /// By how many seconds a member's clock is ahead of this node's (behind it, if negative), where it is too far.
    pub fn apart(&self, now: Instant) -> Option<i64> {
        let fresh = |at: Instant| now.saturating_duration_since(at) < FRESH;
        self.last.filter(|(_, at)| fresh(*at)).map(|(apart, _)| apart)
    }
}

/// In words, as of the clock of somebody else.
pub fn in_words(apart: i64) -> String {
    let minutes = apart.unsigned_abs().div_ceil(60);
    let side = if apart < 0 { "behind" } else { "ahead of" };
    format!("{minutes} minutes {side} this one's")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_is_off_was_said_nothing_of() {
        let (start, mut clocks) = (Instant::now(), Clocks::default());
        assert_eq!(clocks.apart(start), None);
        assert!(clocks.refused(1_000, 5_000, start));
        assert_eq!(clocks.apart(start), Some(-4_000));
        // Each second, and said seldom.
        let told = (0..1200).filter(|secs| clocks.refused(9_000, 5_000, start + Duration::from_secs(*secs))).count();
        assert_eq!(told, 1);
        let last = start + Duration::from_secs(1199);
        assert_eq!(clocks.apart(last + FRESH / 2), Some(4_000));
        assert_eq!(clocks.apart(last + FRESH), None, "it was set");
        assert_eq!(in_words(-4_000), "67 minutes behind this one's");
        assert_eq!(in_words(3_600), "60 minutes ahead of this one's");
    }
}

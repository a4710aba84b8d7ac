//! What is counted of terse sessions, and who was turned away and why.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Between two lines of the log that say that somebody was turned away for one reason.
const PAUSE: Duration = Duration::from_secs(10);

/// Why a connection was closed before, or during, its session.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// There are as many sessions as there may be.
    Sessions,
    /// There are as many from that address as there may be.
    Address,
    /// There are as many handshakes in progress as there may be, at all or from that address.
    Handshakes,
    /// It knows no key of our networks, or broke off.
    Stranger,
    /// Its handshake took too long.
    Late,
    /// It broke the protocol.
    Broken,
    /// It said nothing for too long.
    Idle,
    /// It asked, and did not read the answers.
    Unread,
}

impl Refusal {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Sessions,
        Self::Address,
        Self::Handshakes,
        Self::Stranger,
        Self::Late,
        Self::Broken,
        Self::Idle,
        Self::Unread,
    ];

    /// In figures and in the log.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sessions => "sessions",
            Self::Address => "address",
            Self::Handshakes => "handshakes",
            Self::Stranger => "stranger",
            Self::Late => "late",
            Self::Broken => "broken",
            Self::Idle => "idle",
            Self::Unread => "unread",
        }
    }

    /// True of those that whoever runs the tracker can do something about.
    fn is_a_limit(self) -> bool {
        matches!(self, Self::Sessions | Self::Address | Self::Handshakes)
    }
}

/// See the module.
#[derive(Debug, Default)]
pub struct Figures {
    pub(super) sessions: AtomicU64,
    pub(super) handshakes: AtomicU64,
    pub(super) opened: AtomicU64,
    refused: [AtomicU64; Refusal::ALL.len()],
    said: Mutex<[Option<(Instant, u64)>; Refusal::ALL.len()]>,
}

impl Figures {
    /// Sessions that are open.
    pub fn sessions(&self) -> u64 {
        self.sessions.load(Ordering::Relaxed)
    }

    /// Handshakes in progress.
    pub fn handshakes(&self) -> u64 {
        self.handshakes.load(Ordering::Relaxed)
    }

    /// Sessions that were opened since the start.
    pub fn opened(&self) -> u64 {
        self.opened.load(Ordering::Relaxed)
    }

    /// How many were turned away for each reason.
    pub fn refused(&self) -> impl Iterator<Item = (Refusal, u64)> + '_ {
        Refusal::ALL.into_iter().map(|why| (why, self.refused[why as usize].load(Ordering::Relaxed)))
    }

    pub(super) fn refuse(&self, why: Refusal) {
        let count = self.refused[why as usize].fetch_add(1, Ordering::Relaxed) + 1;
        if !why.is_a_limit() {
            return;
        }
        let now = Instant::now();
        let mut said = self.said.lock();
        let before = said[why as usize];
        if before.is_none_or(|(at, _)| now.saturating_duration_since(at) >= PAUSE) {
            said[why as usize] = Some((now, count));
            let since_last = count - before.map_or(0, |(_, count)| count);
            tracing::warn!(limit = why.name(), refused = since_last, "connections were turned away");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_is_counted_apart() {
        let figures = Figures::default();
        for (times, why) in Refusal::ALL.into_iter().enumerate() {
            (0..=times).for_each(|_| figures.refuse(why));
        }
        let counts: Vec<u64> = figures.refused().map(|(_, count)| count).collect();
        assert_eq!(counts, (1..=Refusal::ALL.len() as u64).collect::<Vec<_>>());
        assert_eq!(figures.refused().map(|(why, _)| why.name()).collect::<std::collections::BTreeSet<_>>().len(), 8);
    }
}

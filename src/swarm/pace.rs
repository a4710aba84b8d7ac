//! What is known of one source's speed, and what follows: how much to ask of it at once and when to give up on it.
//! Pure: times are arguments.

use std::time::{Duration, Instant};

use crate::base::chunks::CHUNK;

/// Requests in flight before anything is known of a source: fills a link of 1 Gbit/s at 16 ms round trip.
const FIRST_DEPTH: usize = 8;
/// Never fewer: one request being answered, one under way, one to spare for jitter.
const MIN_DEPTH: usize = 4;
/// Never more: 16 MiB of promises from one source; enough for 1 Gbit/s at 100 ms.
const MAX_DEPTH: usize = 64;
/// A chunk that is later than this is late whatever the rate was: below it, scheduling noise looks like a stall.
const DEADLINE_FLOOR: Duration = Duration::from_secs(2);
/// A chunk that is later than this is late however slow the link is.
const DEADLINE_CEILING: Duration = Duration::from_secs(15);
/// Weight of a new sample: about the last sixteen chunks count.
const SAMPLE_WEIGHT: f64 = 1.0 / 16.0;
/// Assumed until measured: slow enough that a newcomer is not given much that others would bring sooner.
const FIRST_RATE: f64 = 20.0 * 1024.0 * 1024.0;

/// One source's measured pace.
#[derive(Clone, Debug)]
pub struct Pace {
    /// Bytes per second, smoothed; `None` until the first chunk is there.
    rate: Option<f64>,
    /// The quickest request so far: close to the round trip plus one chunk's transmission.
    quickest: Option<Duration>,
    /// When the last chunk came.
    last: Option<Instant>,
}

impl Default for Pace {
    fn default() -> Self {
        Self::new()
    }
}

impl Pace {
    /// Nothing known yet.
    pub fn new() -> Self {
        Self { rate: None, quickest: None, last: None }
    }

    /// A chunk of `bytes`, asked for at `asked`, is there at `now`.
    pub fn delivered(&mut self, bytes: usize, asked: Instant, now: Instant) {
        let took = now.saturating_duration_since(asked);
        self.quickest = Some(self.quickest.map_or(took, |quickest| quickest.min(took)));
        // Pipelined chunks share the link: the time that this one took is since the one before, or since it was asked
        // for if the source was idle then.
        let from = self.last.map_or(asked, |last| last.max(asked));
        let span = now.saturating_duration_since(from).as_secs_f64().max(1e-6);
        self.last = Some(now);
        let sample = bytes as f64 / span;
        self.rate = Some(match self.rate {
            None => sample,
            // Averages time per byte, not bytes per time, so that a burst out of a buffer does not count as speed.
            Some(rate) => 1.0 / ((1.0 - SAMPLE_WEIGHT) / rate + SAMPLE_WEIGHT / sample),
        });
    }

    /// Bytes per second; a cautious guess until measured.
    pub fn rate(&self) -> f64 {
        self.rate.unwrap_or(FIRST_RATE)
    }

    /// Bytes per second, if measured.
    pub fn measured(&self) -> Option<f64> {
        self.rate
    }

    /// How many requests to have in flight: twice what the link holds, so that it never runs dry.
    pub fn depth(&self) -> usize {
        match (self.rate, self.quickest) {
            (Some(rate), Some(quickest)) => {
                let on_the_way = rate * quickest.as_secs_f64() / CHUNK as f64;
                ((2.0 * on_the_way).ceil() as usize + MIN_DEPTH).clamp(MIN_DEPTH, MAX_DEPTH)
            }
            _ => FIRST_DEPTH,
        }
    }

    /// How long to wait for a chunk behind `queued` others before this source loses it.
    pub fn deadline(&self, queued: usize) -> Duration {
        let expected = (queued + 1) as f64 * CHUNK as f64 / self.rate();
        let expected = Duration::from_secs_f64(expected.min(DEADLINE_CEILING.as_secs_f64()));
        (expected * 4 + self.quickest.unwrap_or_default()).clamp(DEADLINE_FLOOR, DEADLINE_CEILING)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_steady_source_is_measured_right() {
        let start = Instant::now();
        let mut pace = Pace::new();
        for i in 1..=100u32 {
            // Eight in flight, one chunk every 10 ms: 25 MiB/s.
            let now = start + Duration::from_millis(10) * i;
            pace.delivered(CHUNK as usize, now.checked_sub(Duration::from_millis(80)).unwrap().max(start), now);
        }
        let want = CHUNK as f64 / 0.010;
        assert!((pace.rate() / want - 1.0).abs() < 0.1, "{} {want}", pace.rate());
    }

    proptest! {
        #[test]
        fn answers_stay_in_bounds(steps in proptest::collection::vec((0u64..10_000_000, 0u64..10_000_000), 0..50), queued in 0usize..100) {
            let mut now = Instant::now();
            let mut pace = Pace::new();
            for (gap, took) in steps {
                now += Duration::from_micros(gap);
                pace.delivered(CHUNK as usize, now.checked_sub(Duration::from_micros(took)).unwrap_or(now), now);
            }
            prop_assert!(pace.rate().is_finite() && pace.rate() > 0.0);
            prop_assert!((MIN_DEPTH..=MAX_DEPTH).contains(&pace.depth()));
            prop_assert!((DEADLINE_FLOOR..=DEADLINE_CEILING).contains(&pace.deadline(queued)));
        }
    }
}

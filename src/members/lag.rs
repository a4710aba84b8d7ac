//! How long changes of catalogs are under way: from when their owner signed them, by its clock, until they are here.

use std::collections::VecDeque;
use std::time::Duration;

/// Changes that are remembered.
const KEPT: usize = 256;

/// See the module.
#[derive(Debug, Default)]
pub struct Lag(VecDeque<Duration>);

/// What is told of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, serde::Serialize, serde::Deserialize)]
pub struct LagReport {
    /// Of the last change, in milliseconds; like the others nothing if there was none.
    pub last_ms: Option<u64>,
    /// Of half of the last 256 changes it was less.
    pub median_ms: Option<u64>,
    /// The longest of them.
    pub most_ms: Option<u64>,
}

impl Lag {
    /// A change came that was under way for so long.
    pub fn note(&mut self, lag: Duration) {
        self.0.truncate(KEPT - 1);
        self.0.push_front(lag);
    }

    /// What is told of it.
    pub fn report(&self) -> LagReport {
        let ms = |lag: Option<&Duration>| lag.map(|lag| lag.as_millis().min(u64::MAX.into()) as u64);
        let mut sorted: Vec<Duration> = self.0.iter().copied().collect();
        sorted.sort_unstable();
        LagReport {
            last_ms: ms(self.0.front()),
            median_ms: ms(sorted.get(sorted.len() / 2)),
            most_ms: ms(sorted.last()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_the_median_and_the_longest_are_told() {
        let mut lag = Lag::default();
        assert_eq!(lag.report(), LagReport::default());
        (1..=300).for_each(|ms| lag.note(Duration::from_millis(ms)));
        let report = LagReport { last_ms: Some(300), median_ms: Some(173), most_ms: Some(300) };
        assert_eq!(lag.report(), report);
        let mut at_once = Lag::default();
        at_once.note(Duration::ZERO);
        assert_ne!(at_once.report(), LagReport::default(), "what came at once is not what never came");
        assert_eq!(lag.0.len(), KEPT);
    }
}

//! A limit on bytes per second that may change at any time: a token bucket, and the wait for it.

use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::Notify;

/// What passes at once: a read of the socket.
const BURST: f64 = 512.0 * 1024.0;

#[derive(Debug)]
struct Bucket {
    rate: Option<u64>,
    tokens: f64,
    at: Instant,
}

/// See the module.
#[derive(Debug)]
pub struct Throttle {
    bucket: Mutex<Bucket>,
    changed: Notify,
}

impl Bucket {
    /// Takes `bytes`; returns how long to wait for them.
    fn take(&mut self, bytes: usize, now: Instant) -> Option<Duration> {
        self.refill(now);
        self.rate?;
        self.tokens -= bytes as f64;
        self.wait()
    }

    fn refill(&mut self, now: Instant) {
        if let Some(rate) = self.rate {
            let passed = now.saturating_duration_since(self.at).as_secs_f64();
            self.tokens = (self.tokens + passed * rate as f64).min(BURST);
        }
        self.at = now;
    }

    fn wait(&self) -> Option<Duration> {
        let rate = self.rate?.max(1) as f64;
        (self.tokens < 0.0).then(|| Duration::from_secs_f64((-self.tokens / rate).min(3600.0)))
    }
}

impl Throttle {
    /// `rate` in bytes per second; `None`: no limit.
    pub fn new(rate: Option<u64>) -> Self {
        Self { bucket: Mutex::new(Bucket { rate, tokens: BURST, at: Instant::now() }), changed: Notify::new() }
    }

    /// Another limit from now on; who waits for the old one waits anew.
    pub fn set(&self, rate: Option<u64>) {
        let mut bucket = self.bucket.lock();
        bucket.refill(Instant::now());
        bucket.rate = rate;
        bucket.tokens = bucket.tokens.max(0.0);
        drop(bucket);
        self.changed.notify_waiters();
    }

    /// The limit.
    pub fn rate(&self) -> Option<u64> {
        self.bucket.lock().rate
    }

    /// `bytes` have passed: waits until the next may.
    pub async fn passed(&self, bytes: usize) {
        let changed = self.changed.notified();
        let wait = self.bucket.lock().take(bytes, Instant::now());
        if let Some(wait) = wait {
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = changed => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_holds_and_a_change_counts_at_once() {
        let mut now = Instant::now();
        let mut bucket = Bucket { rate: Some(1_000_000), tokens: BURST, at: now };
        let began = now;
        for _ in 0..100 {
            if let Some(wait) = bucket.take(100_000, now) {
                now += wait;
            }
        }
        let rate = (10_000_000.0 - BURST) / now.duration_since(began).as_secs_f64();
        assert!((rate / 1e6 - 1.0).abs() < 0.02, "{rate}");
        bucket.rate = None;
        assert_eq!(bucket.take(usize::MAX, now), None);
    }
}

//! What is known of one source's speed, and what follows: how much to ask of it at once, when something asked of it will
//! be there, and when to give up on it. Pure: times are arguments.
//!
//! The rate is measured as BBR measures it: by what was delivered between the moment when a request was sent and the one
//! when its answer is there, which counts every byte once however many requests share the link.

use std::time::{Duration, Instant};

use crate::base::chunks::CHUNK;

/// Requests in flight before anything is known of a source whose round trip is short: a slow one would keep more waiting
/// for long, and a quick one is known after its first chunk.
const FIRST_DEPTH: usize = 1;
/// Before anything is known, one more request in flight for each of these in the round trip.
const FIRST_DEPTH_PER: Duration = Duration::from_millis(25);
/// Never fewer: one request being answered, one waiting behind it.
const MIN_DEPTH: usize = 2;
/// Never more: 16 MiB of promises from one source; enough for 1 Gbit/s at 60 ms.
pub const MAX_DEPTH: usize = 64;
/// What should wait at the source beyond what is on the way, so that its link never runs dry while this side is busy.
const SPARE: Duration = Duration::from_millis(200);
/// The same near the end of the work, where what waits at one source can't be given to another any more.
const LEAN_SPARE: Duration = Duration::from_millis(60);
/// But not more chunks than this: a link that needs more has no trouble to be fast, and a reader's window would be
/// full of what one source has promised.
const SPARE_MAX: usize = 16;
/// Time over which the rate is smoothed.
const MEMORY: Duration = Duration::from_millis(300);
/// The first samples count equally.
const FIRST_SAMPLES: u32 = 4;
/// Assumed of a source of which nothing is known: slow enough that it isn't given much that others would bring sooner.
pub const FIRST_RATE: f64 = 10.0 * 1024.0 * 1024.0;

/// Silence that is suspicious, at least: below it, scheduling noise looks like a stall.
const SUSPECT_FLOOR: Duration = Duration::from_millis(100);
/// The same before anything has come from a source.
const SUSPECT_FIRST: Duration = Duration::from_millis(250);
/// Silence after which a source loses its section: at least, and at most.
const DEADLINE_FLOOR: Duration = Duration::from_millis(500);
const DEADLINE_CEILING: Duration = Duration::from_secs(8);
/// The same before anything has come from a source.
const DEADLINE_FIRST: Duration = Duration::from_secs(1);

/// What was known when a request was sent; comes back with its answer.
#[derive(Clone, Copy, Debug)]
pub struct Sent {
    at: Instant,
    delivered: u64,
    delivered_at: Instant,
    /// The source had nothing else to do: the round trip is part of the sample.
    idle: bool,
    /// There was not enough in flight to fill the link.
    limited: bool,
}

/// One source's measured pace.
#[derive(Clone, Debug)]
pub struct Pace {
    /// Bytes per second, smoothed, and the number of samples in it.
    rate: f64,
    samples: u32,
    /// The shortest round trip that was told, and the shortest that a chunk took (which includes its transmission).
    told: Duration,
    /// The guess is more than that: it was measured before.
    hinted: bool,
    quickest: Duration,
    /// Bytes so far, and when the last ones came.
    delivered: u64,
    delivered_at: Option<Instant>,
}

impl Default for Pace {
    fn default() -> Self {
        Self::new(FIRST_RATE)
    }
}

fn seconds(of: f64) -> Duration {
    // Far beyond every deadline, and no panic.
    Duration::from_secs_f64(of.clamp(0.0, 1e6))
}

impl Pace {
    /// Nothing measured yet; `guess` bytes per second until then.
    pub fn new(guess: f64) -> Self {
        Self {
            rate: guess.max(1.0),
            samples: 0,
            told: Duration::MAX,
            hinted: false,
            quickest: Duration::MAX,
            delivered: 0,
            delivered_at: None,
        }
    }

    /// Nothing measured yet, but `rate` bytes per second some time ago.
    pub fn remembered(rate: f64) -> Self {
        Self { hinted: true, ..Self::new(rate) }
    }

    /// A better guess; for a rate that is no more than that.
    pub fn guess(&mut self, rate: f64) {
        if !self.is_known() {
            self.rate = rate.max(1.0);
        }
    }

    /// True if the rate is more than a guess.
    pub fn is_known(&self) -> bool {
        self.samples > 0 || self.hinted
    }

    /// A round trip took this long.
    pub fn round_trip(&mut self, rtt: Duration) {
        if !rtt.is_zero() {
            self.told = self.told.min(rtt);
        }
    }

    /// The round trip of an idle link, at most; zero until known.
    pub fn rtt(&self) -> Duration {
        let rtt = self.told.min(self.quickest);
        if rtt == Duration::MAX { Duration::ZERO } else { rtt }
    }

    /// A request is sent at `now`, while `in_flight` others are on their way.
    pub fn asked(&mut self, in_flight: usize, now: Instant) -> Sent {
        if in_flight == 0 || self.delivered_at.is_none() {
            self.delivered_at = Some(now);
        }
        Sent {
            at: now,
            delivered: self.delivered,
            delivered_at: self.delivered_at.unwrap_or(now),
            idle: in_flight == 0,
            limited: (in_flight as f64) * (CHUNK as f64) < self.rate * self.rtt().as_secs_f64(),
        }
    }

    /// `bytes` that were asked for by `sent` are there at `now`.
    pub fn delivered(&mut self, bytes: usize, sent: &Sent, now: Instant) {
        self.quickest = self.quickest.min(now.saturating_duration_since(sent.at).max(Duration::from_micros(1)));
        self.delivered += bytes as u64;
        let gap = now.saturating_duration_since(self.delivered_at.unwrap_or(sent.at)).as_secs_f64();
        self.delivered_at = Some(now);
        let took = now.saturating_duration_since(sent.delivered_at).as_secs_f64();
        let brought = (self.delivered - sent.delivered) as f64;
        let rtt = self.rtt().as_secs_f64();
        let took = if sent.idle && self.told < Duration::MAX { (took - rtt).max(took / 4.0) } else { took }.max(1e-6);
        let sample = brought / took;
        if self.samples > 0 && sent.limited && sample < self.rate {
            // Less than the link gives, unless it took much longer than the link would have made it take.
            let expected = rtt + brought / self.rate;
            if took < 2.0 * expected {
                return;
            }
        }
        let weight = (1.0 - (-gap / MEMORY.as_secs_f64()).exp()).max(0.02);
        let first = 1.0 / f64::from(self.samples + 1);
        let weight = if self.samples < FIRST_SAMPLES { weight.max(first) } else { weight };
        // Averages time per byte, not bytes per time, so that a burst out of a buffer does not count as speed.
        self.rate = 1.0 / ((1.0 - weight) / self.rate + weight / sample.clamp(1.0, 1e12));
        self.samples = self.samples.saturating_add(1);
    }

    /// Bytes that have come since a request was sent.
    pub fn since(&self, sent: &Sent) -> u64 {
        self.delivered - sent.delivered
    }

    /// Bytes per second; a guess until measured.
    pub fn rate(&self) -> f64 {
        self.rate
    }

    /// Bytes per second, if measured.
    pub fn measured(&self) -> Option<f64> {
        (self.samples > 0).then_some(self.rate)
    }

    /// Bytes per second as they must be by now, if a chunk is due and has not come for `silence`.
    pub fn rate_after(&self, silence: Duration) -> f64 {
        let slack = 1.5 * CHUNK as f64 / self.rate + self.rtt().as_secs_f64();
        let silence = silence.as_secs_f64();
        if silence <= slack { self.rate } else { self.rate.min(CHUNK as f64 / silence) }
    }

    /// How long one chunk keeps the link busy.
    fn chunk_time(&self) -> f64 {
        CHUNK as f64 / self.rate
    }

    /// How many requests to have in flight: what the link holds twice over (it may be faster than it looks), and some to spare.
    pub fn depth(&self) -> usize {
        self.depth_with(SPARE)
    }

    /// The same with less to spare, where work should be kept for others.
    pub fn lean_depth(&self) -> usize {
        self.depth_with(LEAN_SPARE)
    }

    /// The same for the end of the work: one at a time, where asking anew costs next to nothing of a chunk's time.
    pub fn last_depth(&self) -> usize {
        let chunk = self.chunk_time();
        let slow = LEAN_SPARE.as_secs_f64() < chunk / 2.0 && self.rtt().as_secs_f64() < chunk / 20.0;
        if slow { 1 } else { self.lean_depth() }
    }

    fn depth_with(&self, spare: Duration) -> usize {
        let rtt = self.rtt();
        if !self.is_known() {
            return (FIRST_DEPTH + (rtt.as_micros() / FIRST_DEPTH_PER.as_micros()) as usize).min(MAX_DEPTH / 4);
        }
        let on_the_way = (2.0 * rtt.as_secs_f64() / self.chunk_time()).ceil() as usize;
        let spare = (spare.as_secs_f64() / self.chunk_time()).ceil() as usize;
        (on_the_way + spare.clamp(1, SPARE_MAX)).clamp(MIN_DEPTH, MAX_DEPTH)
    }

    /// How long until a chunk is there that would be asked for now, behind `in_flight` others.
    pub fn until(&self, in_flight: usize) -> Duration {
        seconds(self.rtt().as_secs_f64() + (in_flight + 1) as f64 * self.chunk_time())
    }

    /// How long until a chunk is there that is on its way behind `ahead` others, when nothing has come for `silence`.
    pub fn remaining(&self, ahead: usize, silence: Duration) -> Duration {
        let due = self.rtt().as_secs_f64().min(0.5) + self.chunk_time();
        let silent = silence.as_secs_f64();
        // Overdue: then it will probably take as long again, and those behind it will be no quicker.
        let (next, each) = if silent <= due { (due - silent, self.chunk_time()) } else { (silent, silent) };
        seconds(next + ahead as f64 * each)
    }

    /// Silence that is suspicious: what a reader waits for is then asked of others too.
    pub fn suspicious(&self) -> Duration {
        if self.samples == 0 {
            return SUSPECT_FIRST + 2 * self.rtt();
        }
        seconds(3.0 * self.chunk_time() + 2.0 * self.rtt().as_secs_f64()).clamp(SUSPECT_FLOOR, DEADLINE_CEILING)
    }

    /// Silence after which the source loses its section.
    pub fn deadline(&self) -> Duration {
        if self.samples == 0 { DEADLINE_FIRST + 4 * self.rtt() } else { self.usual_deadline() }
    }

    /// The same for a source whose rate is known.
    pub fn usual_deadline(&self) -> Duration {
        seconds(6.0 * self.chunk_time() + 4.0 * self.rtt().as_secs_f64()).clamp(DEADLINE_FLOOR, DEADLINE_CEILING)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;
    use proptest::prelude::*;

    /// A link of `rate` bytes per second and round trip `rtt`, kept as full as the pace says; the pace after `chunks`.
    fn run(rate: f64, rtt: Duration, chunks: usize) -> (Pace, Duration) {
        let start = Instant::now();
        let (mut pace, mut now, mut free) = (Pace::default(), start, start);
        pace.round_trip(rtt);
        let mut queue: VecDeque<(Sent, Instant)> = VecDeque::new();
        for _ in 0..chunks {
            while queue.len() < pace.depth() {
                free = free.max(now + rtt / 2) + seconds(CHUNK as f64 / rate);
                queue.push_back((pace.asked(queue.len(), now), free + rtt / 2));
            }
            let (sent, at) = queue.pop_front().unwrap();
            now = at;
            pace.delivered(CHUNK as usize, &sent, now);
        }
        (pace, now - start)
    }

    #[test]
    fn links_of_all_kinds_are_measured_and_filled() {
        for rate in [1e5, 1.25e6, 6e6, 25e6, 125e6] {
            for rtt in [100, 1_000, 10_000, 50_000] {
                let (rtt, chunks) = (Duration::from_micros(rtt), 400);
                let (pace, took) = run(rate, rtt, chunks);
                let ideal = (chunks as u64 * CHUNK) as f64 / rate;
                assert!((pace.rate() / rate - 1.0).abs() < 0.1, "{rate} {rtt:?}: {}", pace.rate());
                let start = 12.0 * rtt.as_secs_f64();
                assert!(took.as_secs_f64() < ideal * 1.01 + start, "{rate} {rtt:?}: {took:?} for {ideal}");
                // What waits at the source is little: a chunk that is asked for now is there soon.
                let wait = pace.until(pace.depth()).as_secs_f64();
                assert!(
                    wait < 3.0 * CHUNK as f64 / rate + 4.0 * rtt.as_secs_f64() + 1.2 * SPARE.as_secs_f64(),
                    "{rate} {rtt:?}: {wait}"
                );
            }
        }
    }

    #[test]
    fn a_few_chunks_are_enough_to_adapt() {
        for rate in [1.25e6, 25e6, 50e6] {
            let (pace, _) = run(rate, Duration::from_micros(300), 3);
            assert!((pace.rate() / rate - 1.0).abs() < 0.3, "{rate}: {}", pace.rate());
        }
    }

    #[test]
    fn a_stall_is_noticed_within_a_second() {
        for rate in [6e6, 25e6, 125e6] {
            let (pace, _) = run(rate, Duration::from_micros(300), 100);
            assert!(pace.suspicious() <= Duration::from_millis(150));
            assert!(pace.deadline() <= Duration::from_millis(500));
            assert!(pace.rate_after(Duration::from_secs(1)) <= CHUNK as f64);
        }
    }

    proptest! {
        #[test]
        fn answers_stay_in_bounds(steps in proptest::collection::vec((0u64..10_000_000, 0u64..10_000_000, 0usize..70), 0..50)) {
            let mut now = Instant::now();
            let mut pace = Pace::default();
            for (gap, took, in_flight) in steps {
                let sent = pace.asked(in_flight, now);
                now += Duration::from_micros(gap);
                pace.delivered(CHUNK as usize, &sent, now);
                pace.round_trip(Duration::from_micros(took));
            }
            prop_assert!(pace.rate().is_finite() && pace.rate() > 0.0);
            prop_assert!((FIRST_DEPTH.min(MIN_DEPTH)..=MAX_DEPTH).contains(&pace.depth()));
            prop_assert!(pace.suspicious() >= SUSPECT_FLOOR && pace.deadline() >= DEADLINE_FLOOR);
            prop_assert!(pace.samples == 0 || pace.deadline() <= DEADLINE_CEILING);
        }
    }
}

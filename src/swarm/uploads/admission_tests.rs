//! Properties of the admission of uploads: shares follow weights, nobody is starved, limits hold.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::*;

fn node(tag: u8) -> NodeId {
    NodeId([tag; 32])
}

/// Peers that always ask, on one link of `rate` that sends what was admitted in that order.
struct Link {
    admission: Admission,
    now: Instant,
    rate: f64,
    queue: VecDeque<Ticket>,
    of: HashMap<Ticket, u8>,
    sent: BTreeMap<u8, u64>,
}

impl Link {
    fn new(rate: f64, limits: UploadLimits) -> Self {
        let now = Instant::now();
        let admission = Admission::new(limits, now);
        Self { admission, now, rate, queue: VecDeque::new(), of: HashMap::new(), sent: BTreeMap::new() }
    }

    fn ask(&mut self, tag: u8, weight: f64) {
        let ticket = self.admission.ask(node(tag), CHUNK as usize, weight);
        self.of.insert(ticket, tag);
    }

    /// Sends one chunk and lets its peer ask for another.
    fn step(&mut self, weights: &BTreeMap<u8, f64>) {
        while let Some(ticket) = self.admission.admit(self.now) {
            self.queue.push_back(ticket);
        }
        let Some(ticket) = self.queue.pop_front() else {
            let next = self.admission.next_change(self.now).expect("nothing is sent and nothing will change");
            self.now = next + Duration::from_micros(1);
            return;
        };
        self.now += Duration::from_secs_f64(CHUNK as f64 / self.rate);
        self.admission.done(ticket, self.now);
        let tag = self.of[&ticket];
        *self.sent.entry(tag).or_default() += 1;
        self.ask(tag, weights[&tag]);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn a_full_link_is_shared_by_weight(weights in proptest::collection::btree_map(0u8..20, 1.0..16f64, 2..6), rate in 1e6..3e8f64) {
        let mut link = Link::new(rate, UploadLimits::default());
        for (&tag, &weight) in &weights {
            (0..16).for_each(|_| link.ask(tag, weight));
        }
        for _ in 0..8000 {
            link.step(&weights);
        }
        let all: f64 = weights.values().sum();
        for (tag, weight) in &weights {
            let want = 8000.0 * weight / all;
            let got = link.sent.get(tag).copied().unwrap_or(0) as f64;
            prop_assert!((got / want - 1.0).abs() < 0.15 || (got - want).abs() < 20.0, "{tag}: {got} for {want}");
        }
    }

    #[test]
    fn a_rate_limit_holds(limit in 1_000_000u64..50_000_000, rate in 1e8..1e9f64) {
        let mut link = Link::new(rate, UploadLimits { rate: Some(limit), slots: None });
        let weights = BTreeMap::from([(1, 1.0)]);
        (0..16).for_each(|_| link.ask(1, 1.0));
        let began = link.now;
        for _ in 0..1000 {
            link.step(&weights);
        }
        let sent = link.sent[&1] as f64 * CHUNK as f64;
        let reached = (sent - BURST) / link.now.duration_since(began).as_secs_f64();
        prop_assert!(reached < limit as f64 * 1.05 && reached > limit as f64 * 0.9, "{reached} for {limit}");
    }
}

#[test]
fn a_slow_peer_holds_up_nobody() {
    let mut now = Instant::now();
    let mut admission = Admission::new(UploadLimits::default(), now);
    for _ in 0..64 {
        admission.ask(node(1), CHUNK as usize, 1.0);
    }
    // It takes nothing of what is served to it.
    while admission.admit(now).is_some() {}
    for _ in 0..64 {
        admission.ask(node(2), CHUNK as usize, 1.0);
    }
    now += Duration::from_secs(2);
    let mut served = 0;
    while let Some(ticket) = admission.admit(now) {
        now += Duration::from_millis(1);
        admission.done(ticket, now);
        served += 1;
        assert!(served <= 64, "the slow peer was served more");
    }
    assert_eq!(served, 64);
}

#[test]
fn what_was_sent_before_does_not_count_against_a_new_limit() {
    let mut now = Instant::now();
    let mut admission = Admission::new(UploadLimits::default(), now);
    for _ in 0..1000 {
        let ticket = admission.ask(node(1), CHUNK as usize, 1.0);
        assert_eq!(admission.admit(now), Some(ticket));
        now += Duration::from_millis(1);
        admission.done(ticket, now);
    }
    admission.limit(UploadLimits { rate: Some(1_000_000), slots: None });
    let ticket = admission.ask(node(1), CHUNK as usize, 1.0);
    assert_eq!(admission.admit(now), Some(ticket));
}

#[test]
fn what_nobody_wants_any_more_is_forgotten() {
    let now = Instant::now();
    let mut admission = Admission::new(UploadLimits { rate: None, slots: Some(1) }, now);
    let (a, b, c) = (admission.ask(node(1), 1, 1.0), admission.ask(node(1), 1, 1.0), admission.ask(node(1), 1, 1.0));
    assert_eq!(admission.admit(now), Some(a));
    assert_eq!(admission.admit(now), None);
    admission.done(b, now);
    admission.done(a, now);
    assert_eq!(admission.admit(now), Some(c));
    admission.done(c, now);
    assert!(admission.of.is_empty() && admission.shares().is_empty());
}

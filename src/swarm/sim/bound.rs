//! How fast a simulated transfer could possibly be: the least time in which a fluid could flow from those who hold it, at
//! the rates that they have, and what the simulator grants on top.
//!
//! Feasibility for a given time is a maximum flow from the honest peers (what each can send by then) to the classes of
//! chunks (those held by the same peers); the least feasible time is found by bisection.

use std::collections::BTreeMap;

use super::scenario::{Fault, Scenario};
use crate::base::chunks::CHUNK;
use crate::base::ranges::Ranges;
use crate::swarm::pace::Pace;

/// What happened in a run and counts for its bound.
#[derive(Clone, Debug, Default)]
pub struct Happened {
    /// From when on everything was known, if peers with parts change, and what had been verified by then.
    pub known: (f64, Ranges),
    /// Seconds that each peer had lost by then.
    pub lost_before: Vec<f64>,
    /// Seconds that each peer lost by losses on its link.
    pub lost: Vec<f64>,
    /// Faults of each peer that the transfer met.
    pub faults: Vec<u64>,
}

/// Classes of chunks: how many bytes are held by exactly these peers.
fn classes(scenario: &Scenario, happened: &Happened, usable: &[usize]) -> BTreeMap<Vec<usize>, f64> {
    let mut edges = vec![0, scenario.chunks];
    let held: Vec<Option<Ranges>> = usable.iter().map(|at| scenario.peers[*at].holds_at(happened.known.0)).collect();
    let done = &happened.known.1;
    for run in held.iter().flatten().chain([done]).flat_map(|held| held.runs()) {
        edges.extend([run.start, run.end]);
    }
    edges.sort_unstable();
    edges.dedup();
    let mut classes = BTreeMap::new();
    for pair in edges.windows(2) {
        if done.contains(pair[0]) {
            continue;
        }
        let holders = (0..usable.len()).filter(|at| held[*at].as_ref().is_none_or(|held| held.contains(pair[0])));
        *classes.entry(holders.collect()).or_insert(0.0) += ((pair[1] - pair[0]) * CHUNK) as f64;
    }
    classes
}

/// What peer `at` can send by `time`, in bytes, from when on it all was known.
fn can_send(scenario: &Scenario, happened: &Happened, at: usize, time: f64) -> f64 {
    let before = sends_by(scenario, happened.lost_before[at], at, happened.known.0);
    (sends_by(scenario, happened.lost[at], at, time) - before).max(0.0)
}

fn sends_by(scenario: &Scenario, lost: f64, at: usize, time: f64) -> f64 {
    let peer = &scenario.peers[at];
    let until = match peer.fault {
        Fault::Vanishes(at) | Fault::Stops(at) => time.min(at),
        _ => time,
    };
    let from = match peer.fault {
        Fault::Busy(until) => peer.arrives.max(until),
        _ => peer.arrives,
    };
    let (change, later) = peer.changes.unwrap_or((f64::MAX, 0.0));
    let early = (until.min(change) - from).max(0.0) * peer.rate;
    let late = (until - change.max(from)).max(0.0) * later;
    (early + late - lost * peer.rate.max(later)).max(0.0)
}

/// The least time in which all chunks could have come from the peers in `usable`; `None` if never.
fn flow_time(scenario: &Scenario, happened: &Happened, usable: &[usize]) -> Option<f64> {
    let classes = classes(scenario, happened, usable);
    if classes.is_empty() {
        return Some(happened.known.0);
    }
    if classes.keys().any(Vec::is_empty) {
        return None;
    }
    let (mut low, mut high) = (happened.known.0, happened.known.0 + 1e-3);
    let feasible = |time: f64| {
        let sends: Vec<f64> = usable.iter().map(|at| can_send(scenario, happened, *at, time)).collect();
        Flow::new(&sends, &classes).carries_all()
    };
    while !feasible(high) {
        low = high;
        high += 2.0 * (high - happened.known.0);
        if high > 1e6 {
            return None;
        }
    }
    while high - low > 1e-3 * high {
        let middle = (low + high) / 2.0;
        if feasible(middle) { high = middle } else { low = middle }
    }
    Some(low)
}

/// Seconds after which the pace would give up on a peer, once it knows it or, `first`, before.
fn deadline(rate: f64, delay: f64, first: bool) -> f64 {
    let mut pace = Pace::new(rate);
    pace.round_trip(std::time::Duration::from_secs_f64(2.0 * delay));
    if first { pace.deadline() } else { pace.usual_deadline() }.as_secs_f64()
}

/// A peer is needed if without it and all slower ones the flow would take longer by more than this part.
const NEEDED: f64 = 0.05;

/// The bound: the flow, plus one chunk from the slowest peer that is needed, plus one deadline for each fault. And a
/// tighter one, which counts all faults as one: the longest deadline alone.
pub fn bound(scenario: &Scenario, happened: &Happened) -> (f64, f64) {
    let rate =
        |at: &usize| scenario.peers[*at].changes.map_or(f64::MAX, |(_, rate)| rate).min(scenario.peers[*at].rate);
    let honest = |at: &usize| !matches!(scenario.peers[*at].fault, Fault::Silent | Fault::Lies(_) | Fault::Boasts);
    let mut usable: Vec<usize> = (0..scenario.peers.len()).filter(honest).collect();
    usable.sort_by(|a, b| rate(b).total_cmp(&rate(a)));
    let flow = flow_time(scenario, happened, &usable).unwrap_or(f64::MAX);
    // The fewest of the fastest that do nearly as well; found by bisection.
    let (mut low, mut high) = (0, usable.len());
    while high - low > 1 {
        let middle = (low + high) / 2;
        let enough = flow_time(scenario, happened, &usable[..middle]).is_some_and(|time| time <= flow * (1.0 + NEEDED));
        if enough { high = middle } else { low = middle }
    }
    let needed = &usable[..high];
    let chunk = needed.iter().map(|at| CHUNK as f64 / rate(at) + 2.0 * scenario.peers[*at].delay).fold(0.0, f64::max);
    let faults = scenario.peers.iter().zip(&happened.faults).filter(|(_, faults)| **faults > 0);
    let deadlines: Vec<(f64, f64)> = faults
        .map(|(peer, faults)| (*faults as f64, deadline(peer.rate, peer.delay, peer.fault == Fault::Silent)))
        .collect();
    let all: f64 = deadlines.iter().map(|(faults, deadline)| faults * deadline).sum();
    let longest = deadlines.iter().map(|(_, deadline)| *deadline).fold(0.0, f64::max);
    // A lost packet is a fault too; all of them count as one, and only for as long as it held a chunk up.
    let held_up = happened.lost.iter().zip(&scenario.peers).filter(|(lost, _)| **lost > 0.0);
    let held_up = held_up.map(|(_, peer)| peer.loss.1).fold(0.0, f64::max);
    (flow + chunk + all + held_up, flow + chunk + longest.max(held_up))
}

/// Maximum flow by Dinic's algorithm: source, peers, classes, sink.
struct Flow {
    /// Edges in pairs, there and back: to which node, and what can still flow.
    edges: Vec<(usize, f64)>,
    from: Vec<Vec<usize>>,
    total: f64,
}

const SOURCE: usize = 0;
const SINK: usize = 1;

impl Flow {
    fn new(sends: &[f64], classes: &BTreeMap<Vec<usize>, f64>) -> Self {
        let nodes = 2 + sends.len() + classes.len();
        let mut flow = Self { edges: Vec::new(), from: vec![Vec::new(); nodes], total: classes.values().sum() };
        for (peer, sends) in sends.iter().enumerate() {
            flow.edge(SOURCE, 2 + peer, *sends);
        }
        for (at, (holders, bytes)) in classes.iter().enumerate() {
            let class = 2 + sends.len() + at;
            flow.edge(class, SINK, *bytes);
            for peer in holders {
                flow.edge(2 + peer, class, f64::MAX);
            }
        }
        flow
    }

    fn edge(&mut self, from: usize, to: usize, most: f64) {
        self.from[from].push(self.edges.len());
        self.edges.push((to, most));
        self.from[to].push(self.edges.len());
        self.edges.push((from, 0.0));
    }

    fn carries_all(mut self) -> bool {
        let mut carried = 0.0;
        while let Some(levels) = self.levels() {
            let mut next = vec![0; self.from.len()];
            loop {
                let pushed = self.push(SOURCE, f64::MAX, &levels, &mut next);
                if pushed <= 0.0 {
                    break;
                }
                carried += pushed;
            }
        }
        carried >= self.total * (1.0 - 1e-9)
    }

    fn levels(&self) -> Option<Vec<usize>> {
        let mut levels = vec![usize::MAX; self.from.len()];
        levels[SOURCE] = 0;
        let mut queue = std::collections::VecDeque::from([SOURCE]);
        while let Some(node) = queue.pop_front() {
            for &edge in &self.from[node] {
                let (to, left) = self.edges[edge];
                if left > 1e-6 && levels[to] == usize::MAX {
                    levels[to] = levels[node] + 1;
                    queue.push_back(to);
                }
            }
        }
        (levels[SINK] != usize::MAX).then_some(levels)
    }

    fn push(&mut self, node: usize, most: f64, levels: &[usize], next: &mut [usize]) -> f64 {
        if node == SINK {
            return most;
        }
        while next[node] < self.from[node].len() {
            let edge = self.from[node][next[node]];
            let (to, left) = self.edges[edge];
            if left > 1e-6 && levels[to] == levels[node] + 1 {
                let pushed = self.push(to, most.min(left), levels, next);
                if pushed > 0.0 {
                    self.edges[edge].1 -= pushed;
                    self.edges[edge ^ 1].1 += pushed;
                    return pushed;
                }
            }
            next[node] += 1;
        }
        0.0
    }
}

#[cfg(test)]
mod tests {
    use super::super::scenario::{Kind, Peer, Wanted};
    use super::*;

    fn peer(rate: f64, held: Option<Ranges>) -> Peer {
        let rate = rate * CHUNK as f64;
        Peer {
            arrives: 0.0,
            rate,
            changes: None,
            delay: 0.0,
            held,
            grows: Vec::new(),
            loss: (0.0, 0.0),
            fault: Fault::None,
        }
    }

    fn time(peers: Vec<Peer>) -> f64 {
        let happened = Happened {
            known: (0.0, Ranges::new()),
            lost_before: vec![0.0; peers.len()],
            lost: vec![0.0; peers.len()],
            faults: vec![0; peers.len()],
        };
        let all: Vec<usize> = (0..peers.len()).collect();
        let scenario = Scenario { chunks: 100, wanted: Wanted::Whole, kind: Kind::Full, peers, known: false };
        flow_time(&scenario, &happened, &all).unwrap()
    }

    #[test]
    fn flows_are_as_fast_as_they_can_be() {
        let near = |time: f64, want: f64| assert!((time / want - 1.0).abs() < 0.01, "{time} {want}");
        near(time(vec![peer(1.0, None)]), 100.0);
        near(time(vec![peer(1.0, None), peer(3.0, None)]), 25.0);
        // The second can only help with a tenth.
        near(time(vec![peer(1.0, None), peer(3.0, Some(Ranges::of(0..10)))]), 90.0);
        near(
            time(vec![
                peer(1.0, Some(Ranges::of(0..50))),
                peer(1.0, Some(Ranges::of(50..100))),
                peer(1.0, Some(Ranges::of(40..60))),
            ]),
            40.0,
        );
        let mut late = peer(1.0, None);
        late.arrives = 10.0;
        near(time(vec![peer(1.0, None), late]), 55.0);
    }
}

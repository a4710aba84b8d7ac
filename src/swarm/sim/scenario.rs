//! What happens in one simulated transfer, all of it from one seed: the file, the peers and their faults.

use crate::base::chunks::CHUNK;
use crate::base::ranges::Ranges;

/// What a reader asks ahead, in chunks.
const WINDOW: u64 = 256;
/// Peers that one reader's window can keep busy.
const STREAM_PEERS: usize = 40;

/// No transfer is over sooner than in about this many seconds (a few times what waits at a source to keep its link busy),
/// nor than in about this many round trips.
const SHORTEST: f64 = 0.5;
const ROUND_TRIPS: f64 = 40.0;

/// A small generator of its own, so that a seed means the same case for ever.
pub struct Dice(u64);

impl Dice {
    /// The generator of `seed`.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// SplitMix64.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// In 0..1.
    pub fn part(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// True with this probability.
    pub fn chance(&mut self, probability: f64) -> bool {
        self.part() < probability
    }

    /// In `from..to`.
    pub fn between(&mut self, from: f64, to: f64) -> f64 {
        from + (to - from) * self.part()
    }

    /// In `from..to`, each order of magnitude as likely as the other.
    pub fn log(&mut self, from: f64, to: f64) -> f64 {
        (self.between(from.ln(), to.ln())).exp()
    }

    /// In `0..below`.
    pub fn below(&mut self, below: u64) -> u64 {
        self.next() % below.max(1)
    }
}

/// How a simulated peer goes wrong.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Fault {
    /// It doesn't.
    None,
    /// Says that it has everything, and answers nothing.
    Silent,
    /// Sends wrong bytes from this many chunks on.
    Lies(u64),
    /// Its session ends at this time.
    Vanishes(f64),
    /// Sends nothing from this time on, for good.
    Stops(f64),
    /// Never answers a request, with this probability.
    Forgets(f64),
    /// Says that it holds more than it does.
    Boasts,
    /// Is too busy until this time.
    Busy(f64),
}

/// One simulated peer. Times in seconds since the start, rates in bytes per second.
#[derive(Clone, Debug)]
pub struct Peer {
    pub arrives: f64,
    pub rate: f64,
    /// From this time on, another rate.
    pub changes: Option<(f64, f64)>,
    /// One way.
    pub delay: f64,
    /// What it holds; `None` is everything.
    pub held: Option<Ranges>,
    /// It holds these too from then on.
    pub grows: Vec<(f64, Ranges)>,
    /// Probability that a chunk is held up by lost packets, and for how long.
    pub loss: (f64, f64),
    pub fault: Fault,
}

impl Peer {
    /// What it holds at `time`.
    pub fn holds_at(&self, time: f64) -> Option<Ranges> {
        let mut held = self.held.clone()?;
        self.grows.iter().filter(|(at, _)| *at <= time).for_each(|(_, more)| held.union_with(more));
        Some(held)
    }
}

/// How the file is wanted.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Wanted {
    /// All of it, in no order.
    Whole,
    /// By a reader that asks this many chunks ahead.
    Stream(u64),
}

/// What kind of case it is: it decides which bound is fair.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Kind {
    /// Everybody holds everything; peers come, go, change and go wrong.
    Full,
    /// Peers hold parts, and stay as they are from the start.
    Parts,
    /// Peers hold parts, and come, go, change and go wrong: who knew the future would have asked otherwise.
    PartsThatChange,
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Scenario {
    pub chunks: u64,
    pub wanted: Wanted,
    pub kind: Kind,
    pub peers: Vec<Peer>,
    /// Rates are known from earlier transfers, more or less.
    pub known: bool,
}

impl Scenario {
    /// The case of `seed`. Honest peers that stay hold every chunk between them.
    pub fn of(seed: u64) -> Self {
        let mut dice = Dice::new(seed);
        let count = if dice.chance(0.1) { dice.log(20.0, 400.0) } else { dice.log(1.0, 20.0) } as usize;
        let known = dice.chance(0.5);
        // A file of one chunk comes with the handshake. And whoever asks hundreds for a few chunks can only guess whom.
        let chunks = dice.log((count as f64).max(2.0), 2000.0) as u64;
        let kind = match dice.below(10) {
            0..5 => Kind::Full,
            5..8 => Kind::Parts,
            _ => Kind::PartsThatChange,
        };
        // A reader's window has too few chunks to keep hundreds of peers busy.
        let streams = kind == Kind::Full && count <= STREAM_PEERS && dice.chance(0.5);
        let wanted = if streams { Wanted::Stream(WINDOW) } else { Wanted::Whole };
        let faulty = if kind != Kind::Parts && dice.chance(0.6) { dice.between(0.0, 0.6) } else { 0.0 };
        // Not so fast that all is over before anything can be measured.
        let most = (chunks * CHUNK) as f64 / count as f64 / SHORTEST;
        let (slowest, fastest) = (dice.log(1e5, 1e8).min(most), dice.log(1e5, 1e8).min(most));
        let spread = (slowest.min(fastest), slowest.max(fastest) * 1.001);
        let losses = if dice.chance(0.2) { dice.log(1e-3, 0.05) } else { 0.0 };
        // About how long it will take: what happens in between should happen in between.
        let typical = (spread.0 * spread.1).sqrt() * (count as f64).max(1.0);
        let span = (chunks * CHUNK) as f64 / typical;
        // The bound knows no round trips: they are short against the whole.
        let farthest = dice.log(1e-4, 0.1).min(span / ROUND_TRIPS);
        let mut peers = Vec::new();
        for at in 0..count {
            // The first ones stay honest.
            let honest = at == 0 || !dice.chance(faulty);
            let fault = if honest { Fault::None } else { Self::fault(&mut dice, span) };
            let held = (kind != Kind::Full && at > 0).then(|| Self::part(&mut dice, chunks));
            let held = if fault == Fault::Silent { None } else { held };
            let grows = match &held {
                Some(_) if kind == Kind::PartsThatChange && dice.chance(0.3) => {
                    (1..4).map(|step| (span * f64::from(step) * 0.2, Self::part(&mut dice, chunks))).collect()
                }
                _ => Vec::new(),
            };
            let changes = kind != Kind::Parts;
            peers.push(Peer {
                arrives: if at > 0 && changes && dice.chance(0.3) { dice.between(0.0, span) } else { 0.0 },
                rate: dice.log(spread.0, spread.1),
                changes: (changes && dice.chance(0.1)).then(|| (dice.between(0.0, span), dice.log(spread.0, spread.1))),
                delay: dice.log(farthest / 100.0, farthest),
                held,
                grows,
                loss: (losses, dice.between(0.02, 0.3)),
                fault,
            });
        }
        // With parts only: the first one lacks what a second, who is as honest, does have.
        if kind != Kind::Full && chunks > 3 && count > 1 && dice.chance(0.5) {
            let cut = 1 + dice.below(chunks - 2);
            peers[0].held = Some(Ranges::of(0..cut));
            let second = &mut peers[1];
            (second.fault, second.arrives, second.grows) = (Fault::None, 0.0, Vec::new());
            let held = second.held.get_or_insert_default();
            held.insert(cut..chunks);
        }
        Self { chunks, wanted, kind, peers, known }
    }

    /// Times after which somebody knows something that could not be known before.
    pub fn surprises(&self) -> Vec<f64> {
        let peer = |peer: &Peer| {
            let fault = match peer.fault {
                Fault::Vanishes(at) | Fault::Stops(at) | Fault::Busy(at) => at,
                _ => 0.0,
            };
            let grows = peer.grows.iter().map(|(at, _)| *at);
            let changes = peer.changes.map(|(at, _)| at);
            grows.chain([peer.arrives, fault]).chain(changes).collect::<Vec<_>>()
        };
        self.peers.iter().flat_map(peer).collect()
    }

    fn fault(dice: &mut Dice, span: f64) -> Fault {
        match dice.below(7) {
            0 => Fault::Silent,
            1 => Fault::Lies(dice.below(20)),
            2 => Fault::Vanishes(dice.between(0.0, span)),
            3 => Fault::Stops(dice.between(0.0, span)),
            4 => Fault::Forgets(dice.log(0.005, 0.2)),
            5 => Fault::Boasts,
            _ => Fault::Busy(dice.between(0.0, span)),
        }
    }

    /// A few runs of the file.
    fn part(dice: &mut Dice, chunks: u64) -> Ranges {
        let mut part = Ranges::new();
        for _ in 0..=dice.below(4) {
            let start = dice.below(chunks);
            let len = 1 + dice.below(chunks - start);
            part.insert(start..start + len);
        }
        part
    }
}

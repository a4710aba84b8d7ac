//! What is so, what each node believes, and in how much they differ: kept with each change, for looking at everything each
//! time would take longer than the simulation.

use std::collections::HashMap;
use std::time::Duration;

/// See the module. Nodes are numbers here, times are since the start.
#[derive(Default)]
pub struct Truth {
    pub alive: Vec<bool>,
    running: i64,
    /// By node: a bit for each that it believes alive.
    believes: Vec<Vec<u64>>,
    believers: Vec<i64>,
    wrong: i64,
    /// Where each node's catalog stands, and how many running nodes have that.
    newest: Vec<Option<(u64, u64)>>,
    holders: Vec<i64>,
    lacking: i64,
    /// Running nodes that are believed dead, by whom, since when; and for how long it lasted, where it ended.
    slandered: HashMap<(usize, usize), Duration>,
    pub slanders: Vec<Duration>,
    /// When anybody's belief in this node last changed, and when a book last took in its newest catalog.
    pub changed: Vec<Duration>,
    pub fetched: Vec<Duration>,
}

impl Truth {
    pub fn new(nodes: usize) -> Self {
        Self {
            alive: vec![false; nodes],
            believes: vec![Vec::new(); nodes],
            believers: vec![0; nodes],
            newest: vec![None; nodes],
            holders: vec![0; nodes],
            changed: vec![Duration::ZERO; nodes],
            fetched: vec![Duration::ZERO; nodes],
            ..Self::default()
        }
    }

    fn bit(&self, who: usize, whom: usize) -> bool {
        self.believes[who].get(whom / 64).is_some_and(|word| word >> (whom % 64) & 1 == 1)
    }

    /// Beliefs about `whom` that are wrong.
    fn wrong_about(&self, whom: usize) -> i64 {
        if self.alive[whom] { self.running - 1 - self.believers[whom] } else { self.believers[whom] }
    }

    fn lacking_of(&self, whom: usize) -> i64 {
        if self.alive[whom] && self.newest[whom].is_some() { self.running - self.holders[whom] } else { 0 }
    }

    fn recount(&mut self) {
        self.wrong = (0..self.alive.len()).map(|whom| self.wrong_about(whom)).sum();
        self.lacking = (0..self.alive.len()).map(|whom| self.lacking_of(whom)).sum();
    }

    /// `who` runs from now on, and believes nothing yet.
    pub fn starts(&mut self, who: usize, holds: impl Iterator<Item = (usize, (u64, u64))>) {
        self.alive[who] = true;
        self.running += 1;
        self.believes[who] = vec![0; self.alive.len().div_ceil(64)];
        for (whom, place) in holds {
            self.holders[whom] += i64::from(self.newest[whom] == Some(place));
        }
        self.recount();
    }

    /// It does no more.
    pub fn stops(&mut self, who: usize, holds: impl Iterator<Item = (usize, (u64, u64))>) {
        for whom in 0..self.alive.len() {
            self.believers[whom] -= i64::from(self.bit(who, whom));
        }
        for (whom, place) in holds {
            self.holders[whom] -= i64::from(self.newest[whom] == Some(place));
        }
        self.believes[who] = Vec::new();
        self.alive[who] = false;
        self.running -= 1;
        self.slandered.retain(|(by, of), _| *by != who && *of != who);
        self.recount();
    }

    /// `who` believes that `whom` is alive, or is not.
    pub fn believes(&mut self, who: usize, whom: usize, alive: bool, now: Duration) {
        if self.bit(who, whom) == alive || who == whom {
            return;
        }
        self.believes[who][whom / 64] ^= 1 << (whom % 64);
        self.wrong -= self.wrong_about(whom);
        self.believers[whom] += if alive { 1 } else { -1 };
        self.wrong += self.wrong_about(whom);
        self.changed[whom] = now;
        if alive {
            let since = self.slandered.remove(&(who, whom));
            self.slanders.extend(since.map(|since| now - since));
        } else if self.alive[whom] {
            self.slandered.insert((who, whom), now);
        }
    }

    /// `whom` has a new catalog.
    pub fn publishes(&mut self, whom: usize, place: (u64, u64), now: Duration) {
        self.lacking -= self.lacking_of(whom);
        (self.newest[whom], self.holders[whom]) = (Some(place), 1);
        self.lacking += self.lacking_of(whom);
        self.fetched[whom] = now;
    }

    /// A catalog came into somebody's book.
    pub fn holds(&mut self, whom: usize, place: (u64, u64), now: Duration) {
        if self.newest[whom] == Some(place) {
            self.lacking -= self.lacking_of(whom);
            self.holders[whom] += 1;
            self.lacking += self.lacking_of(whom);
            self.fetched[whom] = now;
        }
    }

    /// Beliefs that are wrong, of all running nodes about all nodes.
    pub fn wrong(&self) -> i64 {
        self.wrong
    }

    /// Catalogs of running nodes, in their newest version, that running nodes lack.
    pub fn lacking(&self) -> i64 {
        self.lacking
    }

    /// How many beliefs there are.
    pub fn beliefs(&self) -> i64 {
        self.running * (self.alive.len() as i64 - 1)
    }

    /// Running nodes.
    pub fn running(&self) -> usize {
        self.running as usize
    }

    /// True if nobody believes this node alive.
    pub fn is_missed(&self, whom: usize) -> bool {
        self.believers[whom] == 0
    }

    /// True if all others do.
    pub fn is_known(&self, whom: usize) -> bool {
        self.believers[whom] == self.running - 1
    }

    /// For how long who is believed dead and runs has been believed so, at the most.
    pub fn longest_slander(&self, now: Duration) -> Duration {
        let open = self.slandered.values().map(|since| now - *since);
        open.chain(self.slanders.iter().copied()).max().unwrap_or_default()
    }
}

//! What `members/gossiping` does, on the simulated network.

use std::time::Duration;

use rand::RngExt;

use super::link::place;
use super::world::{Event, World};
use crate::members::dialling::GATHER;
use crate::members::gossip::swim::{Event as Noticed, TELL};
use crate::members::gossiping::{CALL, CALLED, doubted, take_in};
use crate::members::known::is_nobody;
use crate::wire::message::MemberRecord;

impl World {
    pub fn datagram(&mut self, from: usize, to: usize, letter: &[u8]) {
        if self.is_cut(from, to) || self.nodes[to].running.is_none() {
            return;
        }
        let (now, wall, addr) = (self.instant(), self.wall(), self.nodes[from].addr);
        let (on, bytes) = (super::link::spent_on(letter), super::link::datagram(letter));
        self.spend(to, None, on, bytes);
        let Some(running) = self.running(to) else { return };
        running.swim.receive(letter, Some((addr, wall)), wall, now);
        running.roster.heard(now);
        self.gossip_effects(to);
    }

    pub fn tick(&mut self, who: usize) {
        let (at, now, wall) = (self.now, self.instant(), self.wall());
        let Some(running) = self.running(who).filter(|running| running.ticks == at) else { return };
        running.ticks = Duration::MAX;
        running.swim.tick(wall, now);
        self.gossip_effects(who);
    }

    /// Sends what is to be sent and takes in what was noticed.
    pub fn gossip_effects(&mut self, who: usize) {
        let (now, wall, id) = (self.instant(), self.timestamp(), self.nodes[who].id);
        let Some(running) = self.running(who) else { return };
        let (letters, events) = running.swim.take();
        if !events.is_empty() {
            take_in(&events, id, &mut running.roster, &mut running.known, (wall, now));
            let doubted: Vec<(u64, usize)> = doubted(&events, &running.roster).iter().map(place).collect();
            doubted.into_iter().for_each(|(number, side)| self.doubt(number, side));
            for event in events {
                match event {
                    Noticed::Up(node, _) | Noticed::Anew(node, _) | Noticed::Down(node) => self.believe(who, node),
                    Noticed::Twin => panic!("nobody here has a twin"),
                }
            }
            self.dial_by(who, self.now + GATHER);
        }
        for (to, letter) in letters {
            self.send(who, to, letter);
        }
        let next = self.running(who).and_then(|running| running.swim.next());
        let Some(next) = next else { return };
        let at = (self.now + next.saturating_duration_since(now)).max(self.now);
        if let Some(running) = self.running(who).filter(|running| at < running.ticks) {
            running.ticks = at;
            self.at(at, Event::Tick(who));
        }
    }

    pub fn call_absent(&mut self, who: usize, run: u32) {
        if self.nodes[who].run != run {
            return;
        }
        let (draw, now, id) = (self.dice.random(), self.instant(), self.nodes[who].id);
        let Some(running) = self.running(who) else { return };
        let pick = |node: &_| *node != id && !is_nobody(node) && !running.roster.is_live(node);
        for (node, addr) in running.known.some(draw, CALLED, pick) {
            running.swim.call(node, addr, now);
        }
        self.gossip_effects(who);
        self.after(CALL, Event::Calls(who, run));
    }

    pub fn learn_members(&mut self, who: usize, records: &[MemberRecord]) {
        let (now, wall) = (self.instant(), self.wall());
        if let Some(running) = self.running(who) {
            let mut records = records.to_vec();
            running.swim.retain_news(&mut records);
            running.swim.learn(&records, records.len() <= TELL, wall, now);
        }
        self.gossip_effects(who);
    }
}

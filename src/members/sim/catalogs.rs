//! What `members/catalogs` and `members/publishing` do, on the simulated network.

use std::sync::Arc;
use std::time::Duration;

use ed25519_dalek::Signer;
use rand::RngExt;

use super::link::place;
use super::sessions::Said;
use super::world::{Event, NETWORK, World};
use crate::base::ids::NodeId;
use crate::catalog::book::CatalogBook;
use crate::catalog::copy::CatalogCopy;
use crate::catalog::own;
use crate::members::catalogs::EXCHANGE_EVERY;
use crate::members::comparing::{Comparison, Learned, ahead, answer_sums, news};
use crate::members::pair::entries;
use crate::net::link::PeerLink;
use crate::wire::message::{CatalogAnswer, CatalogRequest, CatalogVersion, Notice, Request, Response};

/// A catalog that is being fetched: in which session, from what place on, and as far as it came.
pub struct Fetch {
    session: (u64, usize),
    had: Option<(u64, u64)>,
    copy: Option<Arc<CatalogCopy>>,
}

impl World {
    /// A node offers these files, and no others. Publishes for real: signed by its key.
    pub fn publish(&mut self, who: usize, names: &[String]) {
        let (wall, key, id) = (self.timestamp(), self.nodes[who].key.clone(), self.nodes[who].id);
        let Some(running) = self.running(who) else { return };
        let mut names: Vec<&str> = names.iter().map(String::as_str).collect();
        names.sort_unstable();
        let sign = |message: &[u8]| key.sign(message).to_bytes();
        let mut copy = match running.book.get(id) {
            Some(copy) => (**copy).clone(),
            None => own::begin(NETWORK, id, wall, &sign).unwrap(),
        };
        own::publish(&mut copy, &entries(&names), wall, &sign).unwrap();
        let copy = Arc::new(copy);
        if running.book.put_own(Arc::clone(&copy)) {
            self.truth.publishes(who, copy.place(), self.now);
            self.tell(who, copy.version(), None);
        }
    }

    /// Tells all peers of a catalog that moved, but for the one that it came from.
    fn tell(&mut self, who: usize, version: CatalogVersion, from: Option<NodeId>) {
        let Some(running) = self.running(who) else { return };
        let places: Vec<(u64, usize)> =
            running.roster.links().filter(|link| Some(link.node()) != from).map(place).collect();
        for (number, side) in places {
            self.say(number, side, Said::Notice(Notice::Versions(vec![version])));
        }
    }

    pub fn exchanges_later(&mut self, who: usize) {
        let pause = Duration::from_secs(self.dice.random_range(EXCHANGE_EVERY.0..=EXCHANGE_EVERY.1));
        let run = self.nodes[who].run;
        self.after(pause, Event::Exchanges(who, run));
    }

    pub fn exchange_with_one(&mut self, who: usize, run: u32) {
        if self.nodes[who].run != run {
            return;
        }
        let draw: usize = self.dice.random_range(0..1 << 30);
        let Some(running) = self.running(who) else { return };
        let links: Vec<(u64, usize)> = running.roster.links().map(place).collect();
        if let Some((number, side)) = links.get(draw % links.len().max(1)) {
            self.exchange(*number, *side);
        }
        self.exchanges_later(who);
    }

    /// Finds out, with a peer, in what the two differ.
    pub fn exchange(&mut self, number: u64, side: usize) {
        let Some(session) = self.sessions.get(&number).filter(|session| session.comparing[side].is_none()) else {
            return;
        };
        let Some(running) = self.running(session.ends[side]) else { return };
        let comparison = Comparison::new(running.book.sums().clone(), running.swim.records());
        if let Some(session) = self.sessions.get_mut(&number) {
            session.comparing[side] = Some(Box::new(comparison));
        }
        self.ask_next(number, side);
    }

    fn ask_next(&mut self, number: u64, side: usize) {
        let Some(session) = self.sessions.get_mut(&number) else { return };
        let (who, comparison) = (session.ends[side], session.comparing[side].take());
        let (Some(mut comparison), Some(running)) = (comparison, self.running(who)) else { return };
        let request = comparison.request(|| running.book.versions());
        if let (Some(request), Some(session)) = (request, self.sessions.get_mut(&number)) {
            session.comparing[side] = Some(comparison);
            self.say(number, side, Said::Ask(request));
        }
    }

    /// Answers what a peer asks.
    pub fn asked(&mut self, number: u64, side: usize, who: usize, request: Request) {
        let Some(running) = self.running(who) else { return };
        let mut of = None;
        let answer = match request {
            Request::Sums(theirs) => {
                let (catalogs, members) = answer_sums(running.book.sums(), &running.swim.records(), theirs);
                Response::Sums { catalogs, members }
            }
            Request::Versions { buckets, versions } => {
                let ahead = ahead(running.book.versions(), buckets.into(), &versions);
                self.heard_versions(number, side, &versions);
                Response::Versions(ahead)
            }
            Request::Members { buckets, members } => {
                let ours = news(running.swim.records(), buckets.into(), &members);
                self.learn_members(who, &members);
                Response::Members(ours)
            }
            Request::Catalog(request) => {
                let copy = running.book.get(request.node);
                of = Some((request.node, copy.map_or((0, 0), |copy| copy.place())));
                Response::Catalog(copy.map_or(CatalogAnswer::UpToDate, |copy| copy.answer(&request)))
            }
            _ => Response::Refused,
        };
        self.say(number, side, Said::Answer(answer, of));
    }

    pub fn answered(
        &mut self,
        number: u64,
        side: usize,
        who: usize,
        answer: Response,
        of: Option<(NodeId, (u64, u64))>,
    ) {
        if let (Response::Catalog(answer), Some((node, place))) = (&answer, of) {
            return self.brought(number, side, who, node, place, answer);
        }
        let Some(session) = self.sessions.get_mut(&number) else { return };
        let Some(comparison) = session.comparing[side].as_mut() else { return };
        match comparison.take(answer).unwrap() {
            Learned::Sums => {}
            Learned::Versions(versions) => self.heard_versions(number, side, &versions),
            Learned::Members(records) => self.learn_members(who, &records),
        }
        self.ask_next(number, side);
    }

    /// A peer says where its catalogs stand.
    pub fn heard_versions(&mut self, number: u64, side: usize, versions: &[CatalogVersion]) {
        let Some(session) = self.sessions.get(&number) else { return };
        let (who, link) = (session.ends[side], Arc::clone(&session.links[side]));
        let link: Arc<dyn PeerLink> = link as _;
        let Some(running) = self.running(who) else { return };
        assert!(!running.book.own_elsewhere(versions), "nobody here loses what it published");
        let wanted = running.book.lacks(versions);
        for told in versions.iter().filter(|told| wanted.contains(&told.node)) {
            let now = self.instant();
            if self.running(who).is_some_and(|running| running.fetching.begin(&link, *told, now)) {
                self.fetch(who, told.node, (number, side));
            }
        }
    }

    fn fetch(&mut self, who: usize, node: NodeId, session: (u64, usize)) {
        let Some(running) = self.running(who) else { return };
        let copy = running.book.get(node).cloned();
        let had = copy.as_ref().map(|copy| copy.place());
        running.fetches.insert(node, Fetch { session, had, copy });
        let request = CatalogRequest { node, have: had, part: None };
        self.say(session.0, session.1, Said::Ask(Request::Catalog(request)));
    }

    /// A peer whose catalog of `node` stands at `place` answers.
    fn brought(
        &mut self,
        number: u64,
        side: usize,
        who: usize,
        node: NodeId,
        place: (u64, u64),
        answer: &CatalogAnswer,
    ) {
        let Some(running) = self.nodes[who].running.as_deref_mut() else { return };
        let Some(fetch) = running.fetches.get_mut(&node).filter(|fetch| fetch.session == (number, side)) else {
            return;
        };
        let have = fetch.copy.as_ref().map(|copy| copy.place());
        if !matches!(answer, CatalogAnswer::UpToDate) {
            let key = (self.numbers[&node], have, place);
            let take = || caught_up(node, fetch.copy.as_ref(), answer.clone());
            let copy = Arc::clone(self.verified.entry(key).or_insert_with(take));
            let request = CatalogRequest { node, have: Some(copy.place()), part: None };
            fetch.copy = Some(copy);
            return self.say(number, side, Said::Ask(Request::Catalog(request)));
        }
        let (copy, from) = (fetch.copy.take().filter(|_| have > fetch.had), number);
        if let Some(copy) = copy {
            let seen = copy.at();
            if running.book.put(Arc::clone(&copy)) {
                running.known.seen(node, seen);
                let number = self.numbers[&node];
                self.truth.holds(number, copy.place(), self.now);
                let from = self.sessions.get(&from).map(|session| session.links[side].peer);
                self.tell(who, copy.version(), from);
            }
        }
        self.fetch_is_over(who, node);
    }

    fn fetch_is_over(&mut self, who: usize, node: NodeId) {
        let Some(running) = self.running(who) else { return };
        running.fetches.remove(&node);
        let book = &running.book;
        let next = running.fetching.next(node, |told| !book.lacks(std::slice::from_ref(told)).is_empty());
        if let Some(link) = next {
            self.fetch(who, node, place(&link));
        }
    }

    /// What was being fetched in this session has to come from elsewhere.
    pub fn fetches_fail(&mut self, who: usize, number: u64) {
        let Some(running) = self.running(who) else { return };
        let mut failed: Vec<NodeId> =
            running.fetches.iter().filter(|(_, fetch)| fetch.session.0 == number).map(|(node, _)| *node).collect();
        failed.sort_unstable();
        failed.into_iter().for_each(|node| self.fetch_is_over(who, node));
    }
}

/// What an answer makes of a catalog, verified.
fn caught_up(node: NodeId, copy: Option<&Arc<CatalogCopy>>, answer: CatalogAnswer) -> Arc<CatalogCopy> {
    let mut book = CatalogBook::new(NETWORK, NodeId([0; 32]));
    if let Some(copy) = copy {
        book.put(Arc::clone(copy));
    }
    let mut catch_up = book.catch_up(node);
    assert!(catch_up.take(answer).unwrap());
    catch_up.finish().unwrap()
}

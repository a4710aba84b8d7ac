//! Pinging the trackers: any one is enough, all are told.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use tokio::task::JoinHandle;

use super::known::Found;
use super::membership::{Membership, TrackerState};
use super::pending::Guard;
use crate::base::ids::NodeId;
use crate::net::dial::dial;
use crate::net::link::{Answer, PeerAddr, PeerLink, Service};
use crate::tracker::client::Feed;
use crate::wire::message::{Notice, Request, Response};

/// Pause after a failure: short, for a tracker that comes back must be noticed without anybody's help.
const RETRY: Duration = Duration::from_secs(3);
/// An answer that takes longer is a failure.
const ANSWER: Duration = Duration::from_secs(10);
/// What a tracker may set as the time between pings.
const PING_LIMITS: (u32, u32) = (500, 60_000);
/// Before the next ping, if a tracker has more to tell already: one that says so for ever costs little.
const MORE: Duration = Duration::from_millis(1);
/// What a tracker said does not count once it has been silent for this long and others say who is alive: it drops a node
/// itself after 16 s, and one that does not come back must not keep the dead alive.
const SILENT: Duration = Duration::from_secs(60);
/// How long saying goodbye may take.
const GOODBYE: Duration = Duration::from_millis(500);

/// A tracker asks nothing.
pub(super) struct NoService;

#[async_trait]
impl Service for NoService {
    async fn connected(&self, _: Arc<dyn PeerLink>) {}

    async fn request(&self, _: &Arc<dyn PeerLink>, _: Request) -> Answer {
        Answer::Message(Response::Refused)
    }

    async fn notice(&self, _: &Arc<dyn PeerLink>, _: Notice) {}
}

impl Membership {
    pub(super) fn start_trackers(self: &Arc<Self>) -> Vec<JoinHandle<()>> {
        let state =
            |address: &String| TrackerState { address: address.clone(), reachable: false, problem: None, nodes: 0 };
        *self.tracker_states.lock() = self.trackers.iter().map(state).collect();
        *self.tracker_links.lock() = vec![None; self.trackers.len()];
        let begin = |number| {
            let first = self.pending.guard();
            tokio::spawn(Arc::clone(self).ping_loop(number, first))
        };
        (0..self.trackers.len()).map(begin).collect()
    }

    async fn ping_loop(self: Arc<Self>, number: usize, first: Guard) {
        let mut first = Some(first);
        let mut feed = Feed::new(self.around.identity.node);
        let mut listed = BTreeSet::new();
        let mut link: Option<Arc<dyn PeerLink>> = None;
        let mut answered = Instant::now();
        loop {
            let pinged = self.ping(number, &mut feed, &mut listed, &mut link).await;
            drop(first.take());
            let pause = match pinged {
                Ok(pause) => {
                    answered = Instant::now();
                    self.note(number, None, feed.active().len());
                    pause
                }
                Err(problem) => {
                    self.note(number, Some(problem), feed.active().len());
                    self.outlive(number, &mut listed, answered.elapsed());
                    link = None;
                    RETRY
                }
            };
            tokio::time::sleep(pause).await;
        }
    }

    /// Takes in who is listed now, and who was and is no more.
    fn listed(&self, number: usize, listed: &mut BTreeSet<NodeId>, feed: &Feed) {
        let now = Instant::now();
        let mut changed = false;
        {
            let mut roster = self.roster.lock();
            listed.retain(|node| {
                let stays = feed.active().contains_key(node);
                if !stays {
                    changed |= roster.tracked(*node, number, false, now);
                }
                stays
            });
            for node in feed.active().keys() {
                if listed.insert(*node) {
                    changed |= roster.tracked(*node, number, true, now);
                }
            }
        }
        if changed {
            self.view_now.notify_one();
        }
    }

    /// Forgets whom a tracker listed that has been silent for so long, if others say who is alive.
    fn outlive(&self, number: usize, listed: &mut BTreeSet<NodeId>, silent: Duration) {
        let other = |(other, state): (usize, &TrackerState)| other != number && state.reachable;
        let others = self.gossip_members().is_some_and(|members| members > 0)
            || self.tracker_states.lock().iter().enumerate().any(other);
        if silent < SILENT || !others {
            return;
        }
        let now = Instant::now();
        let mut changed = false;
        {
            let mut roster = self.roster.lock();
            for node in std::mem::take(listed) {
                changed |= roster.tracked(node, number, false, now);
            }
        }
        if changed {
            self.view_now.notify_one();
        }
    }

    fn note(&self, number: usize, problem: Option<String>, nodes: usize) {
        let mut states = self.tracker_states.lock();
        let Some(state) = states.get_mut(number) else { return };
        if state.problem.is_none() != problem.is_none() || !state.reachable {
            match &problem {
                None => tracing::info!(tracker = state.address, "the tracker answers"),
                Some(problem) if state.problem.as_ref() != Some(problem) => {
                    tracing::warn!(
                        tracker = state.address,
                        problem,
                        "the tracker does not answer: known peers are used"
                    );
                }
                Some(_) => {}
            }
        }
        (state.reachable, state.problem, state.nodes) = (problem.is_none(), problem, nodes);
    }

    async fn ping(
        self: &Arc<Self>,
        number: usize,
        feed: &mut Feed,
        listed: &mut BTreeSet<NodeId>,
        link: &mut Option<Arc<dyn PeerLink>>,
    ) -> Result<Duration, String> {
        let open = match link.as_ref().filter(|link| !link.is_closed()) {
            Some(open) => Arc::clone(open),
            None => {
                let open = self.reach(&self.trackers[number]).await?;
                *link = Some(Arc::clone(&open));
                if let Some(place) = self.tracker_links.lock().get_mut(number) {
                    *place = Some(Arc::downgrade(&open));
                }
                open
            }
        };
        let announce = feed.announce(self.around.identity.listens.clone(), false);
        let answer = tokio::time::timeout(ANSWER, open.request(Request::Announce(announce))).await;
        match answer {
            Ok(Ok(Response::Announced(announced))) => {
                let pause = match announced.more {
                    true => MORE,
                    false => Duration::from_millis(announced.ping_every_ms.clamp(PING_LIMITS.0, PING_LIMITS.1).into()),
                };
                let more = announced.more;
                let fresh = feed.take(announced);
                let mut known = self.known.lock();
                for (node, addrs) in fresh {
                    known.hear(node, &addrs, Found::Tracker, Instant::now());
                }
                drop(known);
                // A list that comes in pages says who is not on it once all are here.
                if !more {
                    self.listed(number, listed, feed);
                    // Here rather than by the loop: what is found counts as under way before this ping counts as done.
                    self.dial_due();
                }
                Ok(pause)
            }
            Ok(Ok(_)) => Err("an answer that makes no sense".into()),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => {
                open.close();
                Err("no answer in time".into())
            }
        }
    }

    async fn reach(&self, tracker: &str) -> Result<Arc<dyn PeerLink>, String> {
        let addrs: Vec<SocketAddr> =
            tokio::net::lookup_host(tracker).await.map_err(|error| error.to_string())?.collect();
        let mut last = "the name has no address".to_owned();
        for addr in addrs {
            let identity = &self.around.identity;
            match dial(PeerAddr::Tcp(addr), identity, &self.tracker_access, None, Arc::new(NoService)).await {
                Ok(link) => return Ok(link),
                Err(error) => last = error.to_string(),
            }
        }
        Err(last)
    }

    /// Says goodbye to those with which there is a session; the others drop this node anyway when its pings stop.
    pub(super) async fn leave_trackers(&self) {
        let links: Vec<Arc<dyn PeerLink>> =
            self.tracker_links.lock().drain(..).flatten().filter_map(|link| link.upgrade()).collect();
        let goodbyes = links.iter().filter(|link| !link.is_closed()).map(|link| async move {
            let leave = Feed::new(self.around.identity.node).announce(Vec::new(), true);
            let _ = link.request(Request::Announce(leave)).await;
            link.close();
        });
        let _ = tokio::time::timeout(GOODBYE, futures_util::future::join_all(goodbyes)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::members::pair::member;

    #[tokio::test(start_paused = true)]
    async fn a_tracker_that_was_gone_for_good_kept_its_word() {
        let dir = tempfile::tempdir().unwrap();
        let own = member(1, dir.path());
        let node = NodeId([9; 32]);
        own.roster.lock().tracked(node, 0, true, Instant::now());
        let mut listed = BTreeSet::from([node]);
        let state = |reachable| TrackerState { address: String::new(), reachable, problem: None, nodes: 0 };
        *own.tracker_states.lock() = vec![state(false), state(false)];
        own.outlive(0, &mut listed, SILENT * 10);
        assert!(own.roster.lock().is_live(&node), "nobody knows better");
        own.tracker_states.lock()[1] = state(true);
        own.outlive(0, &mut listed, SILENT / 2);
        assert!(own.roster.lock().is_live(&node), "it may be back in a moment");
        own.outlive(0, &mut listed, SILENT);
        assert!(!own.roster.lock().is_live(&node) && listed.is_empty());
    }
}

//! Being called by those whom this node can't dial: it asks others who have a session with such a node to tell it, passes that
//! on for others, and calls who asks for it. What is allowed, `members/calls` says.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::known::{Found, is_nobody};
use super::membership::Membership;
use super::neighbours::chosen;
use crate::base::ids::NodeId;
use crate::net::link::{PeerAddr, PeerLink};
use crate::wire::message::{Caller, Notice};

/// Of those with whom a node most likely has sessions, so many are looked at.
const LIKELY: usize = 12;
/// So many of them are called if there are sessions with fewer.
const ENOUGH: usize = 3;
/// More peers than this are not told.
const MOST: usize = 16;
/// For somebody to be reached who passes it on; and for the node to call: a connection must be there within 5 s.
const RELAY: Duration = Duration::from_secs(6);
const ANSWER: Duration = Duration::from_secs(6);
/// Between two looks whether the node is still said to be alive.
const LOOK: Duration = Duration::from_millis(500);
/// Addresses of a caller: more are neither passed on nor looked at.
const MAX_CALLER_ADDRS: usize = 4;

impl Membership {
    /// Has `node`, which others say is alive and which can't be dialled, call this one; unless that is under way.
    pub(super) fn ask_for_call(self: &Arc<Self>, node: NodeId) {
        let missed = self.roster.lock().is_missed(&node);
        if missed && self.calls.lock().begin(node, Instant::now()) {
            tracing::debug!(peer = %node.short(12), "asking others to have it call");
            let membership = Arc::clone(self);
            tokio::spawn(async move { membership.have_called(node).await });
        }
    }

    async fn have_called(self: Arc<Self>, node: NodeId) {
        let (linked, absent) = self.who_may_pass_on(&node);
        linked.iter().for_each(|link| link.notify(Notice::Call(node)));
        let reach = |relay: NodeId| {
            let membership = Arc::clone(&self);
            async move {
                if let Some(link) = membership.called_within(relay, RELAY).await.filter(|link| link.passes_calls()) {
                    link.notify(Notice::Call(node));
                }
            }
        };
        let most = match (linked.is_empty(), absent.is_empty()) {
            (true, true) => Duration::ZERO,
            (_, true) => ANSWER,
            _ => RELAY + ANSWER,
        };
        self.demand(absent.iter().copied());
        let reached = futures_util::future::join_all(absent.into_iter().map(reach));
        let (_, came) = tokio::join!(reached, self.called_within(node, most));
        let now = Instant::now();
        self.calls.lock().end(&node, came.is_some(), now);
        if came.is_none() && self.known.lock().in_vain(&node) {
            self.not_reached(node, now);
        }
    }

    /// Sessions with those who may have one with `node`; and, where these are few, others who most likely have one.
    fn who_may_pass_on(&self, node: &NodeId) -> (Vec<Arc<dyn PeerLink>>, Vec<NodeId>) {
        let own = self.around.identity.node;
        let roster = self.roster.lock();
        // As it sees the network, more or less.
        let live: Vec<NodeId> = roster.live().filter(|live| *live != node).copied().chain([own]).collect();
        let mut likely = chosen(node, &live, LIKELY);
        likely.retain(|live| *live != own);
        let knows = |link: &&Arc<dyn PeerLink>| link.passes_calls();
        let mut linked: Vec<Arc<dyn PeerLink>> =
            likely.iter().filter_map(|live| roster.link(live)).filter(knows).cloned().collect();
        let missing = ENOUGH.saturating_sub(linked.len());
        let absent = likely.iter().filter(|live| !roster.has(live)).take(missing).copied().collect();
        // The others may have one too, and it costs a line to ask.
        let others = roster.links().filter(knows).filter(|link| !likely.contains(&link.node()));
        linked.extend(others.take(MOST.saturating_sub(linked.len())).cloned());
        (linked, absent)
    }

    /// A session with `node`, once it is there. Nobody waits for one who is said to be dead.
    async fn called_within(&self, node: NodeId, most: Duration) -> Option<Arc<dyn PeerLink>> {
        let mut sessions = self.sessions();
        let end = tokio::time::Instant::now() + most;
        loop {
            let missed = self.roster.lock().is_missed(&node);
            if !missed || tokio::time::Instant::now() >= end {
                return self.link(&node);
            }
            let _ = tokio::time::timeout(LOOK, sessions.changed()).await;
        }
    }

    /// A peer wants `node` to be told to call it.
    pub(super) fn pass_call(&self, from: &Arc<dyn PeerLink>, node: NodeId) {
        if !self.calls.lock().may_pass(from.node(), Instant::now()) {
            return;
        }
        if let Some(to) = self.link(&node).filter(|to| to.passes_calls() && to.node() != from.node()) {
            let addrs = from.addrs().iter().map(|PeerAddr::Tcp(addr)| *addr).take(MAX_CALLER_ADDRS).collect();
            to.notify(Notice::Called(Caller { node: from.node(), addrs }));
        }
    }

    /// `relay` says that somebody wants to be called by this node.
    pub(super) fn take_call(&self, relay: &Arc<dyn PeerLink>, caller: &Caller) {
        let (node, now) = (caller.node, Instant::now());
        if node == self.around.identity.node || is_nobody(&node) || self.link(&node).is_some() {
            return;
        }
        if !self.calls.lock().may_take(relay.node(), node, now) {
            return;
        }
        let claimed: Vec<SocketAddr> = caller.addrs.iter().take(MAX_CALLER_ADDRS).copied().collect();
        self.known.lock().hear_again(node, &claimed, Found::Peer, now);
        self.demand([node]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::members::pair::{connect, member, until};
    use crate::members::trackers::NoService;

    /// It can dial, whatever comes of that.
    fn dials(member: &Arc<Membership>) -> Arc<dyn crate::net::link::Service> {
        let service: Arc<dyn crate::net::link::Service> = Arc::new(NoService);
        assert!(member.around.service.set(Arc::downgrade(&service)).is_ok());
        service
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_that_nobody_could_dial_vanished_for_all_without_a_session() {
        let dir = tempfile::tempdir().unwrap();
        let one = |tag: u8| member(tag, &dir.path().join(tag.to_string()));
        let id = |member: &Arc<Membership>| member.around.identity.node;
        let (asker, relay, hidden) = (one(1), one(2), one(3));
        connect(&asker, &relay);
        connect(&hidden, &relay);
        let _service = dials(&asker);
        let now = Instant::now();
        asker.roster.lock().gossiped(id(&hidden), true, now);
        // Where gossip says that the asker is; what the one who passes it on says of that comes after it.
        let (told, nowhere): (SocketAddr, SocketAddr) = (([127, 0, 0, 9], 9).into(), ([127, 0, 0, 1], 9).into());
        hidden.known.lock().hear(id(&asker), &[told], Found::Gossip, now);
        asker.known.lock().hear(id(&hidden), &[nowhere], Found::Gossip, now);
        asker.demand([id(&hidden)]);

        // Nobody listens there, and it is asked for at once.
        until(|| hidden.demand.lock().contains_key(&id(&asker))).await;
        assert_eq!(hidden.known.lock().addr(&id(&asker)), Some(told));
        assert!(asker.roster.lock().is_live(&id(&hidden)), "not given up as long as it may call");
        connect(&hidden, &asker);
        until(|| !asker.calls.lock().is_asking(&id(&hidden))).await;
        assert!(asker.roster.lock().has(&id(&hidden)));
        assert!(asker.calls.lock().closes(&id(&hidden), false) && !hidden.calls.lock().closes(&id(&asker), true));
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_that_does_not_call_is_doubted_and_comes_back_by_itself() {
        let dir = tempfile::tempdir().unwrap();
        let own = member(1, &dir.path().join("1"));
        let other = member(2, &dir.path().join("2"));
        connect(&own, &other);
        let _service = dials(&own);
        let (node, now) = (NodeId([9; 32]), Instant::now());
        own.roster.lock().gossiped(node, true, now);
        own.known.lock().hear(node, &[([127, 0, 0, 1], 9).into()], Found::Gossip, now);
        own.demand([node]);
        until(|| own.roster.lock().is_doubted(&node)).await;
        assert!(!own.roster.lock().is_live(&node) && !own.demand.lock().contains_key(&node));
        assert!(
            own.roster.lock().pass_time(now + Duration::from_secs(120), |_| ()) && own.roster.lock().is_live(&node)
        );
    }
}

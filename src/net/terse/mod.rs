//! Sessions that cost next to nothing, for a tracker: tens of thousands are open, and each says a little once in a while.
//!
//! On the wire they are sessions like all others. Here they have no task, no timer, and no buffer while nothing is under
//! way: one thread ([`rounds`]) looks at all of them, opens what has come, has it answered on the spot by a [`Clerk`], and
//! seals and writes the answer. Accepting and shaking hands is done by tokio, as for others ([`TerseListener`]).

mod door;
mod figures;
mod line;
mod rounds;

use std::net::IpAddr;

pub use door::{Limits, TerseListener};
pub use figures::{Figures, Refusal};

use crate::base::ids::{NetworkId, NodeId};
use crate::wire::message::Request;

/// Who is on the other end of a session.
#[derive(Clone, Copy, Debug)]
pub struct Caller {
    /// Who it is; proved by the handshake.
    pub node: NodeId,
    /// The network that both sides proved to belong to.
    pub network: NetworkId,
    /// Where the session comes from.
    pub remote: IpAddr,
}

/// Answers requests. Called by one thread that serves all sessions: must not block, and must not take long.
pub trait Clerk: Send + Sync + 'static {
    /// Appends the answer, as MessagePack, to `body`. If nothing is appended, the request is refused.
    fn answer(&self, caller: &Caller, request: &Request, body: &mut Vec<u8>);
    /// Called every second or so.
    fn tick(&self) {}
}

//! Secure sessions with peers: the [`link::PeerLink`] that all above this layer see, and what is behind it. docs/WIRE.md.

mod cipher;
pub mod dial;
#[doc(hidden)]
pub mod fake;
pub mod handshake;
pub mod link;
pub mod listen;
mod outbox;
mod serving;
mod session;
pub mod terse;
pub mod throttle;

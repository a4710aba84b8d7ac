//! The node's keys: what they are, how they are locked, and sealing and opening with them.

pub mod block;
pub mod content_lock;
pub mod datagram;
pub mod invite;
pub mod keys;
pub mod network;
pub mod sealer;
pub mod store;

//! Secure sessions to peers, and what everything above sees of them: [`link::PeerLink`].

pub mod link;

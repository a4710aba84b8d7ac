//! What the end-to-end tests share: networks of real daemons on loopback, real mounts, and means to look at what they
//! leave behind. Everything is bounded in time, and undone when it is dropped, also by a panic.

// Each test file uses a part of it.
#![allow(dead_code, unused_imports)]
// clippy.toml lets only test functions unwrap, and all of this serves tests.
#![allow(clippy::unwrap_used)]

pub mod capture;
pub mod contents;
pub mod mounts;
pub mod namespaces;
pub mod network;
pub mod node;
pub mod process;
pub mod reference;
pub mod relay;
pub mod search;
pub mod undo;
pub mod wait;

pub use network::Network;
pub use node::Node;

//! The tracker: whoever pings is active, whoever stops is not, and an answer carries what changed since the last one.

mod changes;
pub mod client;
#[cfg(feature = "etcd")]
pub mod etcd;
pub mod server;
pub mod store;
pub mod table;
pub mod tables;

//! What this node offers: which folders, what is in them, what it hashes to, and reading it to serve.

pub mod hash;
pub mod index;
pub mod list;
pub mod mounts;
pub mod scan;
pub mod sharer;
pub mod source;
mod watch;

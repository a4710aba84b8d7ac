//! Sealed chunks on disk, plaintext in RAM, both bounded. docs/FORMAT.md describes the files to the byte.

mod layout;
mod large;
mod packs;
mod queue;
pub mod store;

pub use store::{Cache, CacheError, CacheLimits, CacheStats};

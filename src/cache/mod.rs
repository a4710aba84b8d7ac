//! Sealed chunks on disk, plaintext in RAM, both bounded. docs/FORMAT.md describes the files to the byte.

mod layout;
mod large;
mod packs;
pub mod place;
mod queue;
pub mod store;

pub use place::CacheError;
pub use store::{Cache, CacheLimits, CacheStats};

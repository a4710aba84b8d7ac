//! Sealed chunks on disk, plaintext in RAM, both bounded. docs/FORMAT.md describes the files to the byte.

pub mod care;
mod layout;
mod large;
mod packs;
mod pins;
pub mod place;
mod queue;
pub mod store;

pub use place::CacheError;
pub use store::{Cache, CacheLimits, CacheStats};

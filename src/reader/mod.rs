//! From a handle's reads to verified chunks: windows that ask ahead, one load per chunk however many wait for it, and
//! what the file system sees of it all ([`contents::Contents`]).

mod ahead;
pub mod contents;
pub mod flight;
pub mod handle;
pub mod window;

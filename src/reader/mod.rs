//! From a handle's reads to verified chunks: windows that ask ahead, and what the file system sees of it all
//! ([`contents::Contents`]).

pub mod contents;

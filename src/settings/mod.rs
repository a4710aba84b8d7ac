//! Where a node keeps its things, and the settings file with every default.

pub mod address;
pub mod file;
pub mod home;
pub mod units;

//! Mounts as the kernel knows them.

use std::path::Path;

use flashget::share::mounts::flashget_mounts;

/// True if flashget is mounted there. Reads the mount table only, which never hangs.
pub fn is_mounted(point: &Path) -> bool {
    let point = match (point.parent().and_then(|parent| parent.canonicalize().ok()), point.file_name()) {
        (Some(parent), Some(name)) => parent.join(name),
        _ => point.into(),
    };
    flashget_mounts().iter().any(|mount| mount.point == point)
}

/// Fails the test, and says why, where nothing can be mounted.
pub fn require_fuse() {
    if let Err(error) = std::fs::OpenOptions::new().read(true).write(true).open("/dev/fuse") {
        panic!("the end-to-end tests mount file systems, and /dev/fuse can't be opened: {error}");
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let there = std::env::split_paths(&path).any(|dir| dir.join("fusermount3").is_file());
    assert!(there, "the end-to-end tests need fusermount3: install the package fuse3");
}

/// Fails the test, and says so, where it does not run as root.
pub fn require_root(why: &str) {
    assert!(rustix::process::geteuid().is_root(), "this test has to run as root: {why}");
}

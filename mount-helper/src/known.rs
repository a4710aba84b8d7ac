//! The options that mount(8), fstab and `flashget mount` have, and which of them mean something here. `flashget`'s own tests
//! read this list too, and see that it knows all that is handed to it.

/// Accepted without effect. Some are for those who read fstab (mount(8) with `-a`, systemd, a desktop); the others ask for
/// what holds anyhow: nothing can be written, no entry is a device or changes the user, times of access are not kept.
pub const IGNORED: &[&str] = &[
    "_netdev",
    "async",
    "atime",
    "auto",
    "comment",
    "defaults",
    "dev",
    "diratime",
    "dirsync",
    "group",
    "helper",
    "iversion",
    "lazytime",
    "loud",
    "mand",
    "noatime",
    "noauto",
    "nodev",
    "nodiratime",
    "nofail",
    "nogroup",
    "noiversion",
    "nolazytime",
    "nomand",
    "noowner",
    "norelatime",
    "nostrictatime",
    "nosuid",
    "nouser",
    "nousers",
    "owner",
    "relatime",
    "rw",
    "silent",
    "strictatime",
    "suid",
    "sync",
    "uhelper",
];

/// Handed to `flashget mount` as they are, without a value ...
pub const FLAGS: &[&str] = &["allow_other", "hard", "noexec", "ro", "soft", "xattr"];

/// ... and with one.
pub const VALUES: &[&str] =
    &["cache_size", "gid", "keyfile", "linger", "peer", "read_ahead_kb", "timeo", "tracker", "uid", "umask", "window"];

/// Mounts that any user may make: nothing in them is executed unless a later `exec` says so. That they have neither devices
/// nor programs that change the user holds anyhow.
pub const BY_USERS: &[&str] = &["user", "users"];

/// These may be given several times, each adding to the others. Of all others the last one counts, so that mount(8)'s `-o`
/// overrides fstab.
pub const REPEATED: &[&str] = &["peer", "tracker"];

/// Values that are paths. mount(8) calls its helpers from wherever it is, so a relative path would mean something else
/// each time.
pub const PATHS: &[&str] = &["home", "keyfile"];

//! A network of its own for one test: a folder, a loopback address, a tracker and an invite.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use tempfile::TempDir;

use super::contents::files_below;
use super::mounts::require_fuse;
use super::node::Node;
use super::process::{FLASHGET, Output, Running, in_plain_locale, run};
use super::undo::{Undo, janitor};
use super::wait::{SOON, until, until_within};

/// See the module. Declare it before its nodes, so that it goes after them.
pub struct Network {
    pub name: String,
    /// All of its daemons listen here, and nobody else does.
    pub ip: Ipv4Addr,
    pub invite: String,
    pub undo: Undo,
    tracker: Option<Running>,
    tracker_addr: SocketAddr,
    dir: TempDir,
    /// Goes last.
    _janitor: ChildStdin,
    began: Instant,
}

/// An address of 127.0.0.0/8 that no other test uses.
fn own_ip() -> Ipv4Addr {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos();
    let hash = blake3::hash(format!("{} {count} {now}", std::process::id()).as_bytes());
    let [a, b, c, ..] = *hash.as_bytes();
    Ipv4Addr::new(127, a % 254 + 1, b, c % 254 + 1)
}

/// A port of `ip` that is free now, and stays so, as only one test uses that address.
pub fn free_port(ip: Ipv4Addr) -> SocketAddr {
    TcpListener::bind((ip, 0)).unwrap().local_addr().unwrap()
}

impl Network {
    /// Called "lab", with its tracker running.
    pub fn new() -> Self {
        Self::named("lab")
    }

    /// With its tracker running.
    pub fn named(name: &str) -> Self {
        let mut network = Self::without_tracker(name);
        network.start_tracker();
        network
    }

    /// With a tracker that does not run yet.
    pub fn without_tracker(name: &str) -> Self {
        let ip = own_ip();
        let tracker = free_port(ip);
        Self::at(name, ip, tracker, tracker)
    }

    /// With a tracker that would listen on `tracker_addr`, and is called `told` in the invite.
    pub fn at(name: &str, ip: Ipv4Addr, tracker_addr: SocketAddr, told: SocketAddr) -> Self {
        require_fuse();
        let dir = tempfile::Builder::new().prefix("flashget-e2e-").tempdir().unwrap();
        // Others than the owner may pass through: to a folder that a test gives them.
        std::fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o711)).unwrap();
        std::fs::create_dir(dir.path().join("logs")).unwrap();
        let began = Instant::now();
        let janitor = janitor(dir.path());
        let (name, invite, undo, tracker) = (name.to_owned(), String::new(), Undo::new(), None);
        let mut network = Self { name, ip, invite, undo, tracker, tracker_addr, dir, _janitor: janitor, began };
        let (name, told) = (network.name.clone(), told.to_string());
        let made = network.in_tracker_home(&["network", "create", &name, "--tracker", &told]).ok();
        network.invite = made.text().trim_end().to_owned();
        network
    }

    /// A path in the test's folder.
    pub fn path(&self, below: impl AsRef<Path>) -> PathBuf {
        self.dir.path().join(below)
    }

    fn tracker_command(&self) -> Command {
        let mut command = in_plain_locale(Command::new(FLASHGET));
        command.arg("--home").arg(self.path("tracker"));
        command.env_remove("FLASHGET_HOME").env_remove("FLASHGET_PASSPHRASE_FILE");
        command
    }

    /// Runs a command in the tracker's home.
    pub fn in_tracker_home(&self, args: &[&str]) -> Output {
        run(self.tracker_command().args(args))
    }

    /// Where the tracker listens.
    pub fn tracker_addr(&self) -> SocketAddr {
        self.tracker_addr
    }

    /// Where the tracker logs.
    pub fn tracker_log(&self) -> PathBuf {
        self.path("logs/tracker.log")
    }

    /// Starts the tracker and waits until it listens.
    pub fn start_tracker(&mut self) {
        let mut command = self.tracker_command();
        command.args(["tracker", "--listen", &self.tracker_addr.to_string()]);
        let mut tracker = Running::start(&mut command, &self.tracker_log());
        until_within(SOON, "the tracker listens", || {
            let log = std::fs::read_to_string(self.tracker_log()).unwrap();
            assert!(tracker.ended().is_none(), "the tracker has ended: {log}");
            log.contains("listens on").then_some(())
        });
        self.tracker = Some(tracker);
    }

    /// Ends the tracker, at once.
    pub fn kill_tracker(&mut self) {
        drop(self.tracker.take().expect("the tracker runs"));
    }

    /// A home that is in no network yet.
    pub fn outsider(&self, name: &str) -> Node {
        Node::new(self, name)
    }

    /// A home that is in this network; its daemon does not run yet.
    pub fn member(&self, name: &str) -> Node {
        let node = self.outsider(name);
        node.join(&self.invite);
        node
    }

    /// A member whose daemon runs.
    pub fn node(&self, name: &str) -> Node {
        let mut node = self.member(name);
        node.start();
        node
    }

    /// A running member that shares everything in `dir`.
    pub fn source(&self, name: &str, dir: &Path) -> Node {
        let node = self.node(name);
        node.share(dir);
        node
    }
}

/// One node that shares what `make` makes, and another that has it mounted, there.
pub fn shared(make: impl FnOnce(&Path)) -> (Network, Node, Node, PathBuf) {
    let network = Network::new();
    let dir = network.path("share");
    make(&dir);
    let source = network.source("source", &dir);
    let reader = network.node("reader");
    let mount = reader.mount();
    let files = files_below(&dir).len() as u64;
    until("everything is seen", || reader.status().networks[0].files == files);
    (network, source, reader, mount)
}

/// Folders that were copied from a mount are read-only, and stand in the way of their own removal.
fn make_removable(dir: &Path) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            let mode = std::os::unix::fs::PermissionsExt::from_mode(0o700);
            let _ = std::fs::set_permissions(entry.path(), mode);
            make_removable(&entry.path());
        }
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        self.undo.finish();
        make_removable(self.dir.path());
        let test = std::thread::current().name().unwrap_or_default().to_owned();
        eprintln!("{test}: {:.1?}", self.began.elapsed());
    }
}

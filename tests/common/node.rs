//! A home, the daemon that may run for it, and the command line that asks it.

use std::ffi::{OsStr, OsString};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use flashget::control::client::Client;
use flashget::control::report::{EntryReport, NamedTransfer, Report, StatusReport};
use flashget::control::{ControlError, Request};
use rustix::process::{Pid, Signal};

use super::mounts::is_mounted;
use super::network::{Network, free_port};
use super::process::{FLASHGET, LIMIT, Output, Running, in_plain_locale, run_with};
use super::undo::Undo;
use super::wait::{SOON, until, until_within};

/// How long an orderly end may take.
const END: Duration = Duration::from_secs(15);
/// Lines of a daemon's log that are shown when a test fails.
const LOG_TAIL: usize = 12;

/// See the module.
pub struct Node {
    pub name: String,
    pub home: PathBuf,
    /// Where it mounts, unless the test says otherwise.
    pub mount_point: PathBuf,
    /// Where peers reach it; the same after a restart.
    pub addr: SocketAddr,
    /// What a daemon that the test started logs.
    pub log: PathBuf,
    pub program: PathBuf,
    /// Runs as this user and group; as the test's own, if not said.
    user: Option<u32>,
    /// Its daemon runs in this network namespace; in the test's own, if not said.
    namespace: Option<String>,
    daemon: Option<Running>,
    undo: Undo,
}

impl Node {
    /// A home without a vault. Its cache is small enough for any disk that tests run on.
    pub fn new(network: &Network, name: &str) -> Self {
        let home = network.path(name);
        std::fs::create_dir(&home).unwrap();
        let mount_point = network.path("mnt").join(name);
        std::fs::create_dir_all(&mount_point).unwrap();
        let node = Self {
            name: name.into(),
            addr: free_port(network.ip),
            log: network.path("logs").join(format!("{name}.log")),
            program: FLASHGET.into(),
            user: None,
            namespace: None,
            daemon: None,
            undo: network.undo.clone(),
            home,
            mount_point,
        };
        node.settings("");
        node
    }

    /// Writes the settings file, with these lines after the usual ones. Read at the next start.
    pub fn settings(&self, more: &str) {
        let (listen, name) = (self.addr, &self.name);
        let usual = format!("cache.disk = \"2G\"\nnode.listen = \"{listen}\"\nnode.name = \"{name}\"\n");
        // Tests run beside each other, and none of them on anybody's network.
        let usual = usual + "node.lan = false\n";
        std::fs::write(self.home.join("config.toml"), usual + more).unwrap();
    }

    /// From now on its daemon runs in this network namespace, and listens there.
    pub fn lives_in(&mut self, namespace: &str, addr: SocketAddr) {
        (self.namespace, self.addr) = (Some(namespace.into()), addr);
        self.settings("");
    }

    /// From now on this node is another user's, and runs this copy of the program.
    pub fn belongs_to(&mut self, user: u32, program: &Path) {
        for dir in [&self.home, &self.mount_point] {
            std::os::unix::fs::chown(dir, Some(user), Some(user)).unwrap();
        }
        (self.user, self.program) = (Some(user), program.into());
    }

    /// The program with this home, its arguments still to come.
    pub fn command(&self) -> Command {
        let mut command = match self.user {
            None if self.namespace.is_some() => {
                // Executes the program in its own place, so that it is the process that was started.
                let mut command = Command::new("nsenter");
                let namespace = self.namespace.as_deref().unwrap_or_default();
                command.arg(format!("--net=/run/netns/{namespace}")).arg(&self.program);
                command
            }
            None => Command::new(&self.program),
            Some(user) => {
                let mut command = Command::new("setpriv");
                command.args([&format!("--reuid={user}"), &format!("--regid={user}"), "--clear-groups"]);
                command.arg("--inh-caps=-all");
                command.arg(&self.program);
                command
            }
        };
        command = in_plain_locale(command);
        command.arg("--home").arg(&self.home);
        command.env_remove("FLASHGET_HOME").env_remove("FLASHGET_PASSPHRASE_FILE");
        command
    }

    /// Runs a command of this home.
    pub fn run<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Output {
        self.run_with(args, b"")
    }

    /// The same, with `input` as its stdin.
    pub fn run_with<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>, input: &[u8]) -> Output {
        run_with(self.command().args(args), input, LIMIT)
    }

    /// Runs a command that must succeed; returns what it printed.
    pub fn ok<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> String {
        self.run(args).ok().text()
    }

    /// Runs a command with `--json`; returns what it printed.
    pub fn json<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> serde_json::Value {
        let args: Vec<OsString> =
            args.into_iter().map(|arg| arg.as_ref().to_owned()).chain(["--json".into()]).collect();
        let text = self.ok(args);
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("not JSON ({error}): {text}"))
    }

    /// Joins a network by its invite, as one should: by stdin.
    pub fn join(&self, invite: &str) {
        self.run_with(["network", "join", "-"], invite.as_bytes()).ok();
    }

    fn socket(&self) -> PathBuf {
        self.home.join("state/daemon.sock")
    }

    /// Asks the daemon without the command line; quick enough to ask often.
    pub fn ask(&self, request: &Request) -> Result<Report, ControlError> {
        let mut client = Client::connect(&self.socket())?.expect("a daemon runs");
        client.call(request, &mut |_| {})
    }

    /// The daemon's process, whoever started it; `None` if none runs.
    pub fn pid(&self) -> Option<Pid> {
        let stream = std::os::unix::net::UnixStream::connect(self.socket()).ok()?;
        Some(rustix::net::sockopt::socket_peercred(&stream).unwrap().pid)
    }

    /// `flashget status`.
    pub fn status(&self) -> StatusReport {
        match self.ask(&Request::Status).unwrap() {
            Report::Status(status) => *status,
            other => panic!("{other:?}"),
        }
    }

    /// `flashget transfers`.
    pub fn transfers(&self) -> Vec<NamedTransfer> {
        match self.ask(&Request::Transfers).unwrap() {
            Report::Transfers(transfers) => transfers,
            other => panic!("{other:?}"),
        }
    }

    /// `flashget stat`; `None` if there is nothing.
    pub fn stat(&self, path: &str) -> Option<EntryReport> {
        self.stat_in(None, path)
    }

    /// The same, where the home has several networks.
    pub fn stat_in(&self, network: Option<&str>, path: &str) -> Option<EntryReport> {
        match self.ask(&Request::Stat { path: Path::new(path).into(), network: network.map(str::to_owned) }) {
            Ok(Report::Entry(entry)) => Some(*entry),
            Ok(other) => panic!("{other:?}"),
            Err(error) => {
                assert_eq!(error.code, flashget::control::ErrorCode::NotFound, "{error}");
                None
            }
        }
    }

    /// `flashget ls -R`: paths and nothing else.
    pub fn listing(&self) -> Vec<String> {
        let all = Request::List { path: None, network: None, recursive: true };
        match self.ask(&all).unwrap() {
            Report::Entries(entries) => entries.iter().map(|entry| entry.path.shown()).collect(),
            other => panic!("{other:?}"),
        }
    }

    /// Waits until the view has `path`, with so many sources.
    pub fn sees(&self, path: &str, sources: usize) {
        until(&format!("{} sees {path} with {sources} sources", self.name), || {
            self.stat(path).is_some_and(|entry| entry.sources == sources)
        });
    }

    /// Waits until the view has nothing at `path`.
    pub fn misses(&self, path: &str) {
        until(&format!("{} sees {path} no more", self.name), || self.stat(path).is_none());
    }

    /// Waits until so many peers are connected.
    pub fn has_peers(&self, count: usize) {
        until(&format!("{} has {count} peers", self.name), || {
            self.status().networks.iter().map(|network| network.peers).sum::<usize>() == count
        });
    }

    /// Starts the daemon and waits until it answers.
    pub fn start(&mut self) {
        self.start_with(&[]);
    }

    /// The same, with more arguments for it.
    pub fn start_with(&mut self, args: &[&str]) {
        self.start_by(self.command(), args);
    }

    fn start_by(&mut self, mut command: Command, args: &[&str]) {
        assert!(self.daemon.is_none(), "{} runs already", self.name);
        let mut daemon = Running::start(command.arg("daemon").args(args), &self.log);
        let (socket, log) = (self.socket(), &self.log);
        until_within(SOON, "the daemon answers", || {
            let read = || std::fs::read_to_string(log).unwrap_or_default();
            assert!(daemon.ended().is_none(), "the daemon has ended: {}", read());
            let mut client = Client::connect(&socket).ok().flatten()?;
            // The socket of one that was killed may still be there.
            client.call(&Request::Status, &mut |_| {}).ok().map(drop)
        });
        self.daemon = Some(daemon);
    }

    /// Starts the daemon of a vault that a passphrase unlocks, which is in `file`.
    pub fn start_with_passphrase(&mut self, file: &str) {
        let mut command = self.command();
        command.args(["--passphrase-file", file]);
        self.start_by(command, &[]);
    }

    /// Ends the daemon as systemd would, and waits for that.
    pub fn stop(&mut self) {
        let mut daemon = self.daemon.take().expect("the test started a daemon");
        daemon.signal(Signal::TERM);
        let status = daemon.wait(END);
        assert!(status.success(), "{}: the daemon ended with {status}", self.name);
    }

    /// Kills the daemon.
    pub fn kill(&mut self) {
        match self.daemon.take() {
            Some(daemon) => drop(daemon),
            None => {
                let pid = self.pid().expect("a daemon runs");
                rustix::process::kill_process(pid, Signal::KILL).unwrap();
                until("the daemon is dead", || self.pid().is_none());
            }
        }
    }

    /// Sends the daemon a signal.
    pub fn signal(&self, signal: Signal) {
        let pid = self.pid().expect("a daemon runs");
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// Shares a folder, and waits until all of it is published.
    pub fn share(&self, dir: &Path) {
        self.ok([OsStr::new("share"), "add".as_ref(), dir.as_os_str()]);
    }

    /// Mounts the only network at the usual place.
    pub fn mount(&self) -> PathBuf {
        self.mount_with(&[]);
        self.mount_point.clone()
    }

    /// The same, with more arguments before the folder; returns what was printed.
    pub fn mount_with(&self, args: &[&str]) -> String {
        self.undo.mount(&self.mount_point);
        let mounted = self.run(
            [OsStr::new("mount")].into_iter().chain(args.iter().map(OsStr::new)).chain([self.mount_point.as_os_str()]),
        );
        // Also of a mount that failed.
        if let (None, Some(pid)) = (&self.daemon, self.pid()) {
            self.undo.daemon(pid, &self.program);
        }
        let printed = mounted.ok().text();
        assert!(is_mounted(&self.mount_point), "{} is not in the mount table", self.mount_point.display());
        printed
    }

    /// Takes the mount at the usual place away.
    pub fn umount(&self) {
        self.umount_at(&self.mount_point);
    }

    /// Takes a mount away that nobody uses. For a moment it may seem to be in use all the same: a process that another
    /// test is starting holds all of this one's files until it executes its program.
    pub fn umount_at(&self, point: &Path) {
        until_within(SOON, "nobody uses the mount", || {
            let said = self.run([OsStr::new("umount"), point.as_os_str()]);
            (said.code() != 4).then(|| said.ok())
        });
        assert!(!is_mounted(point));
    }

    /// A mount that has forgotten all that the kernel and the daemon had in RAM: the daemon runs anew.
    pub fn remount(&mut self) -> PathBuf {
        self.umount();
        self.stop();
        self.start();
        self.mount()
    }

    /// Waits for the end of a daemon that `mount` started, after its last mount went.
    pub fn ends(&self) {
        until(&format!("the daemon of {} has ended", self.name), || self.pid().is_none());
    }

    /// A daemon that `mount` started and that the test should end in any case.
    pub fn watch_daemon(&self) {
        if let Some(pid) = self.pid() {
            self.undo.daemon(pid, &self.program);
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for log in [self.log.clone(), self.home.join("state/daemon.log")] {
                if let Ok(text) = std::fs::read_to_string(&log) {
                    let lines: Vec<&str> = text.lines().collect();
                    let tail = lines[lines.len().saturating_sub(LOG_TAIL)..].join("\n");
                    eprintln!("--- {}\n{tail}", log.display());
                }
            }
        }
        Undo::detach(&self.mount_point);
    }
}

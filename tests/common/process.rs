//! Processes with a time limit, and those that run until they are told to end.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// The program that is tested.
pub const FLASHGET: &str = env!("CARGO_BIN_EXE_flashget");

/// A command that takes longer than this hangs.
pub const LIMIT: Duration = Duration::from_secs(90);
/// What a process left behind may hold its output for, before that counts as a fault.
const OUTPUT_LIMIT: Duration = Duration::from_secs(5);

/// What a command came to.
#[derive(Clone, Debug)]
pub struct Output {
    /// The command, for messages.
    pub command: String,
    pub status: ExitStatus,
    pub stdout: Vec<u8>,
    pub stderr: String,
    pub took: Duration,
}

impl Output {
    /// The exit code; a signal fails the test.
    pub fn code(&self) -> i32 {
        self.status.code().unwrap_or_else(|| panic!("{}: ended by signal {:?}", self.command, self.status.signal()))
    }

    /// What it printed, as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Fails the test unless the command succeeded.
    pub fn ok(self) -> Self {
        assert!(self.status.success(), "{}: {}\n{}{}", self.command, self.status, self.text(), self.stderr);
        self
    }

    /// Fails the test unless the command failed as an error should: with this exit code, one line on stderr that holds
    /// `says`, and nothing on stdout. Returns the line.
    pub fn refused(self, code: i32, says: &str) -> String {
        let said = &self.stderr;
        assert_eq!(self.code(), code, "{}: {said}", self.command);
        assert_eq!(self.text(), "", "{}: an error belongs to stderr", self.command);
        assert_eq!(said.trim_end().lines().count(), 1, "{}: one line, but it said:\n{said}", self.command);
        assert!(said.starts_with("flashget: "), "{}: {said}", self.command);
        assert!(said.contains(says), "{}: '{says}' is not in: {said}", self.command);
        self.stderr
    }
}

fn describe(command: &Command) -> String {
    let words: Vec<_> = command.get_args().map(|arg| arg.to_string_lossy().into_owned()).collect();
    let program = Path::new(command.get_program());
    format!("{} {}", program.file_name().unwrap_or_default().to_string_lossy(), words.join(" "))
}

fn collect(mut from: impl Read + Send + 'static) -> Receiver<Vec<u8>> {
    let (tell, heard) = channel();
    std::thread::spawn(move || {
        let mut all = Vec::new();
        let _ = from.read_to_end(&mut all);
        let _ = tell.send(all);
    });
    heard
}

/// Runs a command to its end, with `input` as its stdin.
pub fn run_with(command: &mut Command, input: &[u8], limit: Duration) -> Output {
    let began = Instant::now();
    let description = describe(command);
    die_with_us(command);
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("can't run {description}: {error}"));
    let stdout = collect(child.stdout.take().unwrap());
    let stderr = collect(child.stderr.take().unwrap());
    // One that does not read its input is no fault.
    let _ = child.stdin.take().unwrap().write_all(input);
    let status = wait(&mut child, limit).unwrap_or_else(|| {
        let _ = child.kill();
        let _ = child.wait();
        panic!("{description}: not done after {limit:?}")
    });
    let took = began.elapsed();
    let read = |from: Receiver<Vec<u8>>| {
        from.recv_timeout(OUTPUT_LIMIT)
            .unwrap_or_else(|_| panic!("{description}: somebody whom it left behind holds its output"))
    };
    let (stdout, stderr) = (read(stdout), String::from_utf8_lossy(&read(stderr)).into_owned());
    Output { command: description, status, stdout, stderr, took }
}

/// Runs a command to its end.
pub fn run(command: &mut Command) -> Output {
    run_with(command, b"", LIMIT)
}

/// Runs a tool that must be there, and must succeed.
pub fn tool<A: AsRef<std::ffi::OsStr>>(name: &str, args: impl IntoIterator<Item = A>) -> Output {
    run(in_plain_locale(Command::new(find_tool(name))).args(args)).ok()
}

/// Where a tool is; a tool that is missing fails the test and says so.
pub fn find_tool(name: &str) -> std::path::PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    // Ordinary users often lack the sbin folders.
    let dirs = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]);
    let found = dirs.map(|dir| dir.join(name)).find(|file| file.is_file());
    found
        .unwrap_or_else(|| panic!("this test needs the program {name}: scripts/setup test installs what the tests use"))
}

/// Messages and orders of sorting that tests can rely on.
pub fn in_plain_locale(mut command: Command) -> Command {
    command.env("LC_ALL", "C").env("TZ", "UTC");
    command
}

/// `None` if it has not ended in time.
fn wait(child: &mut Child, limit: Duration) -> Option<ExitStatus> {
    let began = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return Some(status);
        }
        if began.elapsed() > limit {
            return None;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The kernel ends the child when this thread ends: no daemon outlives a test run that is itself killed. So daemons
/// are started on the test's own thread.
fn die_with_us(command: &mut Command) {
    let ask = || {
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
        Ok(())
    };
    // SAFETY: between fork and exec, `ask` makes one system call and touches no memory that other threads could hold.
    unsafe { command.pre_exec(ask) };
}

/// A process that runs until it is told to end, and is killed when dropped.
pub struct Running {
    child: Child,
    description: String,
}

impl Running {
    /// Starts it, with stdout and stderr going to `log` (emptied first).
    pub fn start(command: &mut Command, log: &Path) -> Self {
        let description = describe(command);
        let out = File::create(log).unwrap();
        die_with_us(command);
        command.stdin(Stdio::null()).stdout(out.try_clone().unwrap()).stderr(out);
        let child = command.spawn().unwrap_or_else(|error| panic!("can't run {description}: {error}"));
        Self { child, description }
    }

    /// Its number.
    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).unwrap();
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// Waits for its end.
    pub fn wait(&mut self, limit: Duration) -> ExitStatus {
        wait(&mut self.child, limit).unwrap_or_else(|| panic!("{}: did not end within {limit:?}", self.description))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

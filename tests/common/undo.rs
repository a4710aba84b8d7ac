//! What has to be undone whatever happens: mounts are detached and daemons killed, at the latest when a test has taken
//! far too long, so that a file system that hangs can't hang the tests. And if the tests themselves are killed, a janitor
//! does it.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use rustix::mount::UnmountFlags;
use rustix::process::{Pid, Signal, kill_process};

use super::mounts::is_mounted;

/// No test takes this long, unless something hangs.
const WATCHDOG: Duration = Duration::from_secs(300);

/// Waits until the test has ended, however that was, and looks whether anything is left: `$1` is the test's folder.
const JANITOR: &str = r#"
    cat > /dev/null
    [ -d "$1" ] || exit 0
    for process in /proc/[0-9]*; do
        if tr '\0' ' ' < "$process/cmdline" | grep -qF -- "--home $1/"; then kill -9 "${process#/proc/}"; fi
    done
    grep -F " $1/" /proc/self/mountinfo | cut -d ' ' -f 5 | while read -r point; do
        umount -l "$point" || fusermount3 -uz "$point"
    done
    chmod -R u+rwX "$1"
    rm -rf "$1"
"#;

#[derive(Default)]
struct Things {
    mounts: Vec<PathBuf>,
    daemons: Vec<(Pid, PathBuf)>,
    over: bool,
}

/// See the module. Clones share what they know.
#[derive(Clone, Default)]
pub struct Undo {
    shared: Arc<(Mutex<Things>, Condvar)>,
}

/// Starts the janitor; it goes to work when what this returns is dropped.
pub fn janitor(dir: &Path) -> ChildStdin {
    let mut command = Command::new("sh");
    command.args(["-c", JANITOR, "sh"]).arg(dir);
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    // A Ctrl-C is not for it.
    let leave = || {
        rustix::process::setsid()?;
        Ok(())
    };
    // SAFETY: between fork and exec, `leave` makes one system call and touches no memory that other threads could hold.
    unsafe { command.pre_exec(leave) };
    command.spawn().unwrap().stdin.take().unwrap()
}

impl Undo {
    /// With a watchdog.
    pub fn new() -> Self {
        let undo = Self::default();
        let watched = undo.clone();
        std::thread::spawn(move || {
            let (things, changed) = &*watched.shared;
            let things = things.lock().unwrap();
            let (things, timeout) = changed.wait_timeout_while(things, WATCHDOG, |things| !things.over).unwrap();
            drop(things);
            if timeout.timed_out() {
                eprintln!("the test hangs: its daemons are killed and its mounts are taken away");
                watched.everything();
            }
        });
        undo
    }

    /// There is a mount, or there may be one soon.
    pub fn mount(&self, point: &Path) {
        self.shared.0.lock().unwrap().mounts.push(point.into());
    }

    /// There is a daemon, which runs this program.
    pub fn daemon(&self, pid: Pid, program: &Path) {
        self.shared.0.lock().unwrap().daemons.push((pid, program.into()));
    }

    /// Takes a mount away, in use or not.
    pub fn detach(point: &Path) {
        while is_mounted(point) {
            let gone = if rustix::process::geteuid().is_root() {
                let flags = UnmountFlags::DETACH | UnmountFlags::FORCE | UnmountFlags::NOFOLLOW;
                rustix::mount::unmount(point, flags).is_ok()
            } else {
                let mut command = Command::new("fusermount3");
                command.args(["-u", "-z", "--"]).arg(point).status().is_ok_and(|status| status.success())
            };
            if !gone {
                eprintln!("{} can't be unmounted", point.display());
                return;
            }
        }
    }

    /// Kills a daemon that nobody waits for, unless its number is another process's by now.
    fn kill(pid: Pid, program: &Path) {
        let runs = std::fs::read_link(format!("/proc/{}/exe", pid.as_raw_nonzero())).unwrap_or_default();
        if runs == program {
            let _ = kill_process(pid, Signal::KILL);
        }
    }

    fn everything(&self) {
        let (mounts, daemons) = {
            let mut things = self.shared.0.lock().unwrap();
            (std::mem::take(&mut things.mounts), std::mem::take(&mut things.daemons))
        };
        mounts.iter().for_each(|point| Self::detach(point));
        daemons.iter().for_each(|(pid, program)| Self::kill(*pid, program));
    }

    /// Undoes everything, and calls the watchdog off.
    pub fn finish(&self) {
        self.everything();
        self.shared.0.lock().unwrap().over = true;
        self.shared.1.notify_all();
    }
}

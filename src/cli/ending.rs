//! What a process that runs until it is told to end does about the system: signals, the end that comes in time, and the
//! number of files that it may open.

use std::io;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// All of an orderly end may take this long: unmounting, goodbyes, and what the cache has still to write. What is not on
/// disk by then can be had again.
const LIMIT: Duration = Duration::from_secs(10);

/// SIGTERM and SIGINT, from when this is made.
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// Listens; needs tokio's context.
    pub fn new() -> io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// Returns when the process is told to end (once more).
    pub async fn told(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// The orderly end begins: if it has not come in time, or the process is told to end once more, it ends at once. In a task
/// of its own, for whoever ends may be stuck on a disk.
pub fn end_in_time(mut signals: Signals) {
    tokio::spawn(async move {
        tokio::select! {
            () = tokio::time::sleep(LIMIT) => tracing::warn!(limit = ?LIMIT, "the end takes too long: it is cut short"),
            () = signals.told() => tracing::warn!("told to end once more: the end is cut short"),
        }
        std::process::exit(1);
    });
}

/// Lets this process open as many files as it may: sessions, shares and the cache need more than the 1024 that programs
/// get by default for the sake of select(2), which nothing here uses.
pub fn raise_descriptors() {
    let limit = getrlimit(Resource::Nofile);
    if limit.current == limit.maximum {
        return;
    }
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }) {
        tracing::debug!(%error, "the number of open files stays as it is");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_daemon_may_open_as_many_files_as_the_system_lets_it() {
        let before = getrlimit(Resource::Nofile);
        // A little less than there is: other tests of this process must not notice.
        let less = before.maximum.map(|most| most - 1).or(Some(1 << 20));
        setrlimit(Resource::Nofile, Rlimit { current: less, ..before }).unwrap();
        raise_descriptors();
        assert_eq!(getrlimit(Resource::Nofile), Rlimit { current: before.maximum, ..before });
    }
}

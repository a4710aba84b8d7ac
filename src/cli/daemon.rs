//! `daemon`: a process that runs until it is told to end.

use std::io::Write;
use std::time::Duration;

use tokio::runtime::Runtime;

use super::args::DaemonArgs;
use super::ending::{Signals, end_in_time, raise_descriptors};
use super::unlock::unlock;
use super::{Context, log, systemd};
use crate::base::memory::give_back_large;
use crate::control::{ControlError, ErrorCode};
use crate::node::{Node, NodeConfig};
use crate::settings::file::Settings;
use crate::settings::units::{Size, Span, parse_duration, parse_size};

/// What a daemon that `mount` started prints when it can be asked.
pub const READY: &str = "ready";
/// How long those who asked something may still wait for their answers when the daemon ends.
const ANSWERS: Duration = Duration::from_secs(2);
/// How long the process waits for blocking work when all else has ended.
pub(super) const STUCK: Duration = Duration::from_secs(2);
/// Threads that wait for the disk or hash; more would only queue in the kernel.
const BLOCKING_THREADS: usize = 64;

pub(super) fn runtime() -> Result<Runtime, ControlError> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .max_blocking_threads(BLOCKING_THREADS)
        .thread_name("fg-async")
        .build()
        .map_err(ControlError::failed)
}

fn with_flags(mut settings: Settings, args: &DaemonArgs) -> Result<Settings, ControlError> {
    let node = &mut settings.node;
    node.listen = args.listen.unwrap_or(node.listen);
    node.advertise = args.advertise.or(node.advertise);
    node.name = args.name.clone().or(node.name.take());
    node.peers.extend(&args.peers);
    node.trackers.extend(args.trackers.iter().cloned());
    if let Some(linger) = &args.linger {
        settings.mount.linger = Span(parse_duration(linger).map_err(ControlError::invalid)?);
    }
    if let Some(size) = &args.cache_size {
        settings.cache.disk = Some(Size(parse_size(size).map_err(ControlError::invalid)?));
    }
    Ok(settings)
}

/// `flashget daemon`
pub fn run_daemon(context: &Context, args: &DaemonArgs) -> Result<(), ControlError> {
    if args.for_mount {
        detach();
    }
    let ran = serve(context, args);
    if args.for_mount
        && let Err(error) = &ran
    {
        // Whoever started it reads this; it may have gone.
        let _ = serde_json::to_writer(std::io::stdout(), error);
        let _ = writeln!(std::io::stdout());
    }
    ran
}

fn serve(context: &Context, args: &DaemonArgs) -> Result<(), ControlError> {
    give_back_large();
    let settings = with_flags(context.settings()?, args)?;
    log::start(&args.log, &settings.log)?;
    raise_descriptors();
    let silent = log::is_json(&args.log, &settings.log);
    let unlock = unlock(context)?;
    if !context.home.vault_file().exists() {
        let what = "this node is in no network: run flashget network create NAME, or flashget network join INVITE";
        return Err(ControlError::new(ErrorCode::NotFound, what));
    }
    let runtime = runtime()?;
    let ended = runtime.block_on(async {
        let config = NodeConfig { home: context.home.clone(), settings, unlock, ends_when_idle: args.for_mount };
        let node = Node::start(config).await?;
        let socket = node.listen_for_control().map_err(|error| {
            let path = context.home.socket().map(|path| format!(" {}", path.display())).unwrap_or_default();
            ControlError::failed(format!("the control socket{path}: {error}"))
        })?;
        // Before anybody is told that it is ready, and may tell it to end.
        let mut signals = Signals::new().map_err(ControlError::failed)?;
        if args.for_mount {
            say_ready()?;
        } else {
            say_up(&format!("node {} listens on {}", node.short_id(), node.listen_addr()), silent);
        }
        let mut should_stop = node.should_stop();
        tokio::select! {
            () = signals.told() => {}
            _ = should_stop.wait_for(|stop| *stop) => {}
        }
        if !args.for_mount {
            systemd::stopping();
        }
        end_in_time(signals);
        socket.finish(ANSWERS).await;
        node.shut_down().await;
        Ok(())
    });
    // Blocking work that is stuck on a disk must not keep the process.
    runtime.shutdown_timeout(STUCK);
    ended
}

/// A session of its own, and nothing inherited but the three standard descriptors.
fn detach() {
    // It is not a process group's leader, as it was just started: this can't fail.
    let _ = rustix::process::setsid();
    // SAFETY: nothing has been opened yet by this process, so no descriptor from 3 on is in use by it.
    unsafe { libc::close_range(3, libc::c_uint::MAX, 0) };
}

/// Tells whoever waits, and lets go of the pipe.
fn say_ready() -> Result<(), ControlError> {
    let mut stdout = std::io::stdout();
    // If nobody waits any more, the mount was given up: this daemon will find itself idle.
    let _ = writeln!(stdout, "{READY}").and_then(|()| stdout.flush());
    let null = std::fs::OpenOptions::new().read(true).write(true).open("/dev/null").map_err(ControlError::failed)?;
    rustix::stdio::dup2_stdout(&null).map_err(ControlError::failed)?;
    rustix::stdio::dup2_stdin(&null).map_err(ControlError::failed)
}

/// Tells systemd, and whoever reads stderr.
pub(super) fn say_up(up: &str, silent: bool) {
    systemd::ready(up);
    if !silent {
        eprintln!("flashget: {up}");
    }
}

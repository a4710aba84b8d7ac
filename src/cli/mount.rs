//! `mount` and `umount`: finds or starts the daemon, and asks it.

use std::fs::OpenOptions;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::args::MountArgs;
use super::options::{self, DaemonOptions};
use super::unlock::unlock;
use super::{Context, absolute, ask, print};
use crate::base::escape::path_for_terminal;
use crate::control::client::Client;
use crate::control::{ControlError, ErrorCode, Report, Request};
use crate::fuse::mount::unmount;
use crate::node::{no_folder, resolved, still_mounted, wrong};
use crate::share::mounts::flashget_mounts;
use crate::vault::store::Unlock;

/// How long to look for a daemon that somebody else is starting at this moment.
const OTHERS_START: Duration = Duration::from_secs(10);
/// A log of this size is set aside when a daemon starts.
const LOG_SIZE: u64 = 10 << 20;

/// `flashget mount [NETWORK] DIR`
pub fn mount(context: &Context, args: &MountArgs) -> Result<(), ControlError> {
    let (network, dir) = match args.what.as_slice() {
        [dir] => (None, dir),
        [network, dir] => {
            let name = network.to_str().ok_or_else(|| ControlError::invalid("a network's name is text"))?;
            (Some(name.to_owned()), dir)
        }
        _ => return Err(ControlError::invalid("give [NETWORK] DIR")),
    };
    let options = options::parse(&args.options)?;
    // Before a daemon is started for it. What else may be wrong with a folder, the daemon sees.
    if std::fs::symlink_metadata(dir).is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound) {
        return Err(no_folder(&path_for_terminal(dir)));
    }
    let request = Request::Mount { network, dir: absolute(dir)?, options: options.request.clone() };
    let running = match ask::connect(context)? {
        Some(_) if !context.args.set.is_empty() => {
            let what =
                "a daemon is running already, and --set concerns all of it: run flashget stop first, or leave it out";
            return Err(ControlError::new(ErrorCode::Conflict, what));
        }
        Some(client) => ask_running(client, &request, &options.daemon)?,
        None => None,
    };
    let report = match running {
        Some(report) => report,
        None => {
            let (client, started) = start_daemon(context, &options.daemon)?;
            ask_mount(client, started, &request, &options.daemon)?
        }
    };
    print(args.output, &report)
}

/// Asks a daemon that was there already. `None` if it was about to end.
fn ask_running(client: Client, request: &Request, options: &DaemonOptions) -> Result<Option<Report>, ControlError> {
    match ask_mount(client, false, request, options) {
        Err(error) if error.code == ErrorCode::NoDaemon => Ok(None),
        answer => answer.map(Some),
    }
}

fn ask_mount(
    mut client: Client,
    started: bool,
    request: &Request,
    options: &DaemonOptions,
) -> Result<Report, ControlError> {
    if !started {
        refuse_changes(&mut client, options)?;
    }
    client.call(request, &mut |_| {})
}

/// What concerns the whole daemon can't be changed by a mount; the values that it has may be named.
fn refuse_changes(client: &mut Client, options: &DaemonOptions) -> Result<(), ControlError> {
    if *options == DaemonOptions::default() {
        return Ok(());
    }
    let Report::Status(status) = client.call(&Request::Status, &mut |_| {})? else {
        return Err(ControlError::failed("an answer of another version of flashget"));
    };
    match options.differs(&status.settings) {
        None => Ok(()),
        Some(name) => {
            let what = format!(
                "a daemon is running already with another {name}, which concerns all of it: run flashget stop first, or \
                 leave it out"
            );
            Err(ControlError::new(ErrorCode::Conflict, what))
        }
    }
}

/// Starts a daemon that ends once nothing needs it, and waits until it can be asked. False if somebody else has started
/// one at this moment.
fn start_daemon(context: &Context, options: &DaemonOptions) -> Result<(Client, bool), ControlError> {
    let mut context = Context { home: context.home.clone(), args: context.args.clone() };
    if let Some(keyfile) = &options.keyfile {
        context.args.keyfile = Some(keyfile.clone());
    }
    if !context.home.vault_file().exists() {
        let what = "this node is in no network: run flashget network create NAME, or flashget network join INVITE";
        return Err(ControlError::new(ErrorCode::NotFound, what));
    }
    let unlock = unlock(&context)?;
    let mut command = Command::new(std::env::current_exe().map_err(ControlError::failed)?);
    if let Some(home) = &context.args.home {
        command.arg("--home").arg(std::path::absolute(home).map_err(ControlError::failed)?);
    }
    if let Some(config) = &context.args.config {
        command.arg("--config").arg(std::path::absolute(config).map_err(ControlError::failed)?);
    }
    for set in &context.args.set {
        command.arg("--set").arg(set);
    }
    command.env_remove("FLASHGET_PASSPHRASE_FILE");
    match &unlock {
        Unlock::Passphrase(_) => command.arg("--passphrase-file").arg("-"),
        Unlock::KeyFile(file) => command.arg("--keyfile").arg(std::path::absolute(file).map_err(ControlError::failed)?),
    };
    command.arg("daemon").arg("--for-mount");
    if let Some(size) = options.cache_size {
        command.arg("--cache-size").arg(size.to_string());
    }
    if let Some(linger) = options.linger {
        command.arg("--linger").arg(format!("{}ms", linger.as_millis()));
    }
    for peer in &options.peers {
        command.arg("--peer").arg(peer.to_string());
    }
    for tracker in &options.trackers {
        command.arg("--tracker").arg(tracker);
    }
    context.home.create().map_err(wrong)?;
    let log = open_log(&context.home.log_file())
        .map_err(|error| ControlError::failed(format!("{}: {error}", context.home.log_file().display())))?;
    command.current_dir("/").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(log);
    let mut child =
        command.spawn().map_err(|error| ControlError::failed(format!("can't start the daemon: {error}")))?;
    if let Some(mut stdin) = child.stdin.take()
        && let Unlock::Passphrase(passphrase) = &unlock
    {
        // If it has died, its answer says why.
        let _ = stdin.write_all(passphrase.as_bytes()).and_then(|()| stdin.write_all(b"\n"));
    }
    let mut line = String::new();
    if let Some(stdout) = child.stdout.take() {
        BufReader::new(stdout).read_line(&mut line).map_err(ControlError::failed)?;
    }
    if line.trim() == super::daemon::READY {
        let gone = || ControlError::failed("the daemon ended right after it had started: see its log");
        return Ok((connect_soon(&context, Duration::ZERO)?.ok_or_else(gone)?, true));
    }
    match serde_json::from_str::<ControlError>(&line) {
        // Somebody else was quicker.
        Ok(error) if error.code == ErrorCode::Conflict => {
            Ok((connect_soon(&context, OTHERS_START)?.ok_or(error)?, false))
        }
        Ok(error) => Err(error),
        Err(_) => {
            let log = context.home.log_file();
            Err(ControlError::failed(format!("the daemon did not start: see {}", log.display())))
        }
    }
}

fn connect_soon(context: &Context, patience: Duration) -> Result<Option<Client>, ControlError> {
    let began = Instant::now();
    loop {
        let client = ask::connect(context)?;
        if client.is_some() || began.elapsed() >= patience {
            return Ok(client);
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn open_log(file: &Path) -> std::io::Result<std::fs::File> {
    if std::fs::metadata(file).is_ok_and(|meta| meta.len() > LOG_SIZE) {
        std::fs::rename(file, file.with_extension("log.old"))?;
    }
    OpenOptions::new().create(true).append(true).mode(0o600).open(file)
}

/// `flashget umount DIR`
pub fn umount(context: &Context, dir: &Path, force: bool) -> Result<(), ControlError> {
    let request = Request::Umount { dir: absolute(dir)?, force };
    match ask::daemon(context, &request) {
        Err(error) if matches!(error.code, ErrorCode::NotFound | ErrorCode::NoDaemon) => {}
        answered => return answered.map(drop),
    }
    // No daemon of this home has it: a dead one's, or another home's.
    let real = resolved(dir);
    if !flashget_mounts().iter().any(|mount| mount.point == real) {
        let what = format!("flashget is not mounted on {}", dir.display());
        return Err(ControlError::new(ErrorCode::NotFound, what));
    }
    unmount(&real, force).map_err(|error| still_mounted(&path_for_terminal(dir), &error))
}

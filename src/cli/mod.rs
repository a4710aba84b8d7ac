//! The command line: arguments, exit codes, tables. It asks a daemon over the local socket and edits the home itself
//! where no daemon runs.

mod args;
mod ask;
mod bar;
mod caching;
mod daemon;
mod ending;
mod exit;
mod get;
mod log;
mod man;
mod mount;
mod options;
mod show;
mod systemd;
mod table;
mod tracker;
mod unlock;

use std::io::Read;
use std::process::ExitCode;

use clap::Parser;

use crate::control::report::Report;
use crate::control::secret::UnlockBy;
use crate::control::text::PathText;
use crate::control::{ControlError, Request};
use crate::node::wrong;
use crate::settings::file::Settings;
use crate::settings::home::Home;
use crate::settings::units::parse_size;

use args::{Args, Command, ConfigCommand, NetworkCommand, Output, PassphraseCommand, ShareCommand};

/// Parses the arguments and does what they say.
pub fn run() -> ExitCode {
    let args = Args::parse();
    match carry_out(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("flashget: {error}");
            exit::code_of(error.code)
        }
    }
}

/// What every command starts from.
struct Context {
    home: Home,
    args: Args,
}

impl Context {
    fn settings(&self) -> Result<Settings, ControlError> {
        let file = self.args.config.as_deref().unwrap_or_else(|| self.home.config_file());
        Settings::load_with(file, &self.args.set).map_err(ControlError::invalid)
    }
}

fn carry_out(args: &Args) -> Result<(), ControlError> {
    let home = Home::resolve(args.home.as_deref()).map_err(wrong)?;
    // Also where no settings are read: who mistypes one should not think that it was heard.
    Settings::check_given(&args.set).map_err(ControlError::invalid)?;
    let context = Context { home, args: args.clone() };
    match &args.command {
        Command::Network(command) => network(&context, command),
        Command::Share(command) => share(&context, command),
        Command::Daemon(daemon_args) => daemon::run_daemon(&context, daemon_args),
        Command::Tracker(tracker_args) => tracker::tracker(&context, tracker_args),
        Command::Mount(mount_args) => mount::mount(&context, mount_args),
        Command::Umount { dir, force } => mount::umount(&context, dir, *force),
        Command::Ls { path, recursive, network, output } => {
            let path = path.as_ref().map(|path| view_path(path));
            let request = Request::List { path, network: network.clone(), recursive: *recursive };
            print(*output, &ask::daemon(&context, &request)?)
        }
        Command::Stat { path, network, output } => {
            let request = Request::Stat { path: view_path(path), network: network.clone() };
            print(*output, &ask::daemon(&context, &request)?)
        }
        Command::Peers { output } => print(*output, &ask::daemon(&context, &Request::Peers)?),
        Command::Transfers { watch: true, output } => watch_transfers(&context, *output),
        Command::Transfers { output, .. } => print(*output, &ask::daemon(&context, &Request::Transfers)?),
        Command::Get { what, network, output } => get::get(&context, what, network.as_deref(), *output),
        Command::Limits { upload, download, slots, output } => {
            let rate =
                |text: &Option<String>| text.as_deref().map(parse_size).transpose().map_err(ControlError::invalid);
            let request = Request::Limits { upload: rate(upload)?, download: rate(download)?, upload_slots: *slots };
            print(*output, &ask::daemon(&context, &request)?)
        }
        Command::Status { output } => print(*output, &ask::daemon(&context, &Request::Status)?),
        Command::Cache(command) => caching::cache(&context, command),
        Command::Lock => ask::daemon(&context, &Request::Lock).map(drop),
        Command::Unlock => {
            let by = UnlockBy::from(&unlock::unlock(&context)?);
            ask::daemon(&context, &Request::Unlock { by }).map(drop)
        }
        Command::Passphrase(PassphraseCommand::Change { new_passphrase_file, new_keyfile }) => {
            let old = UnlockBy::from(&unlock::unlock(&context)?);
            let new = unlock::new_unlock(new_passphrase_file.as_deref(), new_keyfile.as_deref())?;
            let request = Request::Rekey { old, new: UnlockBy::from(&new) };
            ask::daemon_or_home(&context, &request).map(drop)
        }
        Command::Stop => ask::daemon(&context, &Request::Stop).map(drop),
        Command::Completions { shell } => {
            let mut command = <Args as clap::CommandFactory>::command();
            clap_complete::generate(*shell, &mut command, "flashget", &mut std::io::stdout());
            Ok(())
        }
        Command::Man { dir } => man::write(dir),
        Command::Config(ConfigCommand::Check) => {
            context.settings()?;
            println!("the settings are in order");
            Ok(())
        }
    }
}

/// A path as the user wrote it: of the view, or one that lies below a mount, which the daemon is then given in full.
fn view_path(path: &std::path::Path) -> PathText {
    let mounts = crate::share::mounts::flashget_mounts();
    match std::path::absolute(path) {
        Ok(full) if mounts.iter().any(|mount| full.starts_with(&mount.point)) => full.as_path().into(),
        _ => path.into(),
    }
}

/// How often `--watch` looks.
const WATCH: std::time::Duration = std::time::Duration::from_secs(1);

/// Prints transfers again and again, until nobody reads them any more: on a terminal over what was there, in a pipe one
/// after the other, as JSON a line each.
fn watch_transfers(context: &Context, output: Output) -> Result<(), ControlError> {
    use std::io::IsTerminal;
    let over = std::io::stdout().is_terminal() && !output.json;
    loop {
        let report = ask::daemon(context, &Request::Transfers)?;
        if over {
            // Clears the screen and goes to its upper left corner (ECMA-48).
            print!("\x1b[2J\x1b[H");
        }
        let text = if output.json { show::json_line(&report)? } else { show::text(&report) };
        if !show::write(&text)? {
            return Ok(());
        }
        std::thread::sleep(WATCH);
    }
}

fn print(output: Output, report: &Report) -> Result<(), ControlError> {
    let text = if output.json { show::json(report)? } else { show::text(report) };
    // If nobody reads it, whoever did has read enough.
    show::write(&text).map(drop)
}

fn network(context: &Context, command: &NetworkCommand) -> Result<(), ControlError> {
    let (request, output) = match command {
        NetworkCommand::Create { name, trackers } => {
            (Request::NetworkCreate { name: name.clone(), trackers: trackers.clone() }, Output::default())
        }
        NetworkCommand::Join { invite, output } => {
            let invite = match invite.as_str() {
                "-" if from_stdin(context) => {
                    let what =
                        "the invite and the passphrase can't both come from stdin: put the passphrase into a file";
                    return Err(ControlError::invalid(what));
                }
                "-" => read_line()?,
                invite => invite.to_owned(),
            };
            (Request::NetworkJoin { invite }, *output)
        }
        NetworkCommand::List { output } => (Request::NetworkList, *output),
        NetworkCommand::Invite { name, for_tracker } => {
            (Request::NetworkInvite { name: name.clone(), for_tracker: *for_tracker }, Output::default())
        }
        NetworkCommand::Leave { name } => (Request::NetworkLeave { name: name.clone() }, Output::default()),
    };
    print(output, &ask::daemon_or_home(context, &request)?)
}

/// True if the passphrase is read from stdin.
fn from_stdin(context: &Context) -> bool {
    context.args.passphrase_file.as_deref() == Some(std::path::Path::new("-"))
}

/// The longest invite, with room to spare.
const MAX_INVITE: u64 = 64 * 1024;

fn read_line() -> Result<String, ControlError> {
    let mut text = String::new();
    std::io::stdin().take(MAX_INVITE).read_to_string(&mut text).map_err(ControlError::failed)?;
    Ok(text.trim().to_owned())
}

fn absolute(dir: &std::path::Path) -> Result<PathText, ControlError> {
    std::path::absolute(dir).map(|dir| dir.as_path().into()).map_err(ControlError::failed)
}

fn share(context: &Context, command: &ShareCommand) -> Result<(), ControlError> {
    match command {
        ShareCommand::Add { dir, at, network, hidden, no_wait, output } => {
            let request = Request::ShareAdd {
                dir: absolute(dir)?,
                at: at.as_ref().map(|at| at.as_path().into()),
                network: network.clone(),
                hidden: *hidden,
                wait: !no_wait,
            };
            let report = ask::daemon_or_home_with(context, &request, &mut show::share_progress())?;
            print(*output, &report)
        }
        ShareCommand::List { output } => print(*output, &ask::daemon_or_home(context, &Request::ShareList)?),
        ShareCommand::Remove { dir } => {
            ask::daemon_or_home(context, &Request::ShareRemove { dir: absolute(dir)? }).map(drop)
        }
    }
}

//! `mount.flashget`: what mount(8) calls for `mount -t flashget NETWORK DIR` and for fstab lines. It maps the options, executes
//! `flashget mount`, and ends with mount(8)'s exit codes and, if something is wrong, one line that says what.

mod args;
mod command;
mod known;
mod options;

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use args::{Args, Request};
use command::{Ended, Outcome, Places, quote};

const HELP: &str = "\
Mounts the folder of all that a flashget network's live peers share. Called by mount(8).

Usage: mount.flashget NETWORK DIR [-sfnvhV] [-o OPTIONS] [-t TYPE]
       mount -t flashget NETWORK DIR [-o OPTIONS]

  -o OPTIONS  comma-separated:
                ro                  as it always is
                allow_other         other users may read too
                noexec | exec       nothing in it may be executed | may be
                uid=, gid=, umask=  who the entries belong to, and which permissions they lack
                soft | hard         reads of what has no source end with an error | wait
                timeo=SECONDS       after which a soft read ends
                window=SIZE         how far flashget reads ahead
                read_ahead_kb=KIB   how far the kernel reads ahead
                xattr               extended attributes tell what is known of each file
                linger=TIME         how long an entry stays after its last source went
                cache_size=SIZE     of the sealed cache on disk
                keyfile=FILE        what unlocks the vault
                tracker=HOST:PORT   one more tracker; may be repeated
                peer=ADDR:PORT      a peer to try even when no tracker names it; may be repeated
                home=DIR            the home of the daemon that mounts
              What mount(8), systemd and desktops add (rw, defaults, _netdev, nofail, noauto, x-*, comment=, nosuid,
              noatime ...) is accepted; user and users imply noexec.
  -s          ignore unknown options
  -f          check everything, mount nothing
  -n          accepted, without effect
  -v          print the command that is executed, and what it says
  -t TYPE     flashget or fuse.flashget
  -h          this text
  -V          version

Executes flashget from $FLASHGET_BIN (unless running setuid), from its own folder, /usr/bin, /usr/local/bin or $PATH.
Exit codes are mount(8)'s: 0 mounted, 1 incorrect invocation, 2 system error, 8 interrupted, 32 mount failed.

An fstab line:  lab  /mnt/lab  flashget  _netdev,nofail,x-systemd.automount,allow_other  0  0
";

/// SIGINT came.
static INTERRUPTED: AtomicBool = AtomicBool::new(false);

extern "C" fn note_interrupt(_signal: libc::c_int) {
    INTERRUPTED.store(true, Ordering::Relaxed);
}

fn main() -> ExitCode {
    let outcome = match args::parse(std::env::args_os().skip(1)) {
        Ok(Request::Help) => say(HELP),
        Ok(Request::Version) => say(concat!("mount.flashget ", env!("CARGO_PKG_VERSION"), "\n")),
        Ok(Request::Mount(args)) => mount(&args),
        Err(error) => fail(Outcome::Incorrect, error),
    };
    ExitCode::from(outcome as u8)
}

fn mount(args: &Args) -> Outcome {
    let mapped = match options::map(&args.options, args.sloppy) {
        Ok(mapped) => mapped,
        Err(error) => return fail(Outcome::Incorrect, error),
    };
    let program = match command::locate(&places(), is_program) {
        Ok(program) => program,
        Err(missing) => return fail(Outcome::System, format_args!("{}: no such program", quote(missing.as_os_str()))),
    };
    let arguments = command::arguments(&args.spec, &args.dir, &mapped);
    if args.verbose {
        say(&format!("mount.flashget: {}\n", command::show(&program, &arguments)));
    }
    if args.fake {
        return if Path::new(&args.dir).is_dir() {
            Outcome::Success
        } else {
            fail(Outcome::Failed, format_args!("{}: no such folder to mount on", quote(&args.dir)))
        };
    }
    watch_for_interrupts();
    let mut flashget = Command::new(&program);
    flashget.args(arguments);
    if !args.verbose {
        // As mount(8) says nothing when all is well. Errors go to standard error.
        flashget.stdout(Stdio::null());
    }
    match flashget.status() {
        Ok(status) => {
            let ended = match status.code() {
                Some(code) => Ended::Code(code),
                None => Ended::Signal(status.signal().unwrap_or_default()),
            };
            let outcome = command::outcome(ended, INTERRUPTED.load(Ordering::Relaxed));
            match ended {
                // It could not say anything itself.
                Ended::Signal(signal) if outcome == Outcome::Failed => {
                    fail(outcome, format_args!("{} was ended by signal {signal}", quote(program.as_os_str())))
                }
                _ => outcome,
            }
        }
        Err(error) => fail(Outcome::System, format_args!("{}: {error}", quote(program.as_os_str()))),
    }
}

fn places() -> Places {
    // SAFETY: getauxval only reads what the kernel gave to this process.
    let secure = unsafe { libc::getauxval(libc::AT_SECURE) } != 0;
    Places {
        secure,
        explicit: std::env::var_os("FLASHGET_BIN"),
        own: std::env::current_exe().ok(),
        path: std::env::var_os("PATH"),
    }
}

fn is_program(path: &Path) -> bool {
    path.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

/// Ctrl-C reaches this process and `flashget` alike. This one stays to tell mount(8) how that ended. A handler, and not
/// SIG_IGN, as the latter would pass to `flashget`.
fn watch_for_interrupts() {
    let handler = note_interrupt as extern "C" fn(libc::c_int) as libc::sighandler_t;
    // SAFETY: the handler only stores to an atomic.
    unsafe { libc::signal(libc::SIGINT, handler) };
}

/// Standard output may be closed; that is no reason not to mount.
fn say(text: &str) -> Outcome {
    let _ = std::io::stdout().write_all(text.as_bytes());
    Outcome::Success
}

fn fail(outcome: Outcome, why: impl std::fmt::Display) -> Outcome {
    let _ = writeln!(std::io::stderr(), "mount.flashget: {why}");
    outcome
}

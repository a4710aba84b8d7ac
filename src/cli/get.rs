//! `get`: asks the daemon to fetch, shows how far it is, or copies a file to stdout.

use std::io::Write;
use std::path::{Path, PathBuf};

use indicatif::ProgressBar;

use super::args::Output;
use super::{Context, ask, bar, print, view_path};
use crate::base::escape::for_terminal;
use crate::control::report::{Event, GetProgress};
use crate::control::{ControlError, ErrorCode, Report, Request};
use crate::settings::units::show_size;

/// `flashget get PATH... [DEST]`
pub fn get(context: &Context, words: &[PathBuf], network: Option<&str>, output: Output) -> Result<(), ControlError> {
    let (paths, dest) = match words {
        [path] => (std::slice::from_ref(path), Path::new(".")),
        [paths @ .., dest] => (paths, dest.as_path()),
        [] => return Err(ControlError::invalid("give a path")),
    };
    let network = network.map(str::to_owned);
    if dest == Path::new("-") {
        let [path] = paths else { return Err(ControlError::invalid("one file at a time goes to stdout")) };
        return to_stdout(context, path, network);
    }
    let dest = std::path::absolute(dest).map_err(ControlError::failed)?;
    let paths = paths.iter().map(|path| view_path(path)).collect();
    let request = Request::Get { paths, dest: dest.as_path().into(), network };
    print(output, &ask_with_bar(context, &request)?)
}

/// Asks for what fetches files, and shows how far it is.
pub fn ask_with_bar(context: &Context, request: &Request) -> Result<Report, ControlError> {
    let shown = Shown::new();
    let answer = ask::daemon_with(context, request, &mut |event| {
        if let Event::Get(progress) = event {
            shown.update(&progress);
        }
    });
    shown.bar.finish_and_clear();
    answer
}

fn to_stdout(context: &Context, path: &Path, network: Option<String>) -> Result<(), ControlError> {
    let no_daemon = || ControlError::new(ErrorCode::NoDaemon, super::ask::NO_DAEMON);
    let mut client = super::ask::connect(context)?.ok_or_else(no_daemon)?;
    let request = Request::Read { path: view_path(path), network };
    client.read_to(&request, &mut std::io::stdout().lock() as &mut dyn Write)
}

/// A bar with the rate, the time left and each peer's part; silent where stderr is no terminal.
struct Shown {
    bar: ProgressBar,
}

impl Shown {
    fn new() -> Self {
        let template = "{prefix} {wide_bar} {bytes} of {total_bytes}, {binary_bytes_per_sec}, {eta} left\n{msg}";
        Self { bar: bar::new(template) }
    }

    fn update(&self, progress: &GetProgress) {
        self.bar.set_length(progress.bytes);
        self.bar.set_position(progress.bytes_done);
        let name = progress.path.shown();
        let name = name.rsplit('/').next().unwrap_or_default();
        let count =
            if progress.files > 1 { format!("{}/{} ", progress.files_done, progress.files) } else { String::new() };
        self.bar.set_prefix(format!("{count}{name}"));
        let lines: Vec<String> = progress
            .sources
            .iter()
            .map(|source| {
                let name = for_terminal(source.name.as_bytes());
                let (bytes, rate) = (show_size(source.bytes), show_size(source.rate));
                format!("  {name:<20} {bytes:>10}  {rate:>10}/s  {} chunks to bring", source.section)
            })
            .collect();
        self.bar.set_message(lines.join("\n"));
    }
}

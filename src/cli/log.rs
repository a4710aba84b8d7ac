//! Where the log of a daemon or tracker goes. Names of files and contents appear at debug level and below only.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use super::args::LogArgs;
use crate::control::ControlError;
use crate::settings::file::LogSettings;

fn format<'a>(args: &'a LogArgs, settings: &'a LogSettings) -> &'a str {
    args.log_format.as_deref().unwrap_or(&settings.format)
}

/// True if stderr is for programs: nothing but the log may be there.
pub fn is_json(args: &LogArgs, settings: &LogSettings) -> bool {
    format(args, settings) == "json"
}

/// Starts logging as the flags say, or else the settings.
pub fn start(args: &LogArgs, settings: &LogSettings) -> Result<(), ControlError> {
    let level = args.log_level.as_deref().unwrap_or(&settings.level);
    // At its level of information fuser names the folders that are mounted on, and its warnings tell of calls that are
    // left to the kernel on purpose: only who asks for that gets it.
    let filter = EnvFilter::try_new(format!("fuser=error,{level}"))
        .map_err(|error| ControlError::invalid(format!("'{level}' is not a log level or filter: {error}")))?;
    let registry = tracing_subscriber::registry().with(filter);
    let text = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let begun = match format(args, settings) {
        "text" => {
            let colours = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
            registry.with(text.with_ansi(colours)).try_init()
        }
        "json" => registry.with(text.json()).try_init(),
        "journal" => {
            let journal = tracing_journald::layer()
                .map_err(|error| ControlError::failed(format!("the journal can't be reached: {error}")))?;
            registry.with(journal).try_init()
        }
        other => {
            return Err(ControlError::invalid(format!("'{other}' is not a log format: use text, json or journal")));
        }
    };
    begun.map_err(ControlError::failed)
}

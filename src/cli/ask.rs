//! Asking: the daemon where one runs, the home itself where none does.

use super::Context;
use super::unlock::unlock;
use crate::control::client::Client;
use crate::control::report::{Event, Report};
use crate::control::{ControlError, ErrorCode, Request};
use crate::node::offline::Offline;
use crate::node::wrong;

/// What to say where a daemon is needed.
pub const NO_DAEMON: &str = "no daemon is running for this home: flashget mount starts one, or run flashget daemon";

/// Connects to the home's daemon. `None` if none is running.
pub fn connect(context: &Context) -> Result<Option<Client>, ControlError> {
    Client::connect(&context.home.socket().map_err(wrong)?)
}

/// Asks the daemon, which must be running.
pub fn daemon(context: &Context, request: &Request) -> Result<Report, ControlError> {
    daemon_with(context, request, &mut |_| {})
}

/// The same, with somebody who hears of progress.
pub fn daemon_with(
    context: &Context,
    request: &Request,
    on_event: &mut dyn FnMut(Event),
) -> Result<Report, ControlError> {
    match connect(context)? {
        Some(mut client) => client.call(request, on_event),
        None => Err(ControlError::new(ErrorCode::NoDaemon, NO_DAEMON)),
    }
}

/// Asks the daemon, or edits the home where none runs.
pub fn daemon_or_home(context: &Context, request: &Request) -> Result<Report, ControlError> {
    daemon_or_home_with(context, request, &mut |_| {})
}

/// The same, with somebody who hears of progress.
pub fn daemon_or_home_with(
    context: &Context,
    request: &Request,
    on_event: &mut dyn FnMut(Event),
) -> Result<Report, ControlError> {
    if let Some(mut client) = connect(context)? {
        return client.call(request, on_event);
    }
    match Offline::open(&context.home, &unlock(context)?, request) {
        Ok(mut home) => home.call(request),
        // A daemon may have started at this very moment.
        Err(error) if error.code == ErrorCode::Conflict => match connect(context)? {
            Some(mut client) => client.call(request, on_event),
            None => Err(error),
        },
        Err(error) => Err(error),
    }
}

//! `tracker`: a process that runs until it is told to end, and what it says of itself.

use std::time::Duration;

use super::args::{TrackerArgs, TrackerCommand};
use super::daemon::{STUCK, runtime, say_up};
use super::ending::{Signals, end_in_time, raise_descriptors};
use super::show::plural;
use super::table::Table;
use super::unlock::unlock;
use super::{Context, log, print, systemd};
use crate::base::escape::for_terminal;
use crate::control::client::Client;
use crate::control::tracking::TrackerReport;
use crate::control::{ControlError, ErrorCode, Request};
use crate::node::tracker::{Tracker, TrackerConfig};
use crate::node::wrong;
use crate::settings::units::show_size;
use crate::tracker::store::{EtcdAt, StoreAt};

/// `flashget tracker`
pub fn tracker(context: &Context, args: &TrackerArgs) -> Result<(), ControlError> {
    match args.command {
        Some(TrackerCommand::Status { output }) => {
            let client = Client::connect(&context.home.tracker_socket().map_err(wrong)?)?;
            let none = || ControlError::new(ErrorCode::NoDaemon, "no tracker is running for this home");
            let report = client.ok_or_else(none)?.call(&Request::Tracker, &mut |_| {})?;
            print(output, &report)
        }
        None => run(context, args),
    }
}

/// The store with what its own options say.
fn store_at(args: &TrackerArgs) -> Result<StoreAt, ControlError> {
    match args.store.clone() {
        StoreAt::Memory if args.etcd_ca.is_some() || args.etcd_user.is_some() => {
            Err(ControlError::invalid("options for etcd need --store etcd://HOST,HOST,HOST"))
        }
        StoreAt::Memory => Ok(StoreAt::Memory),
        StoreAt::Etcd(at) => Ok(StoreAt::Etcd(EtcdAt {
            ca: args.etcd_ca.clone(),
            own: args.etcd_cert.clone().zip(args.etcd_key.clone()),
            user: args.etcd_user.clone().zip(args.etcd_password_file.clone()),
            ..at
        })),
    }
}

fn run(context: &Context, args: &TrackerArgs) -> Result<(), ControlError> {
    let store = store_at(args)?;
    let settings = context.settings()?;
    log::start(&args.log, &settings.log)?;
    raise_descriptors();
    let unlock = unlock(context)?;
    let runtime = runtime()?;
    let ended = runtime.block_on(async {
        let config = TrackerConfig {
            home: context.home.clone(),
            unlock,
            listen: args.listen,
            max_sessions: args.max_sessions,
            max_per_address: args.max_per_address,
            store,
            metrics: args.metrics,
        };
        let tracker = Box::pin(Tracker::start(config)).await?;
        let mut signals = Signals::new().map_err(ControlError::failed)?;
        let networks = plural(tracker.networks() as u64, "network");
        let mut up = format!("tracker for {networks} listens on {}", tracker.listen_addr());
        if let Some(addr) = tracker.metrics_addr() {
            up += &format!(", figures at http://{addr}/metrics");
        }
        say_up(&up, log::is_json(&args.log, &settings.log));
        tokio::select! {
            () = signals.told() => {}
            () = tracker.follow_vault() => {}
        }
        systemd::stopping();
        end_in_time(signals);
        Ok(())
    });
    // The vault may lie on a disk that is stuck.
    runtime.shutdown_timeout(STUCK);
    ended
}

/// For people.
pub fn show(report: &TrackerReport) -> String {
    let mut rows = Table::new(&["TRACKER", ""]);
    let mut row = |name: &str, value: String| rows.row(vec![name.into(), value]);
    let counts = &report.counts;
    row("listens on", report.listen.to_string());
    row("up for", format!("{:?}", Duration::from_secs(report.uptime_ms / 1000)));
    let store = match &report.store.problem {
        Some(problem) => format!("{}: {}", report.store.kind, for_terminal(problem.as_bytes())),
        None => report.store.kind.clone(),
    };
    row("store", store);
    row(
        "sessions",
        format!("{} of {}, {} from one address", report.sessions, report.max_sessions, report.max_per_address),
    );
    row("handshakes", format!("{} in progress, {} done", report.handshakes, report.opened));
    row("pings", counts.pings.to_string());
    let gone = format!("{} said goodbye, {} fell silent", counts.leaves, counts.drops);
    row("nodes", format!("{} came, {gone}", counts.joins));
    let refused: Vec<String> =
        report.refused.iter().filter(|(_, count)| **count > 0).map(|(why, count)| format!("{why} {count}")).collect();
    row("refused", if refused.is_empty() { "none".into() } else { refused.join(", ") });
    let per_ping =
        report.cpu_per_ping_micros.map(|micros| format!(", {micros:.1} \u{b5}s for a ping")).unwrap_or_default();
    row("CPU", format!("{:.1} s{per_ping}", report.cpu_ms as f64 / 1000.0));
    row("memory", show_size(report.memory));
    let mut networks = Table::new(&["NETWORK", ">NODES"]);
    for network in &report.networks {
        networks.row(vec![network.id.short(16), network.nodes.to_string()]);
    }
    format!("{}\n{}", rows.render(), networks.render())
}

//! Reports for people and for programs. Everything that peers name is escaped before a terminal sees it.

use std::io::Write;
use std::time::Duration;

use serde::Serialize;
use serde_json::{Value, json};

use super::bar;
use super::table::Table;
use crate::base::clock::Timestamp;
use crate::base::escape::for_terminal;
use crate::base::ranges::Ranges;
use crate::catalog::tree::FileState;
use crate::control::ControlError;
use crate::control::report::{
    EntryKind, EntryReport, Event, GotReport, LimitsReport, MountReport, NamedTransfer, NetworkReport, PeerReport,
    Report, ShareReport, StatusReport,
};
use crate::settings::units::show_size;
use crate::swarm::quarantine::QuarantineReport;
use crate::swarm::report::{Limit, TransferState};

/// Prints to stdout. False if nobody reads it any more.
pub fn write(text: &str) -> Result<bool, ControlError> {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(ControlError::failed(error)),
    }
}

/// As JSON for programs, indented: lists in an object under their name, single things as they are.
pub fn json(report: &Report) -> Result<String, ControlError> {
    pretty(&to_json(report)?)
}

/// Any value as indented JSON.
pub fn pretty(value: &impl Serialize) -> Result<String, ControlError> {
    let json = serde_json::to_string_pretty(value).map_err(ControlError::failed)?;
    Ok(json + "\n")
}

/// The same in one line, where more follow.
pub fn json_line(report: &Report) -> Result<String, ControlError> {
    let json = serde_json::to_string(&to_json(report)?).map_err(ControlError::failed)?;
    Ok(json + "\n")
}

fn to_json(report: &Report) -> Result<Value, ControlError> {
    let value = serde_json::to_value(report).map_err(ControlError::failed)?;
    Ok(match report {
        Report::Done => json!({}),
        Report::Networks(_)
        | Report::Shares(_)
        | Report::Entries(_)
        | Report::Peers(_)
        | Report::Transfers(_)
        | Report::Cached(_) => value,
        Report::Status(_)
        | Report::Got(_)
        | Report::Limits(_)
        | Report::Kept(_)
        | Report::Checked(_)
        | Report::Invite(_)
        | Report::Network(_)
        | Report::Share(_)
        | Report::Mount(_)
        | Report::Tracker(_)
        | Report::Entry(_) => match value {
            Value::Object(fields) => fields.into_values().next().unwrap_or(Value::Null),
            other => other,
        },
    })
}

/// For people.
pub fn text(report: &Report) -> String {
    match report {
        Report::Done => String::new(),
        Report::Invite(line) => format!("{line}\n"),
        Report::Network(network) => format!("joined network '{}'\n", network.name),
        Report::Networks(networks) if networks.is_empty() => "this node is in no network\n".into(),
        Report::Networks(all) => networks(all),
        Report::Share(share) => share_line(share),
        Report::Shares(all) if all.is_empty() => "nothing is shared: run flashget share add DIR\n".into(),
        Report::Shares(all) => shares(all),
        Report::Mount(mount) => mounted(mount),
        Report::Entries(all) => entries(all),
        Report::Entry(one) => entry(one),
        Report::Peers(all) if all.is_empty() => "no peer is connected\n".into(),
        Report::Peers(all) => peers(all),
        Report::Transfers(all) if all.is_empty() => "nothing has been fetched\n".into(),
        Report::Transfers(all) => transfers(all),
        Report::Status(status) => self::status(status),
        Report::Got(got) => self::got(*got),
        Report::Limits(limits) => self::limits(*limits),
        Report::Cached(all) if all.is_empty() => "the cache is empty\n".into(),
        Report::Cached(all) => super::caching::cached(all),
        Report::Kept(kept) => super::caching::kept(*kept),
        Report::Checked(checked) => super::caching::checked(*checked),
        Report::Tracker(report) => super::tracker::show(report),
    }
}

pub(super) fn plural(count: u64, noun: &str) -> String {
    if count == 1 { format!("1 {noun}") } else { format!("{count} {noun}s") }
}

/// Local time, to the minute.
pub(super) fn show_time(time: Timestamp) -> String {
    match jiff::Timestamp::from_second(time.secs) {
        Ok(time) => time.to_zoned(jiff::tz::TimeZone::system()).strftime("%Y-%m-%d %H:%M").to_string(),
        Err(_) => "-".into(),
    }
}

fn networks(all: &[NetworkReport]) -> String {
    let mut table = Table::new(&["NETWORK", ">PEERS", ">FILES", ">SIZE", "TRACKERS"]);
    for network in all {
        let tracker = |tracker: &crate::members::membership::TrackerState| {
            let state = match (&tracker.problem, tracker.reachable) {
                (_, true) => " (up)",
                (Some(_), _) => " (away)",
                (None, _) => "",
            };
            format!("{}{state}", tracker.address)
        };
        let trackers: Vec<String> = network.trackers.iter().map(tracker).collect();
        let trackers = if trackers.is_empty() { "-".into() } else { trackers.join(" ") };
        let name = if network.member { network.name.clone() } else { format!("{} (tracker only)", network.name) };
        table.row(vec![name, network.peers.to_string(), network.files.to_string(), show_size(network.bytes), trackers]);
    }
    table.render()
}

/// How a network's peers were found, and where its catalogs stand.
fn members_line(network: &NetworkReport) -> String {
    let found: Vec<String> = network.found.iter().map(|(how, count)| format!("{count} by {how}")).collect();
    let found = if found.is_empty() { String::new() } else { format!(" (found: {})", found.join(", ")) };
    let gossip = match network.gossip {
        Some(members) => format!("; gossip knows {members}"),
        None => "; no gossip".into(),
    };
    let own = network.own_version.map_or_else(String::new, |(epoch, version)| format!(", own at {epoch}.{version}"));
    let sum = if network.catalog_sum.is_empty() { String::new() } else { format!(", sum {}", network.catalog_sum) };
    let lag = match (network.lag.median_ms, network.lag.most_ms) {
        (Some(median), Some(most)) => format!(", changes take {median} ms (median), {most} at most"),
        _ => ", changes take - (none came yet)".into(),
    };
    let clock = network.clock_apart.map_or_else(String::new, |apart| {
        let apart = crate::members::clocks::in_words(apart);
        format!(
            "{}: a member's clock is {apart}, too far for gossip: set both (timedatectl set-ntp true)\n",
            network.name
        )
    });
    format!(
        "{}: {} live, {}{found}{gossip}; {}{own}{sum}{lag}\n{clock}",
        network.name,
        plural(network.peers as u64, "peer"),
        plural(network.connected as u64, "session"),
        plural(network.nodes as u64, "catalog"),
    )
}

fn share_line(share: &ShareReport) -> String {
    let to = format!("{} with network '{}'", share.dir.shown(), share.network);
    match share.state.as_str() {
        "stopped" => format!("sharing {to} from when the daemon next runs\n"),
        "failed" => format!("sharing {to}, but it can't be read: {}\n", share.reason.as_deref().unwrap_or("?")),
        "scanning" | "hashing" => format!("sharing {to}; it is being hashed (see flashget status)\n"),
        _ => {
            let skipped = match share.skipped {
                0 => String::new(),
                skipped => {
                    format!("; {} can't be read and left out", plural(skipped, "entry").replace("entrys", "entries"))
                }
            };
            format!("sharing {to}: {}, {}{skipped}\n", plural(share.files, "file"), show_size(share.bytes))
        }
    }
}

fn shares(all: &[ShareReport]) -> String {
    let mut table = Table::new(&["FOLDER", "NETWORK", "AT", ">FILES", ">SIZE", "STATE"]);
    for share in all {
        let state = match (share.state.as_str(), share.to_hash, &share.reason) {
            ("hashing", all, _) if all > 0 => format!("hashing, {} %", share.hashed * 100 / all),
            (state, _, Some(reason)) => format!("{state}: {}", for_terminal(reason.as_bytes())),
            (state, _, None) => state.to_owned(),
        };
        let at = share.at.as_ref().map_or_else(|| "/".into(), |at| format!("/{}", at.shown()));
        let (files, size) = (share.files.to_string(), show_size(share.bytes));
        table.row(vec![share.dir.shown(), share.network.clone(), at, files, size, state]);
    }
    table.render()
}

fn mounted(mount: &MountReport) -> String {
    let mut out = format!(
        "network '{}' is mounted on {}: {} from {}\n",
        mount.network,
        mount.dir.shown(),
        plural(mount.files, "file"),
        plural(mount.peers as u64, "peer")
    );
    for note in &mount.notes {
        out.push_str(&format!("note: {}\n", for_terminal(note.as_bytes())));
    }
    out
}

fn state_word(state: FileState) -> &'static str {
    match state {
        FileState::Live => "live",
        FileState::Lingering => "lingering: its last source went a moment ago",
        FileState::Cached => "cached: no source, but whole in the local cache",
        FileState::Offline => "offline: no peer is reachable",
    }
}

fn entries(all: &[EntryReport]) -> String {
    let mut table = Table::new(&["NAME", ">SIZE", ">SOURCES", ">CACHED", "MODIFIED"]);
    for entry in all {
        let folder = entry.kind == EntryKind::Folder;
        let name = entry.path.shown() + if folder { "/" } else { "" };
        let sources = if folder { String::new() } else { entry.sources.to_string() };
        let cached = if folder { String::new() } else { format!("{} %", entry.cached_percent) };
        table.row(vec![name, show_size(entry.size), sources, cached, show_time(entry.mtime)]);
    }
    table.render()
}

fn entry(entry: &EntryReport) -> String {
    let mut out = format!("path      /{}\n", entry.path.shown());
    let mut line = |name: &str, value: String| out.push_str(&format!("{name:<10}{value}\n"));
    line("size", format!("{} ({} bytes)", show_size(entry.size), entry.size));
    line("modified", show_time(entry.mtime));
    match entry.kind {
        EntryKind::Folder => line("files", entry.files.to_string()),
        EntryKind::File => {
            line("root", entry.root.map_or_else(String::new, |root| root.to_string()));
            line("sources", entry.sources.to_string());
            line("cached", format!("{} %", entry.cached_percent));
            line("state", entry.state.map_or("", state_word).to_owned());
        }
    }
    out
}

fn show_rtt(micros: u64) -> String {
    if micros == 0 { "-".into() } else { format!("{:.1} ms", micros as f64 / 1000.0) }
}

fn peers(all: &[PeerReport]) -> String {
    let heads =
        ["PEER", "NODE", "NETWORK", "ADDRESS", ">FILES", ">RECEIVED", ">SENT", ">ROUND TRIP", "FOUND BY", "REMARKS"];
    let mut table = Table::new(&heads);
    for peer in all {
        table.row(vec![
            peer.name.as_ref().map_or_else(|| "-".into(), |name| for_terminal(name.as_bytes())),
            peer.node.short(12),
            peer.network.clone(),
            peer.address.clone(),
            peer.files.to_string(),
            show_size(peer.received),
            show_size(peer.sent),
            show_rtt(peer.rtt_micros),
            peer.found.join(", "),
            match &peer.offences {
                Some(record) => offences(record),
                None if peer.connected => String::new(),
                None => "no session: nobody needs one".into(),
            },
        ]);
    }
    table.render()
}

/// What a peer did, in a few words.
fn offences(record: &QuarantineReport) -> String {
    let mut what = Vec::new();
    for (count, noun) in
        [(record.bad_chunks, "wrong chunk"), (record.bad_hashes, "wrong proof"), (record.protocol, "broken rule")]
    {
        if count > 0 {
            what.push(plural(count, noun));
        }
    }
    let until = record.banned_for.map_or_else(String::new, |left| format!("; not asked for {} s", left.as_secs()));
    format!("{}; not asked for {}{until}", what.join(", "), plural(record.files, "file"))
}

fn limit_words(limit: Limit) -> &'static str {
    match limit {
        Limit::Reader => "the reader",
        Limit::Starting => "starting",
        Limit::Link => "the link",
        Limit::Holdings => "what it holds",
        Limit::TooSlow => "too slow for the reader",
        Limit::Busy => "it is busy",
        Limit::Stalled => "stalled",
        Limit::Proof => "waiting for hashes",
        Limit::Useless => "of no use",
        Limit::Quarantined => "it lied",
        Limit::NoSource => "no source",
    }
}

/// Chunks from and to, and how many pieces.
fn show_ranges(ranges: &Ranges) -> String {
    match ranges.runs() {
        [] => "-".into(),
        [only] => format!("{}-{}", only.start, only.end - 1),
        [first, .., last] => format!("{}-{} in {}", first.start, last.end - 1, ranges.runs().len()),
    }
}

fn transfers(all: &[NamedTransfer]) -> String {
    let mut out = String::new();
    for named in all {
        let transfer = &named.transfer;
        let name = named.path.as_ref().map_or_else(|| named.root.short(12), |path| format!("/{}", path.shown()));
        let state = match transfer.state {
            TransferState::Active => "active",
            TransferState::Idle => "idle",
            TransferState::Ended => "ended",
        };
        let (came, size) = (show_size(transfer.bytes), show_size(named.size));
        let rate = if transfer.rate == 0 { String::new() } else { format!("  {}/s", show_size(transfer.rate)) };
        let ended = transfer.state == TransferState::Ended;
        let limit = if ended { String::new() } else { format!("  limited by: {}", limit_words(transfer.limit)) };
        out.push_str(&format!("{name}  {came} of {size}  {state}{rate}{limit}\n"));
        let heads = [
            "  PEER",
            ">BROUGHT",
            ">CHUNKS",
            ">RATE",
            ">ROUND TRIP",
            ">SECTION",
            ">IN FLIGHT",
            ">RETRIES",
            ">HEDGES",
            ">BAD",
            "LIMITED BY",
        ];
        let mut table = Table::new(&heads);
        for source in &transfer.sources {
            let rate = if source.rate == 0 { "-".into() } else { format!("{}/s", show_size(source.rate)) };
            table.row(vec![
                format!("  {}", for_terminal(source.name.as_bytes())),
                show_size(source.bytes),
                source.chunks.to_string(),
                rate,
                show_rtt(source.rtt_micros),
                show_ranges(&source.section),
                source.in_flight.to_string(),
                source.retries.to_string(),
                source.hedges.to_string(),
                source.bad.to_string(),
                if source.live { limit_words(source.limit).to_owned() } else { String::new() },
            ]);
        }
        out.push_str(&table.render());
    }
    out
}

fn status(status: &StatusReport) -> String {
    let mut out = format!(
        "flashget {}, node {} ({})\n",
        status.version,
        for_terminal(status.name.as_bytes()),
        status.node.short(12)
    );
    let up = indicatif::HumanDuration(Duration::from_secs(status.uptime_secs));
    out.push_str(&format!("up for {up}, listens on {}, process {}\n", status.listen, status.pid));
    let cache = &status.cache;
    out.push_str(&format!(
        "cache: {} of {} on disk, {} in RAM",
        show_size(cache.disk_bytes),
        show_size(cache.disk_limit),
        show_size(cache.ram_bytes)
    ));
    if cache.damaged > 0 {
        out.push_str(&format!(", {} records were damaged and fetched again", cache.damaged));
    }
    out.push('\n');
    status.networks.iter().filter(|network| network.member).for_each(|network| out.push_str(&members_line(network)));
    for (title, table) in [
        ("Networks", networks(&status.networks)),
        ("Shares", if status.shares.is_empty() { String::new() } else { shares(&status.shares) }),
    ] {
        if !table.is_empty() {
            out.push_str(&format!("\n{title}\n{table}"));
        }
    }
    if !status.mounts.is_empty() {
        out.push_str("\nMounts\n");
        status.mounts.iter().for_each(|mount| out.push_str(&mounted(mount)));
    }
    out
}

fn got(got: GotReport) -> String {
    let seconds = got.millis as f64 / 1000.0;
    let fetched = got.bytes - got.had_bytes.min(got.bytes);
    let rate = show_size((fetched as f64 / seconds.max(0.001)) as u64);
    let had = match got.had_bytes {
        0 => String::new(),
        had => format!(", {} of it had been there", show_size(had)),
    };
    format!("{}, {}{had}, in {seconds:.1} s ({rate}/s)\n", plural(got.files, "file"), show_size(got.bytes))
}

fn limits(limits: LimitsReport) -> String {
    let rate = |rate: Option<u64>| rate.map_or_else(|| "no limit".into(), |rate| format!("{}/s", show_size(rate)));
    let slots = limits.upload_slots.map_or_else(|| "as the rate asks for".into(), |slots| slots.to_string());
    format!("upload    {}\ndownload  {}\nslots     {slots}\n", rate(limits.upload), rate(limits.download))
}

/// A bar for a share that is being hashed; silent where stderr is no terminal.
pub fn share_progress() -> impl FnMut(Event) {
    let bar = bar::new("{msg} {wide_bar} {bytes} of {total_bytes}, {binary_bytes_per_sec}, {eta} left");
    move |event| {
        let Event::Share(share) = event else { return };
        if share.to_hash > 0 {
            bar.set_message("hashing");
            bar.set_length(share.to_hash);
            bar.set_position(share.hashed);
        } else {
            bar.set_message("scanning");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_watched_is_one_object_per_line() {
        let none = Report::Transfers(Vec::new());
        assert_eq!(json_line(&none).unwrap(), "{\"transfers\":[]}\n");
        assert_eq!(json(&none).unwrap(), "{\n  \"transfers\": []\n}\n");
    }
}

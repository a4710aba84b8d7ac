//! `cache`: asks the daemon, and shows what it says.

use super::args::{CacheCommand, Output, Which};
use super::get::ask_with_bar;
use super::show::{plural, show_time};
use super::table::Table;
use super::{Context, ask, bar, print, show, view_path};
use crate::cache::CacheStats;
use crate::control::report::{CachedReport, CheckedReport, Event, KeptReport};
use crate::control::{ControlError, Report, Request};
use crate::settings::units::{parse_size, show_size};

/// `flashget cache ...`
pub fn cache(context: &Context, command: &CacheCommand) -> Result<(), ControlError> {
    match command {
        CacheCommand::Status { output } => status(context, *output),
        CacheCommand::List { output } => print(*output, &ask::daemon(context, &Request::CacheList)?),
        CacheCommand::Pin { which } => {
            let request = Request::CachePin { paths: paths(which), network: which.network.clone() };
            print(which.output, &ask_with_bar(context, &request)?)
        }
        CacheCommand::Unpin { which } => {
            let request = Request::CacheUnpin { paths: paths(which), network: which.network.clone() };
            print(which.output, &ask::daemon(context, &request)?)
        }
        CacheCommand::Evict { which } => {
            let request = Request::CacheEvict { paths: paths(which), network: which.network.clone() };
            print(which.output, &ask::daemon(context, &request)?)
        }
        CacheCommand::Clear { pinned, output } => {
            print(*output, &ask::daemon(context, &Request::CacheClear { pinned: *pinned })?)
        }
        CacheCommand::Verify { output } => verify(context, *output),
        CacheCommand::Resize { size } => {
            let bytes = parse_size(size).map_err(ControlError::invalid)?;
            ask::daemon(context, &Request::CacheResize { bytes }).map(drop)
        }
    }
}

fn paths(which: &Which) -> Vec<crate::control::text::PathText> {
    which.paths.iter().map(|path| view_path(path)).collect()
}

fn verify(context: &Context, output: Output) -> Result<(), ControlError> {
    let bar = bar::new("{wide_bar} {bytes} of {total_bytes}, {binary_bytes_per_sec}");
    let checked = ask::daemon_with(context, &Request::CacheVerify, &mut |event| {
        if let Event::Check(so_far) = event {
            bar.set_length(so_far.disk_bytes.max(so_far.bytes));
            bar.set_position(so_far.bytes);
        }
    });
    bar.finish_and_clear();
    print(output, &checked?)
}

fn status(context: &Context, output: Output) -> Result<(), ControlError> {
    let Report::Status(status) = ask::daemon(context, &Request::Status)? else {
        return Err(ControlError::failed("an answer of another version of flashget"));
    };
    let text = if output.json { show::pretty(&status.cache)? } else { stats(&status.cache) };
    show::write(&text).map(drop)
}

fn stats(stats: &CacheStats) -> String {
    let mut lines = vec![
        format!("on disk   {} of {}", show_size(stats.disk_bytes), show_size(stats.disk_limit)),
        format!("in memory {}", show_size(stats.ram_bytes)),
        format!("read      {}", plural(stats.loads, "chunk")),
        format!("written   {}", plural(stats.writes, "chunk")),
    ];
    if stats.dropped > 0 {
        lines.push(format!("dropped   {}: the disk was full or did not keep up", plural(stats.dropped, "chunk")));
    }
    if stats.damaged > 0 {
        lines.push(format!("damaged   {}, fetched again", plural(stats.damaged, "chunk")));
    }
    lines.push(format!("evicted   {}", plural(stats.evicted, "file")));
    lines.join("\n") + "\n"
}

/// What is in the cache, for people.
pub fn cached(all: &[CachedReport]) -> String {
    let mut table = Table::new(&["FILE", ">SIZE", ">CACHED", ">ON DISK", "USED", "PINNED"]);
    for one in all {
        let name = one.path.as_ref().map_or_else(|| one.root.short(12), |path| path.shown());
        table.row(vec![
            name,
            show_size(one.size),
            format!("{} %", one.cached_percent),
            show_size(one.disk_bytes),
            if one.disk_bytes > 0 { show_time(one.used) } else { "-".into() },
            if one.pinned { "pinned".into() } else { String::new() },
        ]);
    }
    table.render()
}

/// What was done, for people.
pub fn kept(kept: KeptReport) -> String {
    format!("{}, {}\n", plural(kept.files, "file"), show_size(kept.bytes))
}

/// What a check found, for people.
pub fn checked(checked: CheckedReport) -> String {
    let all = format!("{} opened, {}", plural(checked.records, "record"), show_size(checked.bytes));
    match checked.damaged {
        0 => format!("{all}; none is damaged\n"),
        damaged => format!("{all}; {} damaged: fetched again when needed\n", plural(damaged, "record")),
    }
}

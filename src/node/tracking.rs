//! What a running tracker is seen to do: its figures, for `flashget tracker status` and for Prometheus.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use tokio::sync::watch;

use crate::base::metrics::{Exposition, Kind};
use crate::control::text::PathText;
use crate::control::tracking::{TrackedNetwork, TrackerReport};
use crate::control::{Control, ControlError, ErrorCode, OnEvent, Opened, Report, Request};
use crate::net::handshake::Access;
use crate::net::terse::{Limits, TerseListener};
use crate::tracker::server::TrackerService;

/// A tracker's parts, as those see them who ask how it is.
pub(super) struct Watched {
    began: Instant,
    listener: TerseListener,
    service: Arc<TrackerService>,
    limits: Limits,
    accesses: watch::Receiver<Vec<Access>>,
}

impl Watched {
    pub fn new(
        listener: TerseListener,
        service: Arc<TrackerService>,
        limits: Limits,
        accesses: watch::Receiver<Vec<Access>>,
    ) -> Self {
        Self { began: Instant::now(), listener, service, limits, accesses }
    }

    pub fn listen_addr(&self) -> SocketAddr {
        self.listener.local_addr()
    }

    fn report(&self) -> TrackerReport {
        let (figures, counts) = (self.listener.figures(), self.service.counts());
        let known = self.service.nodes();
        let networks = self.accesses.borrow().iter().map(|access| access.network).collect::<Vec<_>>();
        let network = |id| TrackedNetwork {
            id,
            nodes: known.iter().find(|(known, _)| *known == id).map_or(0, |(_, nodes)| *nodes),
        };
        let cpu = cpu_time();
        let per_ping = cpu.as_secs_f64() * 1e6 / counts.pings as f64;
        TrackerReport {
            version: env!("CARGO_PKG_VERSION").into(),
            listen: self.listen_addr(),
            uptime_ms: self.began.elapsed().as_millis() as u64,
            store: self.service.store(),
            networks: networks.into_iter().map(network).collect(),
            sessions: figures.sessions(),
            max_sessions: self.limits.sessions,
            max_per_address: self.limits.per_address,
            handshakes: figures.handshakes(),
            opened: figures.opened(),
            counts,
            refused: figures.refused().map(|(why, count)| (why.name().to_owned(), count)).collect(),
            cpu_ms: cpu.as_millis() as u64,
            cpu_per_ping_micros: (counts.pings > 0).then_some(per_ping),
            memory: resident(),
        }
    }

    /// The same for Prometheus.
    pub fn exposition(&self) -> String {
        exposition(&self.report())
    }
}

/// CPU time of this process, user and system.
fn cpu_time() -> Duration {
    let spent = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(spent.tv_sec as u64, spent.tv_nsec as u32)
}

/// Resident memory of this process, in bytes; 0 where /proc is not to be seen.
fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: u64 = statm.split(' ').nth(1).and_then(|pages| pages.parse().ok()).unwrap_or(0);
    pages * rustix::param::page_size() as u64
}

fn exposition(report: &TrackerReport) -> String {
    let mut figures = Exposition::default();
    let info = [(report.version.clone(), 1)];
    figures.many(Kind::Gauge, "flashget_tracker_info", "The version that runs.", "version", info);
    let store = [(report.store.kind.clone(), u8::from(report.store.healthy))];
    let help = "1 if what this process knows is what its store holds.";
    figures.many(Kind::Gauge, "flashget_tracker_store_healthy", help, "store", store);
    let nodes = report.networks.iter().map(|network| (network.id.to_string(), network.nodes));
    figures.many(Kind::Gauge, "flashget_tracker_nodes", "Active nodes of each network.", "network", nodes);
    let counts = &report.counts;
    let seconds = |millis: u64| millis as f64 / 1000.0;
    for (kind, name, help, value) in [
        (Kind::Gauge, "uptime_seconds", "Time since the start.", seconds(report.uptime_ms)),
        (Kind::Gauge, "sessions", "Sessions that are open.", report.sessions as f64),
        (Kind::Gauge, "sessions_limit", "Sessions that may be open.", report.max_sessions as f64),
        (Kind::Gauge, "handshakes", "Handshakes in progress.", report.handshakes as f64),
        (Kind::Counter, "sessions_opened_total", "Sessions that were opened.", report.opened as f64),
        (Kind::Counter, "pings_total", "Announcements that were answered.", counts.pings as f64),
        (Kind::Counter, "joins_total", "Nodes that came.", counts.joins as f64),
        (Kind::Counter, "leaves_total", "Nodes that said goodbye.", counts.leaves as f64),
        (Kind::Counter, "drops_total", "Nodes whose pings stopped.", counts.drops as f64),
        (Kind::Counter, "full_total", "Nodes for which there was no room.", counts.full as f64),
        (Kind::Counter, "cpu_seconds_total", "CPU time of the process, user and system.", seconds(report.cpu_ms)),
        (Kind::Gauge, "resident_memory_bytes", "Memory of the process.", report.memory as f64),
    ] {
        figures.one(kind, &format!("flashget_tracker_{name}"), help, value);
    }
    let refused = report.refused.iter().map(|(why, count)| (why.clone(), *count));
    let help = "Connections that were turned away or ended, by reason.";
    figures.many(Kind::Counter, "flashget_tracker_refused_total", help, "reason", refused);
    figures.text()
}

#[async_trait]
impl Control for Watched {
    async fn call(&self, request: Request, _: OnEvent<'_>) -> Result<Report, ControlError> {
        match request {
            Request::Tracker => Ok(Report::Tracker(Box::new(self.report()))),
            _ => Err(ControlError::invalid("this is a tracker: it can be asked how it is, and nothing else")),
        }
    }

    async fn open(&self, _: &PathText, _: Option<&str>) -> Result<Opened, ControlError> {
        Err(ControlError::new(ErrorCode::NotFound, "this is a tracker: it has no files"))
    }
}

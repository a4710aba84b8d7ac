//! Nodes for `scripts/bench-tracker`: thousands of sessions with a tracker, by real handshakes, each of which pings on its
//! own; some leave, some crash, others join. Prints what it cost the tracker as one line of JSON.
//!
//! Usage: tracker_load HOME TRACKER PID NODES SECONDS EVERY_MS CHURN

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use flashget::base::ids::NodeId;
use flashget::net::handshake::{Access, Identity, Kind as SessionKind, initiate};
use flashget::settings::home::Home;
use flashget::tracker::client::Feed;
use flashget::vault::store::{Unlock, Vault, passing_identity};
use flashget::wire::frame::{HEADER, Header, Kind};
use flashget::wire::message::{Announced, Request, Response};
use serde::Deserialize;
use serde::de::IgnoredAny;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, oneshot};
use tokio::task::JoinHandle;
use tokio::time::Instant;

type Fault = Box<dyn std::error::Error + Send + Sync>;

/// Nodes that follow the feed in earnest and must know in the end who is there; all would need a terabyte.
const SAMPLES: usize = 40;
/// Handshakes at once: half of what a tracker lets one address do, as it sees the end of one later than this side.
const SHAKING: usize = 64;
/// After the last change: until those that crashed have been dropped, and everybody has been told.
const SETTLE: Duration = Duration::from_secs(28);
/// See `main`.
const REST: Duration = Duration::from_millis(4);
/// A ping that takes longer is an error.
const PATIENCE: Duration = Duration::from_secs(10);

/// Before a node that was turned away tries again, and how often that may be in all.
const AGAIN: Duration = Duration::from_millis(200);
const MAX_TURNED_AWAY: u64 = 100_000;

static TURNED_AWAY: AtomicU64 = AtomicU64::new(0);
static PINGS: AtomicU64 = AtomicU64::new(0);
static ERRORS: AtomicU64 = AtomicU64::new(0);
static BYTES: AtomicU64 = AtomicU64::new(0);

thread_local! {
    /// One buffer for all nodes of a thread.
    static BUFFER: RefCell<Vec<u8>> = RefCell::new(vec![0; 1 << 20]);
}

/// An answer without what changed: most nodes only count.
#[derive(Deserialize)]
enum Light {
    #[serde(rename = "announced")]
    Announced(u64, u64, IgnoredAny, u64, bool, IgnoredAny, IgnoredAny),
}

struct Load {
    tracker: SocketAddr,
    access: Access,
    every: Duration,
    shaking: Semaphore,
}

struct Session {
    stream: TcpStream,
    noise: snow::StatelessTransportState,
    sealed: u64,
    opened: u64,
    feed: Feed,
    light: Option<(u64, u64, u64)>,
    port: u16,
}

impl Session {
    async fn open(load: &Load, number: usize) -> Result<(NodeId, Self), Fault> {
        let _turn = load.shaking.acquire().await?;
        let (node, sign) = passing_identity()?;
        let identity = Identity { node, sign: Arc::new(sign), name: String::new(), listens: Vec::new() };
        let mut stream = TcpStream::connect(load.tracker).await?;
        stream.set_nodelay(true)?;
        let opened = initiate(&mut stream, &identity, &load.access, None).await?;
        let light = (number >= SAMPLES).then_some((0, 0, 0));
        let port = 1024 + (number % 60_000) as u16;
        Ok((node, Self { stream, noise: opened.noise, sealed: 0, opened: 0, feed: Feed::new(node), light, port }))
    }

    /// One ping; true if the tracker has more to tell at once.
    async fn ping(&mut self, leaving: bool) -> Result<bool, Fault> {
        let mut announce = self.feed.announce(vec![SocketAddr::from(([0, 0, 0, 0], self.port))], leaving);
        if let Some((at, boot, begun)) = self.light {
            (announce.since, announce.boot, announce.begun) = (at, boot, begun);
        }
        let body = rmp_serde::to_vec(&Request::Announce(announce))?;
        let head =
            Header { kind: Kind::Request, len: body.len() as u32, flags: 0, id: self.sealed as u32, plain_len: 0 };
        let plain = [&head.write()[..], &body].concat();
        let mut out = vec![0; plain.len() + 18];
        out[..2].copy_from_slice(&(plain.len() as u16 + 16).to_be_bytes());
        self.noise.write_message(self.sealed, &plain, &mut out[2..])?;
        self.sealed += 1;
        self.stream.write_all(&out).await?;
        let frame = self.answer().await?;
        BYTES.fetch_add(frame.len() as u64, Ordering::Relaxed);
        if let Some(light) = &mut self.light {
            let Light::Announced(at, boot, _, begun, more, _, _) = rmp_serde::from_slice(&frame)?;
            *light = (at, boot, begun);
            return Ok(more);
        }
        match rmp_serde::from_slice(&frame)? {
            Response::Announced(answer) => {
                let Announced { more, .. } = answer;
                self.feed.take(answer);
                Ok(more)
            }
            _ => Err("not an answer to an announcement".into()),
        }
    }

    /// The body of the next frame.
    async fn answer(&mut self) -> Result<Vec<u8>, Fault> {
        let mut came: Vec<u8> = Vec::new();
        let mut plain = Vec::new();
        loop {
            self.stream.readable().await?;
            let whole = BUFFER.with_borrow_mut(|buffer| match self.stream.try_read(buffer) {
                Ok(0) => Err("the tracker closed the session".into()),
                Ok(got) => {
                    came.extend_from_slice(&buffer[..got]);
                    let mut at = 0;
                    while let Some(len) = came[at..].first_chunk().map(|len| usize::from(u16::from_be_bytes(*len)))
                        && let Some(record) = came.get(at + 2..at + 2 + len)
                    {
                        let got = self.noise.read_message(self.opened, record, buffer)?;
                        self.opened += 1;
                        plain.extend_from_slice(&buffer[..got]);
                        at += 2 + len;
                    }
                    came.drain(..at);
                    let head = plain.first_chunk().map(Header::read).transpose()?;
                    Ok::<_, Fault>(head.is_some_and(|head| plain.len() == HEADER + head.len as usize))
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => Ok(false),
                Err(error) => Err(error.into()),
            })?;
            if whole {
                plain.drain(..HEADER);
                return Ok(plain);
            }
        }
    }
}

/// How a node ends.
#[derive(PartialEq)]
enum End {
    Goodbye,
    /// Its process is killed: the kernel closes the connection.
    Killed,
    /// Its machine is gone: nothing is ever heard again.
    Silent,
}

struct Running {
    node: NodeId,
    end: Option<oneshot::Sender<End>>,
    task: JoinHandle<Feed>,
}

async fn live(load: Arc<Load>, mut session: Session, mut end: oneshot::Receiver<End>) -> Feed {
    let mut next = Instant::now() + load.every.mul_f64(f64::from(session.port % 1000) / 1000.0);
    loop {
        let told = tokio::select! {
            told = &mut end => Some(told.unwrap_or(End::Killed)),
            () = tokio::time::sleep_until(next) => None,
        };
        match told {
            Some(End::Silent) => {
                // Never closed, and never read.
                std::mem::forget(session.stream);
                return session.feed;
            }
            Some(End::Killed) => return session.feed,
            _ => {}
        }
        loop {
            PINGS.fetch_add(1, Ordering::Relaxed);
            let leaving = told == Some(End::Goodbye);
            match tokio::time::timeout(PATIENCE, session.ping(leaving)).await {
                Ok(Ok(true)) if !leaving => {}
                Ok(Ok(_)) => break,
                other => {
                    ERRORS.fetch_add(1, Ordering::Relaxed);
                    eprintln!("a ping failed: {:?}", other.map(|pinged| pinged.map_err(|error| error.to_string())));
                    return session.feed;
                }
            }
        }
        if told.is_some() {
            return session.feed;
        }
        next += load.every;
    }
}

async fn join(load: &Arc<Load>, number: usize) -> Result<Running, Fault> {
    let (node, mut session) = loop {
        match Session::open(load, number).await {
            Ok(opened) => break opened,
            // As many handshakes as there may be: nodes try again too.
            Err(error) if TURNED_AWAY.fetch_add(1, Ordering::Relaxed) > MAX_TURNED_AWAY => return Err(error),
            Err(_) => tokio::time::sleep(AGAIN).await,
        }
    };
    PINGS.fetch_add(1, Ordering::Relaxed);
    while session.ping(false).await? {
        PINGS.fetch_add(1, Ordering::Relaxed);
    }
    let (end, ended) = oneshot::channel();
    Ok(Running { node, end: Some(end), task: tokio::spawn(live(Arc::clone(load), session, ended)) })
}

/// CPU seconds (user and system) and resident bytes of a process.
fn cost(pid: &str) -> Result<(f64, u64), Fault> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let fields: Vec<&str> = stat.rsplit_once(')').ok_or("no stat")?.1.split_whitespace().collect();
    let ticks: u64 = fields[11].parse::<u64>()? + fields[12].parse::<u64>()?;
    let statm = std::fs::read_to_string(format!("/proc/{pid}/statm"))?;
    let pages: u64 = statm.split(' ').nth(1).ok_or("no statm")?.parse()?;
    let (per_second, page) = (rustix::param::clock_ticks_per_second(), rustix::param::page_size() as u64);
    Ok((ticks as f64 / per_second as f64, pages * page))
}

async fn many(load: &Arc<Load>, numbers: std::ops::Range<usize>) -> Result<Vec<Running>, Fault> {
    let joins = numbers.map(|number| {
        let load = Arc::clone(load);
        tokio::spawn(async move { join(&load, number).await })
    });
    let mut all = Vec::new();
    for joined in joins.collect::<Vec<_>>() {
        all.push(joined.await??);
    }
    Ok(all)
}

fn main() -> Result<(), Fault> {
    // Over loopback the kernel lets whoever sends pay for waking up whoever waits, which a tracker on a network does not. So
    // this program seldom waits for the tracker: it rests, and then finds several answers.
    let rest = || std::thread::sleep(REST);
    tokio::runtime::Builder::new_current_thread().enable_all().on_thread_park(rest).build()?.block_on(load())
}

async fn load() -> Result<(), Fault> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [home, tracker, pid, nodes, seconds, every, churn] = words.as_slice() else {
        return Err("usage: tracker_load HOME TRACKER PID NODES SECONDS EVERY_MS CHURN".into());
    };
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let most = rustix::process::Rlimit { current: limit.maximum, ..limit };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, most)?;
    let home = Home::below(home.as_ref());
    let vault = Vault::open(&home.vault_file(), &Unlock::KeyFile(home.key_file()))?;
    let network = vault.networks().first().ok_or("the home is in no network")?;
    let access = Access { network: network.id(), psk: network.tracker_psk(), kind: SessionKind::Tracker };
    let (nodes, seconds, churn): (usize, u64, usize) = (nodes.parse()?, seconds.parse()?, churn.parse()?);
    let every = Duration::from_millis(every.parse()?);
    let load = Arc::new(Load { tracker: tracker.parse()?, access, every, shaking: Semaphore::new(SHAKING) });

    let empty = cost(pid)?.1;
    let began = Instant::now();
    let mut all = many(&load, 0..nodes).await?;
    let joined = began.elapsed();
    let joining = cost(pid)?.0;
    tokio::time::sleep(2 * load.every).await;

    let (count, errors, bytes) =
        (PINGS.load(Ordering::Relaxed), ERRORS.load(Ordering::Relaxed), BYTES.load(Ordering::Relaxed));
    let (cpu, _) = cost(pid)?;
    let measured = Instant::now();
    let mut number = nodes;
    for second in 1..=seconds {
        // Half of those that go say goodbye; of the others, every second one's connection is closed for it.
        for _ in 0..churn {
            let mut gone = all.remove(SAMPLES + (number * 7919) % (all.len() - SAMPLES));
            let end = [End::Goodbye, End::Killed, End::Goodbye, End::Silent].into_iter().nth(number % 4);
            if let (Some(how), Some(end)) = (gone.end.take(), end) {
                // One whose session has ended is counted as an error already.
                let _ = how.send(end);
            }
            number += 1;
        }
        all.extend(many(&load, number..number + churn).await?);
        tokio::time::sleep_until(measured + Duration::from_secs(second)).await;
    }
    let took = measured.elapsed().as_secs_f64();
    let (cpu_then, full) = cost(pid)?;
    let pings = PINGS.load(Ordering::Relaxed) - count;
    let errors = ERRORS.load(Ordering::Relaxed) - errors;
    let bytes = BYTES.load(Ordering::Relaxed) - bytes;

    tokio::time::sleep(SETTLE).await;
    let alive: BTreeSet<NodeId> = all.iter().map(|running| running.node).collect();
    let mut wrong = 0;
    for mut sample in all.drain(..SAMPLES) {
        if let Some(end) = sample.end.take() {
            let _ = end.send(End::Killed);
        }
        let feed = sample.task.await?;
        let mut known: BTreeSet<NodeId> = feed.active().keys().copied().collect();
        known.insert(sample.node);
        if known != alive {
            wrong += 1;
            let (more, less) = (known.difference(&alive).count(), alive.difference(&known).count());
            eprintln!("a node knows {more} that are not there, and does not know {less} that are");
        }
    }
    println!(
        "{{\"join_seconds\": {:.1}, \"join_cpu_micros\": {:.0}, \"pings\": {pings}, \"seconds\": {took:.1}, \"errors\": {errors}, \
         \"cpu_micros_per_ping\": {:.2}, \"bytes_per_ping\": {}, \"bytes_per_node\": {}, \"empty\": {empty}, \"wrong_feeds\": {wrong}, \
         \"samples\": {SAMPLES}}}",
        joined.as_secs_f64(),
        joining * 1e6 / nodes as f64,
        (cpu_then - cpu) * 1e6 / pings as f64,
        bytes / pings.max(1),
        full.saturating_sub(empty) / nodes as u64,
    );
    Ok(())
}

//! One session: a task that reads, opens and dispatches, a task that seals and writes, and requests in between.
//!
//! Both sides may ask at any time. What a peer can make this side hold is bounded, also if it reads nothing of what it
//! asked for: its requests, until their answers have been written, by `MAX_REQUESTS_PER_PEER`; chunks and other large
//! answers, from before they are made, by [`BULK_ROOM`]; control answers by the outbox.

use std::collections::HashMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::{Buf, Bytes, BytesMut};
use parking_lot::Mutex;
use snow::StatelessTransportState;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{Semaphore, oneshot, watch};

use super::handshake::{Kind as SessionKind, Opened, PASSES_CALLS};
use super::link::{Answer, LinkError, LinkStats, PeerAddr, PeerLink, RawChunk, Service};
use super::outbox::{Held, Outbox, Outgoing};
use super::serving::Serving;
use crate::base::chunks::{CHUNK, GROUP_CHUNKS, group_count};
use crate::base::ids::{ContentId, NetworkId, NodeId};
use crate::base::limits::{CATALOG_PART, KEEPALIVE, MAX_ASKED, MAX_FRAME, OWN_PING, SESSION_TIMEOUT};
use crate::wire::compress;
use crate::wire::frame::{Assembler, FLAG_SNAPPY, Frame, FrameError, HEADER, Header, Kind, MAX_PART};
use crate::wire::message::{Notice, Request, Response};

/// Bytes of chunks and other large answers that are made, or being made, to be sent: enough for the longest fat pipe that
/// one session should fill (4 MiB is 30 ms at 1 Gbit/s), little enough that thousands of sessions fit in memory.
const BULK_ROOM: usize = 4 << 20;
/// Answers above this go with the bulk, so that a small question does not wait behind a catalog.
const LARGE_ANSWER: usize = 64 * 1024;
/// Bytes that a hash takes in an answer: 32, and what MessagePack puts before them.
const HASH: u64 = 34;
/// Ciphertext that is gathered for one write.
const WRITE: usize = 512 * 1024;
/// What one read takes from the socket at most.
const READ: usize = 512 * 1024;
const TAG: usize = 16;
/// Bytes that the kernel takes beyond what is on its way: one write, so that it always has something to send.
const UNSENT: u32 = 512 * 1024;

enum Reply {
    Message(Response),
    Chunk(RawChunk),
}

type Waiter = oneshot::Sender<Result<Reply, LinkError>>;

/// How much room the answer to a request will need, as far as the request tells; 0 if it is surely small. One that turns
/// out larger (a delta that is, say) still holds what it asked for, so that there are few of those.
fn room_for(request: &Request) -> usize {
    let bytes = match request {
        Request::Chunk { .. } => CHUNK,
        Request::Catalog(_) | Request::Versions { .. } | Request::Members { .. } | Request::Announce(_) => {
            CATALOG_PART as u64
        }
        // A small file comes with its opening; a large one has its first level of hashes, and the first group's.
        Request::Open(content) if content.is_small() => content.size,
        Request::Open(content) => (group_count(content.size) + GROUP_CHUNKS).saturating_mul(HASH),
        Request::Ping | Request::Sums(_) | Request::Group { .. } => 0,
    };
    if bytes > LARGE_ANSWER as u64 { bytes.min(BULK_ROOM as u64) as usize } else { 0 }
}

/// See the module.
pub struct Session {
    node: NodeId,
    name: String,
    network: NetworkId,
    kind: SessionKind,
    remote: SocketAddr,
    addrs: Vec<PeerAddr>,
    capabilities: u64,
    noise: StatelessTransportState,
    outbox: Outbox,
    room: Arc<Semaphore>,
    waiting: Mutex<HashMap<u32, Waiter>>,
    next: AtomicU32,
    /// Places for requests to the peer.
    asking: Semaphore,
    /// Requests of the peer whose answers have not been written.
    serving: Arc<Serving>,
    over: watch::Sender<bool>,
    began: Instant,
    received: AtomicU64,
    sent: AtomicU64,
    rtt_micros: AtomicU64,
    /// How fast this link takes what is written, in bytes per second; 0 until known.
    rate: AtomicU64,
    /// When anything was last received, in milliseconds since `began`.
    heard: AtomicU64,
    /// The same of the peer's last ping.
    pinged: AtomicU64,
    /// When either side last asked the other for what nobody else might have, in milliseconds since `began`.
    used: AtomicU64,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Session({}, {})", self.node.short(12), self.remote)
    }
}

impl Session {
    /// Starts the tasks of a session whose handshake is done.
    pub fn start(stream: TcpStream, remote: SocketAddr, opened: Opened, service: Arc<dyn Service>) -> Arc<Self> {
        let addr = |listens: SocketAddr| {
            let ip = if listens.ip().is_unspecified() { remote.ip() } else { listens.ip() };
            PeerAddr::Tcp(SocketAddr::new(ip, listens.port()))
        };
        let session = Arc::new(Self {
            node: opened.node,
            name: opened.name,
            network: opened.network,
            kind: opened.kind,
            remote,
            addrs: opened.listens.into_iter().map(addr).collect(),
            capabilities: opened.capabilities,
            noise: opened.noise,
            outbox: Outbox::default(),
            room: Arc::new(Semaphore::new(BULK_ROOM)),
            waiting: Mutex::default(),
            next: AtomicU32::new(1),
            asking: Semaphore::new(MAX_ASKED),
            serving: Arc::default(),
            over: watch::channel(false).0,
            began: Instant::now(),
            received: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            rtt_micros: AtomicU64::new(0),
            rate: AtomicU64::new(0),
            heard: AtomicU64::new(0),
            pinged: AtomicU64::new(0),
            used: AtomicU64::new(0),
        });
        // What waits should wait here, where control goes before bulk and givers before takers, and not in the kernel.
        if let Err(error) = socket2::SockRef::from(&stream).set_tcp_notsent_lowat(UNSENT) {
            tracing::debug!(%error, "the kernel's queue of unsent bytes can't be bounded");
        }
        let (from, to) = stream.into_split();
        tokio::spawn(Arc::clone(&session).run(from, to, service));
        session
    }

    async fn run(self: Arc<Self>, from: OwnedReadHalf, to: OwnedWriteHalf, service: Arc<dyn Service>) {
        let link: Arc<dyn PeerLink> = Arc::clone(&self) as _;
        service.connected(link).await;
        let mut over = self.over.subscribe();
        let ended = tokio::select! {
            ended = self.read(from, &service) => ended,
            ended = self.write(to) => ended,
            // A tracker is announced to all the time, and each of those has its answer.
            () = self.keep_alive(), if self.kind == SessionKind::Member => Ok(()),
            _ = over.wait_for(|over| *over) => Ok(()),
        };
        if let Err(error) = ended {
            tracing::debug!(peer = %self.node.short(12), %error, "the session ended");
        }
        self.close();
    }

    fn elapsed(&self) -> u64 {
        self.began.elapsed().as_millis() as u64
    }

    /// Asks for signs of life, and returns when there are none.
    async fn keep_alive(self: &Arc<Self>) {
        loop {
            let asked = Instant::now();
            let pong = tokio::time::timeout(SESSION_TIMEOUT, self.ask(&Request::Ping)).await;
            match pong {
                Ok(Ok(Reply::Message(Response::Pong))) => {
                    let rtt = (asked.elapsed().as_micros() as u64).max(1);
                    let old = self.rtt_micros.load(Ordering::Relaxed);
                    let smooth = if old == 0 { rtt } else { old - old / 4 + rtt / 4 };
                    self.rtt_micros.store(smooth, Ordering::Relaxed);
                }
                Ok(_) => return,
                // A slow link may have much to bring before the answer.
                Err(_) if self.elapsed() - self.heard.load(Ordering::Relaxed) < SESSION_TIMEOUT.as_millis() as u64 => {}
                Err(_) => return,
            }
            tokio::time::sleep(KEEPALIVE).await;
            // On a session that nobody uses one side's pings are sign enough of the other's life; now and then each measures
            // the way itself.
            while self.unused_for() > KEEPALIVE
                && asked.elapsed() < OWN_PING
                && self.elapsed() - self.pinged.load(Ordering::Relaxed) < 2 * KEEPALIVE.as_millis() as u64
            {
                tokio::time::sleep(KEEPALIVE).await;
            }
        }
    }

    /// Comparing notes, which any other session would do for, is no use of this one.
    fn note_use(&self, request: &Request) {
        let used = match request {
            Request::Catalog(_) | Request::Open(_) | Request::Group { .. } | Request::Chunk { .. } => true,
            Request::Ping
            | Request::Sums(_)
            | Request::Versions { .. }
            | Request::Members { .. }
            | Request::Announce(_) => false,
        };
        if used {
            self.used.store(self.elapsed(), Ordering::Relaxed);
        }
    }

    // ---- Writing.

    async fn write(&self, mut to: OwnedWriteHalf) -> std::io::Result<()> {
        let mut nonce = 0;
        let mut out = Vec::with_capacity(WRITE + 2 * MAX_PART);
        let mut held: Vec<Held> = Vec::new();
        loop {
            while out.len() < WRITE
                && let Some(frame) = self.outbox.pop()
            {
                self.seal_frame(&frame, &mut nonce, &mut out)?;
                held.push(frame.held);
            }
            if out.is_empty() {
                self.outbox.ready().await;
                continue;
            }
            let began = Instant::now();
            to.write_all(&out).await?;
            self.note_rate(out.len(), began.elapsed());
            self.sent.fetch_add(out.len() as u64, Ordering::Relaxed);
            out.clear();
            held.clear();
        }
    }

    /// Only what fills the socket's buffer tells something of the link.
    fn note_rate(&self, len: usize, took: Duration) {
        if len < WRITE / 2 {
            return;
        }
        let rate = (len as f64 / took.as_secs_f64().max(1e-6)) as u64;
        let old = self.rate.load(Ordering::Relaxed);
        self.rate.store(if old == 0 { rate } else { old - old / 8 + rate / 8 }, Ordering::Relaxed);
    }

    fn seal_frame(&self, frame: &Outgoing, nonce: &mut u64, out: &mut Vec<u8>) -> std::io::Result<()> {
        let header = frame.header.write();
        let mut rest: &[u8] = &frame.body;
        if frame.header.kind == Kind::Bulk {
            self.seal_part(&header, nonce, out)?;
        } else {
            let with = rest.len().min(MAX_PART - HEADER);
            let mut first = Vec::with_capacity(HEADER + with);
            first.extend_from_slice(&header);
            first.extend_from_slice(&rest[..with]);
            rest = &rest[with..];
            self.seal_part(&first, nonce, out)?;
        }
        for part in rest.chunks(MAX_PART) {
            self.seal_part(part, nonce, out)?;
        }
        Ok(())
    }

    fn seal_part(&self, plain: &[u8], nonce: &mut u64, out: &mut Vec<u8>) -> std::io::Result<()> {
        let sealed = plain.len() + TAG;
        out.extend_from_slice(&(sealed as u16).to_be_bytes());
        let at = out.len();
        out.resize(at + sealed, 0);
        let written = self.noise.write_message(*nonce, plain, &mut out[at..]).map_err(std::io::Error::other)?;
        if written != sealed {
            return Err(std::io::Error::other("sealing failed"));
        }
        *nonce += 1;
        Ok(())
    }

    // ---- Reading.

    async fn read(self: &Arc<Self>, mut from: OwnedReadHalf, service: &Arc<dyn Service>) -> std::io::Result<()> {
        let broken = |error: FrameError| std::io::Error::new(std::io::ErrorKind::InvalidData, error);
        let mut buffer = BytesMut::with_capacity(READ);
        let mut assembler = Assembler::default();
        let mut nonce = 0;
        loop {
            buffer.reserve(READ / 2);
            let got = from.read_buf(&mut buffer).await?;
            if got == 0 {
                return Ok(());
            }
            self.received.fetch_add(got as u64, Ordering::Relaxed);
            self.heard.store(self.elapsed(), Ordering::Relaxed);
            service.received(got).await;
            while let Some(len) = buffer.first_chunk().map(|len| usize::from(u16::from_be_bytes(*len)))
                && buffer.len() >= 2 + len
            {
                let sealed = &buffer[2..2 + len];
                let plain = len.checked_sub(TAG).ok_or_else(|| broken(FrameError::Header))?;
                let space = assembler.space(plain).map_err(broken)?;
                self.noise.read_message(nonce, sealed, space).map_err(std::io::Error::other)?;
                nonce += 1;
                buffer.advance(2 + len);
                if let Some(frame) = assembler.filled(plain).map_err(broken)? {
                    self.dispatch(frame, service).await?;
                }
            }
        }
    }

    async fn dispatch(self: &Arc<Self>, frame: Frame, service: &Arc<dyn Service>) -> std::io::Result<()> {
        let malformed = || std::io::Error::new(std::io::ErrorKind::InvalidData, "a malformed message");
        let Frame { header, body } = frame;
        match header.kind {
            Kind::Response => {
                let response = rmp_serde::from_slice(&body).map_err(|_| malformed())?;
                let reply = match response {
                    Response::NotHere(held) => Err(LinkError::NotHere(held)),
                    Response::Changed => Err(LinkError::Changed),
                    Response::Busy => Err(LinkError::Busy),
                    Response::Refused => Err(LinkError::Refused),
                    other => Ok(Reply::Message(other)),
                };
                self.answered(header.id, reply);
            }
            Kind::Bulk => {
                let wire_len = body.len();
                // An answer that nobody waits for any more is not worth decompressing.
                let Some(waiter) = self.waiting.lock().remove(&header.id) else { return Ok(()) };
                let bytes = if header.flags & FLAG_SNAPPY == 0 {
                    body
                } else {
                    compress::decompress(&body, header.plain_len as usize).ok_or_else(malformed)?.into()
                };
                // The asker may have gone.
                let _ = waiter.send(Ok(Reply::Chunk(RawChunk { bytes, wire_len })));
            }
            Kind::Cancel => {
                self.serving.cancel(header.id);
            }
            Kind::Notice => {
                let notice = rmp_serde::from_slice(&body).map_err(|_| malformed())?;
                let link: Arc<dyn PeerLink> = Arc::clone(self) as _;
                service.notice(&link, notice).await;
            }
            Kind::Request => {
                let request = rmp_serde::from_slice(&body).map_err(|_| malformed())?;
                if request == Request::Ping {
                    self.pinged.store(self.elapsed(), Ordering::Relaxed);
                    return self.answer(header.id, encoded(&Response::Pong)?, Held::default());
                }
                self.note_use(&request);
                let place = self.serving.begin(header.id).ok_or_else(malformed)?;
                let held = Held { place: Some(place), ..Held::default() };
                let task = tokio::spawn(Arc::clone(self).serve(header.id, request, held, Arc::clone(service)));
                self.serving.runs_as(header.id, task.abort_handle());
            }
        }
        Ok(())
    }

    fn answered(&self, id: u32, reply: Result<Reply, LinkError>) {
        if let Some(waiter) = self.waiting.lock().remove(&id) {
            // The asker may have gone.
            let _ = waiter.send(reply);
        }
    }

    // ---- Serving.

    async fn serve(self: Arc<Self>, id: u32, request: Request, mut held: Held, service: Arc<dyn Service>) {
        let link: Arc<dyn PeerLink> = Arc::clone(&self) as _;
        // Room before the work, or a peer could make this side read a thousand chunks into memory.
        let room = room_for(&request);
        if room > 0 {
            held.room = Arc::clone(&self.room).acquire_many_owned(room as u32).await.ok();
        }
        let answered = match service.request(&link, request).await {
            Answer::Message(response) => self.reply(id, &response, held).await,
            Answer::Chunk(bytes, until_sent) => {
                self.send_chunk(id, bytes, Held { until_sent, ..held }).await;
                Ok(())
            }
        };
        if answered.is_err() {
            self.close();
        }
    }

    /// Queues an answer of any size.
    async fn reply(&self, id: u32, response: &Response, mut held: Held) -> std::io::Result<()> {
        let body = encoded(response)?;
        if body.len() <= LARGE_ANSWER {
            held.room = None;
        } else if held.room.is_none() {
            // Nobody foresaw it.
            let room = body.len().min(BULK_ROOM) as u32;
            held.room = Arc::clone(&self.room).acquire_many_owned(room).await.ok();
        }
        self.answer(id, body, held)
    }

    fn answer(&self, id: u32, body: Bytes, held: Held) -> std::io::Result<()> {
        let header = Header { kind: Kind::Response, len: body.len() as u32, flags: 0, id, plain_len: 0 };
        let large = body.len() > LARGE_ANSWER;
        let frame = Outgoing { header, body, held };
        if large {
            self.outbox.bulk(frame);
        } else if !self.outbox.control(frame) {
            return Err(std::io::Error::other("the peer asks and does not read"));
        }
        Ok(())
    }

    async fn send_chunk(&self, id: u32, plain: Bytes, held: Held) {
        let plain_len = plain.len() as u32;
        let pays = compress::pays_on(self.rate.load(Ordering::Relaxed), self.rtt_micros.load(Ordering::Relaxed));
        let (body, flags) = if pays {
            let original = plain.clone();
            let packed = tokio::task::spawn_blocking(move || compress::compress(&original)).await;
            match packed.ok().flatten() {
                Some(packed) => (Bytes::from(packed), FLAG_SNAPPY),
                None => (plain, 0),
            }
        } else {
            (plain, 0)
        };
        let header = Header { kind: Kind::Bulk, len: body.len() as u32, flags, id, plain_len };
        self.outbox.bulk(Outgoing { header, body, held });
    }

    // ---- Asking.

    async fn ask(&self, request: &Request) -> Result<Reply, LinkError> {
        let body = rmp_serde::to_vec(request).map_err(|_| LinkError::Protocol)?;
        if body.len() > MAX_FRAME {
            return Err(LinkError::Protocol);
        }
        // Signs of life must not wait for others.
        let _place = match request {
            Request::Ping => None,
            _ => Some(tokio::select! {
                place = self.asking.acquire() => place.map_err(|_| LinkError::Closed)?,
                () = self.closed() => return Err(LinkError::Closed),
            }),
        };
        self.note_use(request);
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (waiter, answer) = oneshot::channel();
        self.waiting.lock().insert(id, waiter);
        let pending = Pending { session: self, id };
        if self.is_closed() {
            return Err(LinkError::Closed);
        }
        let header = Header { kind: Kind::Request, len: body.len() as u32, flags: 0, id, plain_len: 0 };
        if !self.outbox.control(Outgoing { header, body: body.into(), held: Held::default() }) {
            return Err(LinkError::Busy);
        }
        let answer = answer.await.unwrap_or(Err(LinkError::Closed));
        drop(pending);
        answer
    }
}

fn encoded(response: &Response) -> std::io::Result<Bytes> {
    let body = rmp_serde::to_vec(response).map_err(std::io::Error::other)?;
    if body.len() <= MAX_FRAME {
        return Ok(body.into());
    }
    // The hashes of a huge file, say: that it can't be had is no reason to end everything else.
    tracing::debug!(bytes = body.len(), "an answer that is too long for a frame is refused");
    Ok(rmp_serde::to_vec(&Response::Refused).map_err(std::io::Error::other)?.into())
}

/// Tells the other side when nobody waits any more.
struct Pending<'a> {
    session: &'a Session,
    id: u32,
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        if self.session.waiting.lock().remove(&self.id).is_some() && !self.session.is_closed() {
            let header = Header { kind: Kind::Cancel, len: 0, flags: 0, id: self.id, plain_len: 0 };
            self.session.outbox.control(Outgoing { header, body: Bytes::new(), held: Held::default() });
        }
    }
}

#[async_trait]
impl PeerLink for Session {
    fn node(&self) -> NodeId {
        self.node
    }

    fn network(&self) -> NetworkId {
        self.network
    }

    fn kind(&self) -> SessionKind {
        self.kind
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn we_called(&self) -> bool {
        self.noise.is_initiator()
    }

    fn remote(&self) -> PeerAddr {
        PeerAddr::Tcp(self.remote)
    }

    fn addrs(&self) -> &[PeerAddr] {
        &self.addrs
    }

    fn passes_calls(&self) -> bool {
        self.capabilities & PASSES_CALLS != 0
    }

    async fn request(&self, request: Request) -> Result<Response, LinkError> {
        match self.ask(&request).await? {
            Reply::Message(response) => Ok(response),
            Reply::Chunk(_) => Err(self.broken()),
        }
    }

    async fn chunk(&self, content: ContentId, index: u64) -> Result<RawChunk, LinkError> {
        match self.ask(&Request::Chunk { content, index }).await? {
            Reply::Chunk(chunk) => Ok(chunk),
            Reply::Message(_) => Err(self.broken()),
        }
    }

    fn notify(&self, notice: Notice) {
        if let Ok(body) = rmp_serde::to_vec(&notice)
            && body.len() <= MAX_FRAME
        {
            let header = Header { kind: Kind::Notice, len: body.len() as u32, flags: 0, id: 0, plain_len: 0 };
            self.outbox.control(Outgoing { header, body: body.into(), held: Held::default() });
        }
    }

    fn is_closed(&self) -> bool {
        *self.over.borrow()
    }

    async fn closed(&self) {
        // The sender is in `self`: this can't fail before it is true.
        let _ = self.over.subscribe().wait_for(|over| *over).await;
    }

    fn close(&self) {
        self.over.send_replace(true);
        self.serving.cancel_all();
        let waiting: Vec<Waiter> = self.waiting.lock().drain().map(|(_, waiter)| waiter).collect();
        for waiter in waiting {
            let _ = waiter.send(Err(LinkError::Closed));
        }
    }

    fn stats(&self) -> LinkStats {
        LinkStats {
            received: self.received.load(Ordering::Relaxed),
            sent: self.sent.load(Ordering::Relaxed),
            rtt_micros: self.rtt_micros.load(Ordering::Relaxed),
        }
    }

    fn unused_for(&self) -> Duration {
        // What takes long is in use until it is done; a ping takes a moment.
        if !self.waiting.lock().is_empty() || !self.serving.is_empty() {
            return Duration::ZERO;
        }
        Duration::from_millis(self.elapsed().saturating_sub(self.used.load(Ordering::Relaxed)))
    }
}

impl Session {
    fn broken(&self) -> LinkError {
        self.close();
        LinkError::Protocol
    }
}

//! A large network for `scripts/bench-crowd`: many members in one process, with real sessions, real gossip and real signed
//! catalogs, but one book of catalogs for all of them, as a machine has not the memory of a thousand.
//!
//! Usage: crowd INVITE-FILE FIRST-IP NODES ENTRIES. Node n listens on FIRST-IP + n, port 7450. Says "ready" on stdout. Lines on
//! stdin: `share NUMBER NAME` has a node publish one more file; `kill NUMBER` has one fall silent.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use async_trait::async_trait;
use ed25519_dalek::{Signer, SigningKey};
use flashget::base::clock::Timestamp;
use flashget::base::ids::{ContentId, NodeId, Root};
use flashget::base::names::ValidPath;
use flashget::catalog::book::CatalogBook;
use flashget::catalog::entry::Entry;
use flashget::catalog::own;
use flashget::members::comparing::{ahead, answer_sums, news};
use flashget::members::gossip::swim::{Swim, TELL};
use flashget::members::neighbours::neighbours;
use flashget::net::dial::dial;
use flashget::net::handshake::{Access, Identity, Kind};
use flashget::net::link::{Answer, PeerAddr, PeerLink, Service};
use flashget::net::listen::Listener;
use flashget::vault::datagram::DatagramSealer;
use flashget::vault::invite;
use flashget::wire::message::{CatalogAnswer, MemberRecord, Notice, Request, Response};
use parking_lot::Mutex;
use tokio::net::UdpSocket;
use tokio::sync::watch;

type Failure = Box<dyn std::error::Error>;

struct Crowd {
    book: Mutex<CatalogBook>,
    access: Access,
    sealer: DatagramSealer,
}

struct Member {
    crowd: Arc<Crowd>,
    number: usize,
    node: NodeId,
    key: SigningKey,
    addr: SocketAddr,
    swim: Mutex<Swim>,
    socket: UdpSocket,
    silent: AtomicBool,
    links: Mutex<HashMap<NodeId, Arc<dyn PeerLink>>>,
    listener: Mutex<Option<Listener>>,
}

fn wall() -> u32 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs() as u32)
}

fn entry(node: usize, number: usize) -> Result<Entry, Failure> {
    let kinds = ["iso", "tar.gz", "pdf", "jpg", "txt"];
    let folder = ["projects", "images", "papers", "music"][number / 7 % 4];
    let path = format!("{folder}/team-{:02}/node{node:04}/item-{number:06}.{}", node % 40, kinds[number % 5]);
    let hash = blake3::hash(path.as_bytes());
    Ok(Entry {
        path: ValidPath::new(path.as_bytes())?,
        content: ContentId { root: Root(*hash.as_bytes()), size: 1000 + (number as u64 * 7919) % 5_000_000 },
        mtime: Timestamp { secs: 1_700_000_000 + number as i64, nanos: 123_456_789 },
        executable: false,
    })
}

impl Member {
    fn flush(&self) {
        let (letters, _) = self.swim.lock().take();
        if self.silent.load(Ordering::Relaxed) {
            return;
        }
        for (to, letter) in letters {
            if let Ok(sealed) = self.crowd.sealer.seal(&letter, wall()) {
                // What can't be sent now is lost, as datagrams are.
                let _ = self.socket.try_send_to(&sealed, to);
            }
        }
    }

    async fn receive(self: Arc<Self>) {
        let mut buffer = [0; 2048];
        while let Ok((len, from)) = self.socket.recv_from(&mut buffer).await {
            if self.silent.load(Ordering::Relaxed) {
                continue;
            }
            if let Ok((sent, letter)) = self.crowd.sealer.open(&buffer[..len], wall()) {
                self.swim.lock().receive(&letter, Some((from, sent)), wall(), Instant::now());
                self.flush();
            }
        }
    }

    fn members(&self) -> Vec<MemberRecord> {
        self.swim.lock().records()
    }
}

struct Door(Arc<Member>);

#[async_trait]
impl Service for Door {
    async fn connected(&self, link: Arc<dyn PeerLink>) {
        self.0.links.lock().insert(link.node(), link);
    }

    async fn request(&self, _: &Arc<dyn PeerLink>, request: Request) -> Answer {
        let member = &self.0;
        if member.silent.load(Ordering::Relaxed) {
            return std::future::pending().await;
        }
        Answer::Message(match request {
            Request::Sums(theirs) => {
                let records = member.members();
                let (catalogs, members) = answer_sums(member.crowd.book.lock().sums(), &records, theirs);
                Response::Sums { catalogs, members }
            }
            Request::Versions { buckets, versions } => {
                let ours = member.crowd.book.lock().versions();
                Response::Versions(ahead(ours, buckets.into(), &versions))
            }
            Request::Members { buckets, members } => {
                let ours = news(member.members(), buckets.into(), &members);
                member.swim.lock().learn(&members, members.len() <= TELL, wall(), Instant::now());
                Response::Members(ours)
            }
            Request::Catalog(request) => {
                let copy = member.crowd.book.lock().get(request.node).cloned();
                Response::Catalog(copy.map_or(CatalogAnswer::UpToDate, |copy| copy.answer(&request)))
            }
            _ => Response::Refused,
        })
    }

    async fn notice(&self, link: &Arc<dyn PeerLink>, notice: Notice) {
        if matches!(notice, Notice::Bye | Notice::Idle) {
            link.close();
        }
    }
}

/// Keeps sessions with whoever of the strangers this member would choose as a neighbour.
async fn call_neighbours(member: Arc<Member>, crowd: Arc<Vec<NodeId>>, identity: Identity) {
    loop {
        tokio::time::sleep(Duration::from_secs(2)).await;
        let records = member.members();
        let live: Vec<&MemberRecord> =
            records.iter().filter(|record| !record.down && record.node != member.node).collect();
        for node in neighbours(&member.node, live.iter().map(|record| &record.node), 16) {
            let open = member.links.lock().get(&node).is_some_and(|link| !link.is_closed());
            // Sessions within the crowd would only cost memory.
            if open || crowd.binary_search(&node).is_ok() {
                continue;
            }
            let Some(record) = live.iter().find(|record| record.node == node) else { continue };
            let door = Arc::new(Door(Arc::clone(&member)));
            if let Ok(link) = dial(PeerAddr::Tcp(record.addr), &identity, &member.crowd.access, Some(node), door).await
            {
                member.links.lock().insert(node, link);
            }
        }
    }
}

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [invite_file, first, nodes, entries] = words.as_slice() else {
        return Err("usage: crowd INVITE-FILE FIRST-IP NODES ENTRIES".into());
    };
    let network = invite::read(std::fs::read_to_string(invite_file)?.trim())?;
    let (first, nodes, entries): (Ipv4Addr, usize, usize) = (first.parse()?, nodes.parse()?, entries.parse()?);
    let access =
        Access { network: network.id(), psk: network.member_psk().ok_or("only a tracker's key")?, kind: Kind::Member };
    let sealer = DatagramSealer::new(&network.gossip_key().ok_or("only a tracker's key")?);
    let book = CatalogBook::new(network.id(), NodeId([0; 32]));
    let crowd = Arc::new(Crowd { book: Mutex::new(book), access: access.clone(), sealer });
    let directory = Arc::default();
    let mut members = Vec::new();
    let accesses = watch::channel(vec![access]).1;
    let mut identities = Vec::new();
    for number in 0..nodes {
        let seed = *blake3::hash(&(number as u64).to_le_bytes()).as_bytes();
        let key = SigningKey::from_bytes(&seed);
        let node = NodeId(key.verifying_key().to_bytes());
        let addr = SocketAddr::new(Ipv4Addr::from(u32::from(first) + number as u32).into(), 7450);
        let mut all = (0..entries).map(|at| entry(number, at)).collect::<Result<Vec<_>, _>>()?;
        all.sort_by(|a, b| a.path.cmp(&b.path));
        let sign = |message: &[u8]| key.sign(message).to_bytes();
        let copy = own::begin_beyond(network.id(), node, 0, &all, Timestamp::now(), &sign)?;
        crowd.book.lock().put(Arc::new(copy));
        let swim = Swim::new(node, addr, Arc::clone(&directory), seed, wall(), Instant::now()).ok_or("too many")?;
        let socket = UdpSocket::bind(addr).await?;
        let signer = key.clone();
        let identity = Identity {
            node,
            sign: Arc::new(move |message: &[u8]| signer.sign(message).to_bytes()),
            name: format!("crowd-{number}"),
            listens: vec![addr],
        };
        let member = Arc::new(Member {
            crowd: Arc::clone(&crowd),
            number,
            node,
            key,
            addr,
            swim: Mutex::new(swim),
            socket,
            silent: false.into(),
            links: Mutex::default(),
            listener: Mutex::default(),
        });
        let door = Arc::new(Door(Arc::clone(&member)));
        let own_identity = watch::channel(identity.clone()).1;
        *member.listener.lock() = Some(Listener::bind(addr, own_identity, accesses.clone(), door).await?);
        identities.push(identity);
        members.push(member);
    }
    let records: Vec<MemberRecord> = members
        .iter()
        .map(|member| MemberRecord {
            node: member.node,
            generation: wall(),
            incarnation: 0,
            down: false,
            addr: member.addr,
        })
        .collect();
    let mut ids: Vec<NodeId> = members.iter().map(|member| member.node).collect();
    ids.sort();
    let ids = Arc::new(ids);
    for (member, identity) in members.iter().zip(identities) {
        member.swim.lock().learn(&records, false, wall(), Instant::now());
        tokio::spawn(Arc::clone(member).receive());
        tokio::spawn(call_neighbours(Arc::clone(member), Arc::clone(&ids), identity));
        let member = Arc::clone(member);
        tokio::spawn(async move {
            loop {
                let next = {
                    let mut swim = member.swim.lock();
                    swim.tick(wall(), Instant::now());
                    swim.next()
                };
                member.flush();
                let soon = Instant::now() + Duration::from_millis(200);
                tokio::time::sleep_until(next.unwrap_or(soon).min(soon).into()).await;
            }
        });
    }
    println!("ready");
    let mut line = String::new();
    let (lines, mut commands) = tokio::sync::mpsc::channel::<String>(16);
    std::thread::spawn(move || {
        while std::io::stdin().read_line(&mut line).is_ok_and(|len| len > 0) {
            if lines.blocking_send(std::mem::take(&mut line)).is_err() {
                break;
            }
        }
    });
    while let Some(command) = commands.recv().await {
        let words: Vec<&str> = command.split_whitespace().collect();
        match words.as_slice() {
            ["share", number, name] => {
                let member = members.get(number.parse::<usize>()?).ok_or("no such node")?;
                share(&members, member, name)?;
            }
            ["kill", number] => {
                let member = members.get(number.parse::<usize>()?).ok_or("no such node")?;
                member.silent.store(true, Ordering::Relaxed);
                member.listener.lock().take();
                member.links.lock().drain().for_each(|(_, link)| link.close());
            }
            _ => return Err(format!("not a command: {command}").into()),
        }
    }
    Ok(())
}

fn share(members: &[Arc<Member>], member: &Member, name: &str) -> Result<(), Failure> {
    let sign = |message: &[u8]| member.key.sign(message).to_bytes();
    let mut copy = (**member.crowd.book.lock().get(member.node).ok_or("no catalog")?).clone();
    let mut all: Vec<Entry> = copy.entries().filter_map(|entry| entry.to_entry()).collect();
    let mut one = entry(member.number, 0)?;
    one.path = ValidPath::new(name.as_bytes())?;
    all.push(one);
    all.sort_by(|a, b| a.path.cmp(&b.path));
    own::publish(&mut copy, &all, Timestamp::now(), &sign)?;
    let version = copy.version();
    member.crowd.book.lock().put(Arc::new(copy));
    // Everybody in the crowd has it at once; those who have sessions with others tell them.
    for member in members {
        for link in member.links.lock().values().filter(|link| !link.is_closed()) {
            link.notify(Notice::Versions(vec![version]));
        }
    }
    Ok(())
}

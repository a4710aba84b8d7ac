//! The list of nodes in etcd, so that any number of trackers serve the same networks.
//!
//! A node is a key under a lease, which is kept alive as its pings come: whoever falls silent runs out. Each tracker lists
//! all keys once and then follows what changes (a watch), and so answers pings from memory; whatever goes wrong on the way
//! ends in a new list, from the next server, that is compared with what is known. While no server can be reached, everything
//! stays as it is, and what happens meanwhile is made good afterwards. No ping waits for any of this.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use etcd_client::{
    Certificate, Client, ConnectOptions, Error, EventType, GetOptions, Identity, KeyValue, PutOptions, TlsOptions,
    WatchOptions,
};
use futures_util::StreamExt;
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use zeroize::Zeroizing;

use super::store::{EtcdAt, Store, StoreReport};
use super::table::{DROP_AFTER, MAX_ADDRS, MAX_NODES};
use super::tables::Tables;
use crate::base::ids::{NetworkId, NodeId};
use crate::net::handshake::Access;

/// All keys: `/flashget/NETWORK/NODE`, both in hexadecimal.
const PREFIX: &str = "/flashget/";
/// The first byte of each value; what follows is the addresses in MessagePack.
const VERSION: u8 = 1;
/// Bytes of a value: 16 addresses have less.
const MAX_VALUE: usize = 2048;
/// A lease ends when nothing has been heard of its node for as long as a tracker alone would wait.
const LEASE: Duration = DROP_AFTER;
/// Keys that one answer brings: a megabyte or so.
const LISTED: i64 = 2000;
/// Requests to etcd at once.
const AT_ONCE: usize = 32;
/// Nodes of which etcd has not been told yet; of more, it is told when the next list is compared.
const MAX_TO_TELL: usize = 2 * MAX_NODES;
/// Connecting to a server, or one request, may take this long; then the next server is tried.
const PATIENCE: Duration = Duration::from_secs(2);
/// The connection is looked at this often, so that a server that is there and does nothing is noticed.
const ALIVE: Duration = Duration::from_secs(2);
/// Before the next server is tried.
const PAUSE: Duration = Duration::from_millis(300);
/// The gRPC code of what is not there.
const NOT_FOUND: i32 = 5;

type Key = (NetworkId, NodeId);

/// How servers let us in, read from files.
pub struct Door {
    hosts: Vec<String>,
    tls: Option<TlsOptions>,
    user: Option<(String, Zeroizing<String>)>,
}

impl Door {
    /// Reads the files. Blocks.
    pub fn open(at: &EtcdAt) -> Result<Self, String> {
        let read = |file: &std::path::Path| {
            std::fs::read_to_string(file).map(Zeroizing::new).map_err(|error| format!("{}: {error}", file.display()))
        };
        let tls = match &at.ca {
            None => None,
            Some(ca) => {
                let mut tls = TlsOptions::new().ca_certificate(Certificate::from_pem(read(ca)?.as_bytes()));
                if let Some((cert, key)) = &at.own {
                    tls = tls.identity(Identity::from_pem(read(cert)?.as_bytes(), read(key)?.as_bytes()));
                }
                Some(tls)
            }
        };
        let user = match &at.user {
            None => None,
            Some((name, file)) => {
                let text = read(file)?;
                Some((name.clone(), Zeroizing::new(text.lines().next().unwrap_or_default().to_owned())))
            }
        };
        Ok(Self { hosts: at.hosts.clone(), tls, user })
    }

    async fn connect(&self, host: &str) -> Result<Client, Error> {
        let mut options = ConnectOptions::new()
            .with_connect_timeout(PATIENCE)
            .with_keep_alive(ALIVE, PATIENCE)
            .with_keep_alive_while_idle(true)
            // A server that has lost the others says so, rather than show an old world.
            .with_require_leader(true)
            .with_auto_token_refresh(true);
        if let Some((name, password)) = &self.user {
            options = options.with_user(name, password.as_str());
        }
        let scheme = match &self.tls {
            Some(tls) => {
                options = options.with_tls(tls.clone());
                "https"
            }
            None => "http",
        };
        Client::connect([format!("{scheme}://{host}")], Some(options)).await
    }
}

/// A key in etcd, as far as is known.
#[derive(Clone, Copy)]
struct Leased {
    lease: i64,
    kept: Instant,
}

/// What etcd is to be told of a node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Tell {
    Here,
    Keep,
    Gone,
}

#[derive(Default)]
struct Known {
    keys: HashMap<Key, Leased>,
    to_tell: HashMap<Key, Tell>,
    problem: Option<String>,
}

impl Known {
    fn tell(&mut self, key: Key, what: Tell) {
        if self.to_tell.len() < MAX_TO_TELL || self.to_tell.contains_key(&key) {
            self.to_tell.insert(key, what);
        }
    }
}

/// See the module.
pub struct Etcd {
    door: Door,
    tables: Tables,
    known: Mutex<Known>,
    news: Notify,
}

impl Store for Etcd {
    fn pinged(&self, network: NetworkId, node: NodeId, news: bool, now: Instant) {
        let mut known = self.known.lock();
        let what = match known.keys.get_mut(&(network, node)) {
            Some(leased) if !news => {
                // Not more often than needed.
                if now.saturating_duration_since(leased.kept) < LEASE / 3 {
                    return;
                }
                leased.kept = now;
                Tell::Keep
            }
            _ => Tell::Here,
        };
        known.tell((network, node), what);
        drop(known);
        self.news.notify_one();
    }

    fn left(&self, network: NetworkId, node: NodeId) {
        self.known.lock().tell((network, node), Tell::Gone);
        self.news.notify_one();
    }

    fn report(&self) -> StoreReport {
        let problem = self.known.lock().problem.clone();
        StoreReport { kind: "etcd".into(), healthy: problem.is_none(), problem }
    }
}

impl Etcd {
    /// Begins to follow etcd, for as long as somebody holds what is returned.
    pub fn start(door: Door, tables: Tables, accesses: watch::Receiver<Vec<Access>>) -> Arc<Self> {
        let known = Known { problem: Some("not connected yet".into()), ..Known::default() };
        let store = Arc::new(Self { door, tables, known: Mutex::new(known), news: Notify::new() });
        tokio::spawn(Box::pin(follow(Arc::downgrade(&store), accesses)));
        store
    }

    /// One connection with one server, from the list until something goes wrong or the networks change.
    async fn converse(&self, host: &str, accesses: &mut watch::Receiver<Vec<Access>>) -> Result<(), Error> {
        let served: HashSet<NetworkId> = accesses.borrow_and_update().iter().map(|access| access.network).collect();
        let mut client = in_time(self.door.connect(host)).await?;
        let (listed, revision) = self.list(&mut client, &served).await?;
        let options = WatchOptions::new().with_prefix().with_start_revision(revision + 1);
        let mut changes = in_time(client.watch(PREFIX, Some(options))).await?;
        self.compare(listed);
        if self.known.lock().problem.take().is_some() {
            tracing::info!(server = host, "etcd is followed");
        }
        let telling = self.keep_telling(&client);
        tokio::pin!(telling);
        loop {
            tokio::select! {
                change = changes.message() => {
                    let Some(change) = change? else { return Err(Error::WatchError("the watch ended".into())) };
                    if change.canceled() {
                        // What it should begin with was compacted away, say.
                        return Err(Error::WatchError(change.cancel_reason().to_owned()));
                    }
                    for event in change.events() {
                        if let Some(kv) = event.kv() {
                            self.changed(kv, event.event_type() == EventType::Delete, &served);
                        }
                    }
                }
                told = &mut telling => return told,
                _ = accesses.changed() => return Ok(()),
            }
        }
    }

    async fn list(
        &self,
        client: &mut Client,
        served: &HashSet<NetworkId>,
    ) -> Result<(HashMap<Key, (i64, Box<[SocketAddr]>)>, i64), Error> {
        let (mut all, mut from, mut revision) = (HashMap::new(), PREFIX.as_bytes().to_vec(), 0);
        // The end of all keys with the prefix: its last byte is no 0xff.
        let end = [&PREFIX.as_bytes()[..PREFIX.len() - 1], b"0"].concat();
        loop {
            let options = GetOptions::new().with_range(end.clone()).with_limit(LISTED).with_revision(revision);
            let answer = in_time(client.get(from.clone(), Some(options))).await?;
            if revision == 0 {
                revision = answer.header().map_or(0, |header| header.revision());
            }
            for kv in answer.kvs() {
                if let Some((key, addrs)) = read(kv, served)
                    && all.len() < MAX_NODES
                {
                    all.insert(key, (kv.lease(), addrs));
                }
            }
            match answer.kvs().last() {
                Some(last) if answer.more() => from = [last.key(), &[0]].concat(),
                _ => return Ok((all, revision)),
            }
        }
    }

    /// Brings what is known and what is there together.
    fn compare(&self, listed: HashMap<Key, (i64, Box<[SocketAddr]>)>) {
        let now = Instant::now();
        let missing: Vec<Key> = {
            let tables = self.tables.lock();
            let nodes = tables.iter().flat_map(|(network, table)| table.nodes().map(|node| (*network, node)));
            nodes.filter(|key| !listed.contains_key(key)).collect()
        };
        let kept = now.checked_sub(LEASE).unwrap_or(now);
        let keys = listed.iter().map(|(key, (lease, _))| (*key, Leased { lease: *lease, kept })).collect();
        self.known.lock().keys = keys;
        for ((network, node), (_, addrs)) in listed {
            self.tables.with(network, |table| table.learn(node, addrs, now));
        }
        for (network, node) in missing {
            if self.tables.with(network, |table| table.lose(node, now)) {
                self.known.lock().tell((network, node), Tell::Here);
            }
        }
    }

    fn changed(&self, kv: &KeyValue, gone: bool, served: &HashSet<NetworkId>) {
        let now = Instant::now();
        if gone {
            let Some((network, node)) = read_key(kv.key()).filter(|(network, _)| served.contains(network)) else {
                return;
            };
            self.known.lock().keys.remove(&(network, node));
            if self.tables.with(network, |table| table.lose(node, now)) {
                self.known.lock().tell((network, node), Tell::Here);
                self.news.notify_one();
            }
        } else if let Some(((network, node), addrs)) = read(kv, served) {
            let mut known = self.known.lock();
            if known.keys.len() < MAX_NODES || known.keys.contains_key(&(network, node)) {
                known.keys.insert((network, node), Leased { lease: kv.lease(), kept: now });
            }
            drop(known);
            self.tables.with(network, |table| table.learn(node, addrs, now));
        }
    }

    /// Tells etcd what is to be told. Ends when that fails; what was not told is told again then.
    async fn keep_telling(&self, client: &Client) -> Result<(), Error> {
        loop {
            let some: Vec<(Key, Tell)> = {
                let mut known = self.known.lock();
                let keys: Vec<Key> = known.to_tell.keys().copied().take(AT_ONCE * 8).collect();
                keys.into_iter().filter_map(|key| Some((key, known.to_tell.remove(&key)?))).collect()
            };
            if some.is_empty() {
                self.news.notified().await;
                continue;
            }
            let telling = futures_util::stream::iter(some).map(|(key, what)| {
                let mut client = client.clone();
                async move {
                    let told = in_time(self.tell(&mut client, key, what)).await;
                    if told.is_err() {
                        // Unless there is something newer to tell.
                        self.known.lock().to_tell.entry(key).or_insert(what);
                    }
                    told
                }
            });
            let told: Vec<Result<(), Error>> = telling.buffer_unordered(AT_ONCE).collect().await;
            told.into_iter().collect::<Result<Vec<()>, Error>>()?;
        }
    }

    async fn tell(&self, client: &mut Client, key: Key, what: Tell) -> Result<(), Error> {
        let (network, node) = key;
        let lease = self.known.lock().keys.get(&key).map(|leased| leased.lease).filter(|lease| *lease != 0);
        match what {
            Tell::Gone => client.delete(write_key(key), None).await.map(drop),
            Tell::Keep => match lease {
                Some(lease) => match client.lease_keep_alive(lease).await {
                    Ok(_) => Ok(()),
                    // It has run out, or was another tracker's and has been replaced meanwhile.
                    Err(Error::LeaseKeepAliveError(_)) => self.put(client, key, None).await,
                    Err(error) => Err(error),
                },
                None => self.put(client, key, None).await,
            },
            Tell::Here => {
                if self.tables.with(network, |table| table.addrs(node).is_none()) {
                    // It has gone meanwhile.
                    return Ok(());
                }
                self.put(client, key, lease).await
            }
        }
    }

    async fn put(&self, client: &mut Client, key: Key, lease: Option<i64>) -> Result<(), Error> {
        let Some(value) = self.tables.with(key.0, |table| table.addrs(key.1).and_then(write_value)) else {
            return Ok(());
        };
        if let Some(lease) = lease {
            let put = client.put(write_key(key), value.clone(), Some(PutOptions::new().with_lease(lease))).await;
            // Of a lease that has run out meanwhile etcd says that it is not found.
            match put {
                Err(Error::GRpcStatus(status)) if status.code() as i32 == NOT_FOUND => {}
                other => return other.map(drop),
            }
        }
        let lease = client.lease_grant(LEASE.as_secs() as i64, None).await?.id();
        client.put(write_key(key), value, Some(PutOptions::new().with_lease(lease))).await?;
        let mut known = self.known.lock();
        if known.keys.len() < MAX_NODES {
            known.keys.insert(key, Leased { lease, kept: Instant::now() });
        }
        Ok(())
    }
}

/// Goes from server to server, for ever.
async fn follow(store: std::sync::Weak<Etcd>, mut accesses: watch::Receiver<Vec<Access>>) {
    for turn in 0.. {
        let Some(store) = store.upgrade() else { return };
        let host = &store.door.hosts[turn % store.door.hosts.len()];
        if let Err(error) = Box::pin(store.converse(host, &mut accesses)).await {
            let problem = format!("{host}: {error}");
            let mut known = store.known.lock();
            if known.problem.is_none() {
                tracing::warn!(%error, server = host.as_str(), "etcd can't be followed: nodes stay as they are");
            }
            known.problem = Some(problem);
        }
        drop(store);
        tokio::time::sleep(PAUSE).await;
    }
}

async fn in_time<T>(what: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    match tokio::time::timeout(PATIENCE, what).await {
        Ok(done) => done,
        Err(_) => Err(Error::IoError(std::io::ErrorKind::TimedOut.into())),
    }
}

fn write_key((network, node): Key) -> String {
    format!("{PREFIX}{network}/{node}")
}

fn read_key(key: &[u8]) -> Option<Key> {
    let (network, node) = std::str::from_utf8(key).ok()?.strip_prefix(PREFIX)?.split_once('/')?;
    Some((network.parse().ok()?, node.parse().ok()?))
}

fn write_value(addrs: &[SocketAddr]) -> Option<Vec<u8>> {
    let mut value = vec![VERSION];
    rmp_serde::encode::write(&mut value, addrs).ok()?;
    Some(value)
}

/// What another writer put there, if it is what a tracker would put, and for a network that is served here.
fn read(kv: &KeyValue, served: &HashSet<NetworkId>) -> Option<(Key, Box<[SocketAddr]>)> {
    let key = read_key(kv.key()).filter(|(network, _)| served.contains(network))?;
    Some((key, read_value(kv.value())?))
}

fn read_value(value: &[u8]) -> Option<Box<[SocketAddr]>> {
    let (version, addrs) = value.split_first()?;
    if *version != VERSION || value.len() > MAX_VALUE {
        return None;
    }
    let mut addrs: Vec<SocketAddr> = rmp_serde::from_slice(addrs).ok()?;
    addrs.truncate(MAX_ADDRS);
    Some(addrs.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_nothing_else() {
        let key = (NetworkId([1; 32]), NodeId([0xab; 32]));
        let text = write_key(key);
        assert_eq!(text, format!("/flashget/{}/{}", "01".repeat(32), "ab".repeat(32)));
        assert_eq!(read_key(text.as_bytes()), Some(key));
        for wrong in ["/flashget/", "/flashget/x/y", &text[1..], &text[..text.len() - 1], &format!("{text}/")] {
            assert_eq!(read_key(wrong.as_bytes()), None, "{wrong}");
        }
        assert_eq!(read_key(b"/flashget/\xff"), None);
        let addrs: Vec<SocketAddr> = (0..20).map(|port| ([255, 255, 255, 255], 60_000 + port).into()).collect();
        let value = write_value(&addrs).unwrap();
        assert!(value.len() < MAX_VALUE);
        assert_eq!(read_value(&value), Some(addrs[..MAX_ADDRS].into()));
        assert_eq!(read_value(&[]), None);
        assert_eq!(read_value(&[&[2], &value[1..]].concat()), None, "another version");
        assert_eq!(read_value(&value[..value.len() - 1]), None, "cut off");
        assert_eq!(read_value(&write_value(&addrs.repeat(50)).unwrap()), None, "too long");
    }
}

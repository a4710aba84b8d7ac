//! What a transfer tells of itself: to `flashget transfers`, to the page, to the log. Numbers only, no names of files.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::base::ids::{ContentId, NodeId};
use crate::base::ranges::Ranges;

/// How a transfer stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TransferState {
    /// Chunks are wanted or on their way.
    Active,
    /// Nothing is wanted at the moment; the file is open.
    Idle,
    /// No handle is open any more.
    Ended,
}

/// What keeps a source, or a whole transfer, from being faster at the moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Limit {
    /// Nothing is wanted of it: the reader or the disk behind it is the slower part, or everything is here.
    Reader,
    /// It has not answered yet, or nothing is known of its speed yet.
    Starting,
    /// Its link, or its upload: it is asked for as much as it brings.
    Link,
    /// It does not hold what is still wanted.
    Holdings,
    /// It is too slow for the window of the reader: what it brought would come late.
    TooSlow,
    /// It says that it has too much to do.
    Busy,
    /// It has brought nothing for longer than it should have; it is tried again now and then.
    Stalled,
    /// What is here waits for the hashes that prove it.
    Proof,
    /// Its file has changed, or it refuses.
    Useless,
    /// It sent wrong bytes.
    Quarantined,
    /// It is not connected; for a transfer: nobody has what is wanted.
    NoSource,
}

/// One source's part in a transfer.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SourceReport {
    /// Who.
    pub node: NodeId,
    /// The name that it gave itself; escape before printing.
    pub name: String,
    /// True while it is connected and of use.
    pub live: bool,
    /// True if it is a downloader itself: no catalog lists it, and it holds more as it goes on.
    pub downloader: bool,
    /// Verified plain bytes that it brought.
    pub bytes: u64,
    /// Bytes on the wire for them.
    pub wire_bytes: u64,
    /// Chunks that it brought.
    pub chunks: u64,
    /// What it is to bring: its section and what is in flight.
    pub section: Ranges,
    /// What it has brought.
    pub brought: Ranges,
    /// Requests in flight.
    pub in_flight: usize,
    /// Bytes per second, smoothed; 0 if not measured.
    pub rate: u64,
    /// Round trip in microseconds; 0 if not measured.
    pub rtt_micros: u64,
    /// Chunks that were asked of it and had to be asked of another.
    pub retries: u64,
    /// Chunks that were asked of it although another had been asked for them, because that one was late.
    pub hedges: u64,
    /// Chunks of it that did not verify.
    pub bad: u64,
    /// What keeps it from bringing more.
    pub limit: Limit,
}

/// One file's transfer.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TransferReport {
    /// The file.
    pub content: ContentId,
    /// How it stands.
    pub state: TransferState,
    /// Verified bytes fetched so far, from all sources.
    pub bytes: u64,
    /// Chunks fetched so far.
    pub done: Ranges,
    /// Bytes per second: the sum of what its sources bring at the moment.
    pub rate: u64,
    /// Since it began.
    pub age: Duration,
    /// Since the last chunk came, if one came.
    pub quiet: Option<Duration>,
    /// Chunks that were asked for twice.
    pub hedges: u64,
    /// What keeps it from being faster.
    pub limit: Limit,
    /// Each source's part.
    pub sources: Vec<SourceReport>,
}

//! What a transfer knows, without peers.

use super::*;
use crate::base::ids::Root;
use crate::base::limits::MAX_FILE_SIZE;

#[test]
fn what_nobody_can_bring_was_looked_for_chunk_by_chunk() {
    let now = Instant::now();
    let content = ContentId { root: Root([1; 32]), size: MAX_FILE_SIZE };
    let mut state = State::new(content, 7, now);
    // A downloader that holds nothing yet.
    let slot = state.planner.arrives(Some(Ranges::new()), None, FIRST_REQUESTS, now);
    state.slots.insert(slot, NodeId([2; 32]));
    let (chunks, mut got) = mpsc::unbounded_channel();
    state.begin_download(state.all(), chunks, now);
    let began = Instant::now();
    state.watch_hopeless(now);
    assert_eq!(got.try_recv().ok().map(|answer| answer.err()), Some(Some(FetchError::NoSource)));
    // Four billion chunks take ten times as long, if each is asked about.
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    // As soon as it has one of them, there is hope.
    let last = chunk_count(content.size) - 1;
    state.planner.holds_more(slot, &Ranges::of(last..last + 1));
    assert!(!state.is_hopeless());
}

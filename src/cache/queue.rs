//! What waits to be written: bounded in bytes, and full means dropped, so that a slow disk never slows a reader.

use std::collections::VecDeque;

use parking_lot::{Condvar, Mutex};

struct Inner<T> {
    items: VecDeque<(T, usize)>,
    bytes: usize,
    /// Taken, and not reported as done yet.
    working: bool,
    closed: bool,
}

/// One consumer; any number of producers that never wait.
pub struct Queue<T> {
    inner: Mutex<Inner<T>>,
    limit: usize,
    changed: Condvar,
}

impl<T> Queue<T> {
    /// Holds at most `limit` bytes.
    pub fn new(limit: usize) -> Self {
        let inner = Inner { items: VecDeque::new(), bytes: 0, working: false, closed: false };
        Self { inner: Mutex::new(inner), limit, changed: Condvar::new() }
    }

    /// Puts an item of `bytes` in; false if there is no room.
    pub fn offer(&self, item: T, bytes: usize) -> bool {
        let mut inner = self.inner.lock();
        if inner.closed || inner.bytes + bytes > self.limit {
            return false;
        }
        inner.bytes += bytes;
        inner.items.push_back((item, bytes));
        drop(inner);
        self.changed.notify_all();
        true
    }

    /// Waits for the next item; `None` once the queue is closed and empty. Taking says that the last one is done.
    pub fn take(&self) -> Option<T> {
        let mut inner = self.inner.lock();
        inner.working = false;
        loop {
            if let Some((item, bytes)) = inner.items.pop_front() {
                inner.bytes -= bytes;
                inner.working = true;
                return Some(item);
            }
            self.changed.notify_all();
            if inner.closed {
                return None;
            }
            self.changed.wait(&mut inner);
        }
    }

    /// Waits until everything that was offered has been worked off.
    pub fn drain(&self) {
        let mut inner = self.inner.lock();
        while !inner.items.is_empty() || inner.working {
            self.changed.wait(&mut inner);
        }
    }

    /// Nothing more is accepted; what is in is still worked off.
    pub fn close(&self) {
        self.inner.lock().closed = true;
        self.changed.notify_all();
    }
}

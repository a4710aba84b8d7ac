//! The thread that serves all terse sessions: it sleeps until something has come on any of them, looks at all on which
//! something has, and rests for a moment, so that the next round finds several too: that costs less than to wake up for
//! each.

use std::io::{self, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token, Waker};
use parking_lot::Mutex;

use super::door::Place;
use super::figures::{Figures, Refusal};
use super::line::{Broken, ENOUGH, Line, Scratch};
use super::{Caller, Clerk};

/// The rest between two rounds: 2000 pings a second come 20 at a time, and an answer is not late for anybody.
const REST: Duration = Duration::from_millis(10);
/// How often it is looked for sessions that are idle, and the clerk told that time passes.
const SWEEP: Duration = Duration::from_secs(2);
/// Sessions that one look at the kernel's list brings.
const EVENTS: usize = 1024;
/// What one read takes at most.
const READ: usize = 64 * 1024;
/// Reads of one session in one round; others wait too.
const READS: usize = 4;
/// Bytes that all sessions together may have to write and to read which wait for a slow asker.
const MAX_WAITING: usize = 256 << 20;
const WAKE: Token = Token(usize::MAX);

/// A session whose handshake is done.
pub(super) struct Newcomer {
    pub stream: std::net::TcpStream,
    pub line: Line,
    pub caller: Caller,
    pub place: Place,
}

/// Where newcomers wait until they are seated. They have places, and so are as few as sessions may be.
pub(super) struct Desk {
    waker: Waker,
    newcomers: Mutex<Vec<Newcomer>>,
    over: AtomicBool,
}

impl Desk {
    pub fn seat(&self, newcomer: Newcomer) {
        self.newcomers.lock().push(newcomer);
        self.wake();
    }

    /// Ends the thread and all sessions.
    pub fn close(&self) {
        self.over.store(true, Ordering::Release);
        self.wake();
    }

    fn wake(&self) {
        if let Err(error) = self.waker.wake() {
            tracing::debug!(%error, "the thread that serves sessions is not woken before its next round");
        }
    }
}

struct Seat {
    stream: TcpStream,
    line: Line,
    caller: Caller,
    heard: Instant,
    /// Ciphertext that came and was not dealt with: part of a record, or what must wait until answers have been written.
    unread: Vec<u8>,
    /// Answers that the socket did not take.
    unsent: Vec<u8>,
    _place: Place,
}

impl Seat {
    fn waiting(&self) -> usize {
        self.unread.capacity() + self.unsent.capacity()
    }
}

/// What is to be done with a session after it was looked at.
enum After {
    Stay,
    /// There may be more to read.
    Again,
    Close(Option<Refusal>),
}

/// See the module.
pub(super) struct Rounds {
    poll: Poll,
    desk: Arc<Desk>,
    clerk: Arc<dyn Clerk>,
    idle: Duration,
    figures: Arc<Figures>,
    seats: Vec<Option<Box<Seat>>>,
    free: Vec<usize>,
    again: Vec<usize>,
    waiting: usize,
    scratch: Scratch,
    buffer: Box<[u8]>,
}

impl Rounds {
    /// Starts the thread.
    pub fn start(clerk: Arc<dyn Clerk>, idle: Duration, figures: Arc<Figures>) -> io::Result<Arc<Desk>> {
        let poll = Poll::new()?;
        let waker = Waker::new(poll.registry(), WAKE)?;
        let desk = Arc::new(Desk { waker, newcomers: Mutex::default(), over: AtomicBool::new(false) });
        let rounds = Self {
            poll,
            desk: Arc::clone(&desk),
            clerk,
            idle,
            figures,
            seats: Vec::new(),
            free: Vec::new(),
            again: Vec::new(),
            waiting: 0,
            scratch: Scratch::default(),
            buffer: vec![0; READ].into(),
        };
        std::thread::Builder::new().name("fg-terse".into()).spawn(move || rounds.run())?;
        Ok(desk)
    }

    fn run(mut self) {
        let mut events = Events::with_capacity(EVENTS);
        let mut swept = Instant::now();
        loop {
            let wait = if self.again.is_empty() { SWEEP } else { Duration::ZERO };
            match self.poll.poll(&mut events, Some(wait)) {
                Err(error) if error.kind() != io::ErrorKind::Interrupted => {
                    tracing::error!(%error, "waiting for sessions failed");
                    std::thread::sleep(SWEEP);
                }
                _ => {}
            }
            if self.desk.over.load(Ordering::Acquire) {
                // Newcomers hold the desk's places, not the desk.
                self.desk.newcomers.lock().clear();
                return;
            }
            let now = Instant::now();
            for number in std::mem::take(&mut self.again) {
                self.look(number, true, now);
            }
            for event in &events {
                if event.token() != WAKE {
                    self.look(event.token().0, event.is_read_closed(), now);
                }
            }
            self.seat_newcomers(now);
            if now.saturating_duration_since(swept) >= SWEEP {
                swept = now;
                self.sweep(now);
                self.clerk.tick();
            }
            std::thread::sleep(REST);
        }
    }

    fn seat_newcomers(&mut self, now: Instant) {
        let newcomers = std::mem::take(&mut *self.desk.newcomers.lock());
        for Newcomer { stream, line, caller, place } in newcomers {
            let mut stream = TcpStream::from_std(stream);
            let number = self.free.pop().unwrap_or_else(|| {
                self.seats.push(None);
                self.seats.len() - 1
            });
            // Told of once when something comes, and when what was full has room again.
            let both = Interest::READABLE | Interest::WRITABLE;
            if let Err(error) = self.poll.registry().register(&mut stream, Token(number), both) {
                tracing::warn!(%error, "a session can't be watched");
                self.free.push(number);
                continue;
            }
            let (unread, unsent) = (Vec::new(), Vec::new());
            self.seats[number] =
                Some(Box::new(Seat { stream, line, caller, heard: now, unread, unsent, _place: place }));
        }
    }

    /// Deals with one session. `to_the_end`: nobody will tell of what is there any more.
    fn look(&mut self, number: usize, to_the_end: bool, now: Instant) {
        // Its turn may have come after its end.
        let Some(mut seat) = self.seats.get_mut(number).and_then(Option::take) else { return };
        let before = seat.waiting();
        let after = self.serve(&mut seat, to_the_end, now);
        self.waiting = self.waiting + seat.waiting() - before;
        let after =
            if self.waiting > MAX_WAITING && seat.waiting() > 0 { After::Close(Some(Refusal::Unread)) } else { after };
        match after {
            After::Stay => self.seats[number] = Some(seat),
            After::Again => {
                self.seats[number] = Some(seat);
                self.again.push(number);
            }
            After::Close(why) => self.close(number, &seat, why),
        }
    }

    fn close(&mut self, number: usize, seat: &Seat, why: Option<Refusal>) {
        self.waiting -= seat.waiting();
        self.free.push(number);
        if let Some(why) = why {
            self.figures.refuse(why);
            tracing::debug!(node = %seat.caller.node.short(12), why = why.name(), "the session was closed");
        }
    }

    fn serve(&mut self, seat: &mut Seat, to_the_end: bool, now: Instant) -> After {
        if !seat.unsent.is_empty() {
            match write(&mut seat.stream, &seat.unsent) {
                Ok(written) => drop(seat.unsent.drain(..written)),
                Err(_) => return After::Close(None),
            }
            if !seat.unsent.is_empty() {
                return After::Stay;
            }
            seat.unsent = Vec::new();
        }
        // What waited until there was room for the answers, if anything did.
        let unread = std::mem::take(&mut seat.unread);
        if let Some(after) = self.answer(seat, &unread) {
            return after;
        }
        for _ in 0..READS {
            let got = match seat.stream.read(&mut self.buffer) {
                Ok(0) => return After::Close(None),
                Ok(got) => got,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return After::Stay,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => return After::Close(None),
            };
            seat.heard = now;
            let buffer = std::mem::take(&mut self.buffer);
            let answered = if seat.unread.is_empty() {
                self.answer(seat, &buffer[..got])
            } else {
                let mut data = std::mem::take(&mut seat.unread);
                data.extend_from_slice(&buffer[..got]);
                self.answer(seat, &data)
            };
            self.buffer = buffer;
            if let Some(after) = answered {
                return after;
            }
            if got < READ && !to_the_end {
                // All that was there: what comes later is told of.
                return After::Stay;
            }
        }
        After::Again
    }

    /// Answers what `data` holds, and keeps what is left of it. `None`: there is room for more.
    fn answer(&mut self, seat: &mut Seat, data: &[u8]) -> Option<After> {
        let mut at = 0;
        loop {
            self.scratch.out.clear();
            match seat.line.take(&data[at..], &mut self.scratch, &seat.caller, &*self.clerk) {
                Ok(taken) => at += taken,
                Err(Broken) => return Some(After::Close(Some(Refusal::Broken))),
            }
            let out = &self.scratch.out;
            let written = match write(&mut seat.stream, out) {
                Ok(written) => written,
                Err(_) => return Some(After::Close(None)),
            };
            if written < out.len() {
                seat.unsent = out[written..].to_vec();
                seat.unread = data[at..].to_vec();
                return Some(After::Stay);
            }
            if out.len() < ENOUGH {
                seat.unread = data[at..].to_vec();
                return None;
            }
        }
    }

    /// Closes the sessions on which nothing was said for too long. One look at each costs less than a timer for each.
    fn sweep(&mut self, now: Instant) {
        for number in 0..self.seats.len() {
            let heard = self.seats[number].as_ref().map(|seat| seat.heard);
            if heard.is_some_and(|heard| now.saturating_duration_since(heard) > self.idle)
                && let Some(seat) = self.seats[number].take()
            {
                self.close(number, &seat, Some(Refusal::Idle));
            }
        }
    }
}

/// What the socket takes of it now.
fn write(stream: &mut TcpStream, bytes: &[u8]) -> io::Result<usize> {
    let mut written = 0;
    while written < bytes.len() {
        match stream.write(&bytes[written..]) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(some) => written += some,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(written)
}

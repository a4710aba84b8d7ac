//! A capture of what one address of loopback sends and receives: an AF_PACKET socket (packet(7)), which root may open.

use std::collections::HashMap;
use std::io;
use std::mem::size_of;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

/// Packets wait here while this machine is busy with what it captures.
const KERNEL_BUFFER: libc::c_int = 256 << 20;
/// Segments are not cut to size on loopback: one may have all that an IP packet can.
const LARGEST: usize = 1 << 17;
const TCP: u8 = 6;
const UDP: u8 = 17;

/// One direction of one connection.
type Flow = (u8, [u8; 4], u16, [u8; 4], u16);

/// What was seen: the payload of every flow, in the order of its arrival.
#[derive(Default)]
pub struct Captured {
    flows: HashMap<Flow, Vec<u8>>,
}

impl Captured {
    /// Bytes of payload.
    pub fn len(&self) -> u64 {
        self.flows.values().map(|bytes| bytes.len() as u64).sum()
    }

    /// Each direction of each connection.
    pub fn flows(&self) -> impl Iterator<Item = &[u8]> {
        self.flows.values().map(Vec::as_slice)
    }

    /// Takes in one IPv4 packet.
    fn take(&mut self, packet: &[u8]) -> Option<()> {
        let header = usize::from(packet.first()? & 15) * 4;
        let (protocol, rest) = (packet[9], packet.get(header..)?);
        let ip = |at: usize| <[u8; 4]>::try_from(&packet[at..at + 4]).ok();
        let port = |at: usize| rest.get(at..at + 2).map(|port| u16::from_be_bytes([port[0], port[1]]));
        let payload = match protocol {
            TCP => usize::from(rest.get(12)? >> 4) * 4,
            UDP => 8,
            _ => return None,
        };
        let flow = (protocol, ip(12)?, port(0)?, ip(16)?, port(2)?);
        self.flows.entry(flow).or_default().extend_from_slice(rest.get(payload..)?);
        Some(())
    }
}

/// A capture that runs.
pub struct Capture {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Captured>,
}

fn check(result: libc::c_int) -> libc::c_int {
    assert!(result >= 0, "can't capture on loopback: {}", io::Error::last_os_error());
    result
}

fn set<T>(socket: &OwnedFd, level: libc::c_int, name: libc::c_int, value: &T) {
    let len = size_of::<T>() as libc::socklen_t;
    // SAFETY: `value` is `len` bytes that live through the call.
    check(unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, std::ptr::from_ref(value).cast(), len) });
}

fn open(ip: Ipv4Addr) -> OwnedFd {
    let all = (libc::ETH_P_IP as u16).to_be();
    // SAFETY: a plain system call; the descriptor that it returns is nobody else's.
    let socket = unsafe { OwnedFd::from_raw_fd(check(libc::socket(libc::AF_PACKET, libc::SOCK_DGRAM, all.into()))) };
    // Only packets from or to `ip`: the machine does other things on loopback as well (bpf, as tcpdump would write it).
    let address = u32::from(ip);
    let filter = [
        op(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 12),
        op(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 2, 0, address),
        op(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 16),
        op(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, address),
        op(libc::BPF_RET | libc::BPF_K, 0, 0, LARGEST as u32),
        op(libc::BPF_RET | libc::BPF_K, 0, 0, 0),
    ];
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_ptr().cast_mut() };
    set(&socket, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &program);
    set(&socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, &KERNEL_BUFFER);
    set(&socket, libc::SOL_SOCKET, libc::SO_RCVTIMEO, &libc::timeval { tv_sec: 0, tv_usec: 50_000 });
    // SAFETY: a name that ends with NUL; and sockaddr_ll is plain data, for which zeros are valid.
    let mut address: libc::sockaddr_ll = unsafe {
        let mut address: libc::sockaddr_ll = std::mem::zeroed();
        address.sll_ifindex = libc::if_nametoindex(c"lo".as_ptr()).try_into().unwrap();
        address
    };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = all;
    let len = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    // SAFETY: `address` is `len` bytes that live through the call.
    check(unsafe { libc::bind(socket.as_raw_fd(), std::ptr::from_ref(&address).cast(), len) });
    socket
}

fn op(code: u32, jt: u8, jf: u8, k: u32) -> libc::sock_filter {
    libc::sock_filter { code: code as u16, jt, jf, k }
}

/// One packet into `buffer`; `None` if none came for a while, or it is one that was seen on its way out already.
fn receive(socket: &OwnedFd, buffer: &mut [u8]) -> Option<usize> {
    // SAFETY: sockaddr_ll is plain data, for which zeros are valid.
    let mut from: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    let mut len = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    // SAFETY: buffer and address are as long as the lengths that are given with them, and live through the call.
    let got = unsafe {
        let (data, address) = (buffer.as_mut_ptr().cast(), std::ptr::from_mut(&mut from).cast());
        libc::recvfrom(socket.as_raw_fd(), data, buffer.len(), 0, address, &mut len)
    };
    // Each packet of loopback is seen twice: as it leaves and as it arrives.
    (got > 0 && from.sll_pkttype != libc::PACKET_OUTGOING).then_some(got as usize)
}

/// Packets that the kernel had no room for.
fn lost(socket: &OwnedFd) -> u32 {
    let mut stats = libc::tpacket_stats { tp_packets: 0, tp_drops: 0 };
    let mut len = size_of::<libc::tpacket_stats>() as libc::socklen_t;
    let (level, name) = (libc::SOL_PACKET, libc::PACKET_STATISTICS);
    // SAFETY: `stats` is `len` bytes that live through the call.
    check(unsafe {
        libc::getsockopt(socket.as_raw_fd(), level, name, std::ptr::from_mut(&mut stats).cast(), &mut len)
    });
    stats.tp_drops
}

impl Capture {
    /// Captures everything from and to `ip` from now on.
    pub fn start(ip: Ipv4Addr) -> Self {
        let socket = open(ip);
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut captured = Captured::default();
            let mut buffer = vec![0; LARGEST];
            // What has arrived by the time of the order to stop is still taken in.
            loop {
                let last = stopped.load(Ordering::Acquire);
                let mut idle = true;
                while let Some(len) = receive(&socket, &mut buffer) {
                    idle = false;
                    captured.take(&buffer[..len]);
                }
                if last && idle {
                    break;
                }
            }
            assert_eq!(lost(&socket), 0, "the capture is not complete");
            captured
        });
        Self { stop, thread }
    }

    /// What has been seen.
    pub fn finish(self) -> Captured {
        self.stop.store(true, Ordering::Release);
        self.thread.join().unwrap()
    }
}

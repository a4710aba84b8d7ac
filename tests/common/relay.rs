//! A relay of TCP connections that remembers every byte: what a capture sees, where nobody may capture.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// One direction of one connection.
type Flow = Arc<Mutex<Vec<u8>>>;

/// See the module. Its threads end with the connections.
#[derive(Clone)]
pub struct Relay {
    pub addr: SocketAddr,
    flows: Arc<Mutex<Vec<Flow>>>,
}

impl Relay {
    /// Listens beside `to` and passes everything on to it.
    pub fn start(to: SocketAddr) -> Self {
        let listener = TcpListener::bind((to.ip(), 0)).unwrap();
        let relay = Self { addr: listener.local_addr().unwrap(), flows: Arc::default() };
        let flows = Arc::clone(&relay.flows);
        std::thread::spawn(move || {
            for near in listener.incoming() {
                let (Ok(near), Ok(far)) = (near, TcpStream::connect(to)) else { continue };
                let clones = (near.try_clone().unwrap(), far.try_clone().unwrap());
                pass(near, far, &flows);
                pass(clones.1, clones.0, &flows);
            }
        });
        relay
    }

    /// Each direction of each connection.
    pub fn flows(&self) -> Vec<Vec<u8>> {
        self.flows.lock().unwrap().iter().map(|flow| flow.lock().unwrap().clone()).collect()
    }
}

fn pass(mut from: TcpStream, mut to: TcpStream, flows: &Mutex<Vec<Flow>>) {
    let flow = Flow::default();
    flows.lock().unwrap().push(Arc::clone(&flow));
    std::thread::spawn(move || {
        let mut buffer = vec![0; 1 << 16];
        while let Ok(len @ 1..) = from.read(&mut buffer) {
            flow.lock().unwrap().extend_from_slice(&buffer[..len]);
            if to.write_all(&buffer[..len]).is_err() {
                break;
            }
        }
        // An end on either side is passed on.
        let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
    });
}

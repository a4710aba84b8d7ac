//! A terse session against a node's side of the wire, cut and bent in every way.

use proptest::prelude::*;
use snow::params::NoiseParams;
use snow::{Builder, HandshakeState};

use super::*;
use crate::base::ids::{NetworkId, NodeId};
use crate::wire::frame::Assembler;

const CALLER: Caller = Caller {
    node: NodeId([1; 32]),
    network: NetworkId([2; 32]),
    remote: std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST),
};

/// Answers everything with as many bytes as it was made for.
struct Answers(usize);

impl Clerk for Answers {
    fn answer(&self, _: &Caller, _: &Request, body: &mut Vec<u8>) {
        body.resize(body.len() + self.0, 7);
    }
}

/// A node's end.
struct Far {
    noise: StatelessTransportState,
    sealed: u64,
    opened: u64,
}

fn pair() -> (Line, Far) {
    let params: NoiseParams = "Noise_NN_25519_AESGCM_BLAKE2s".parse().unwrap();
    let step = |from: &mut HandshakeState, to: &mut HandshakeState| {
        let (mut message, mut payload) = ([0; 128], [0; 128]);
        let len = from.write_message(&[], &mut message).unwrap();
        to.read_message(&message[..len], &mut payload).unwrap();
    };
    let mut node = Builder::new(params.clone()).build_initiator().unwrap();
    let mut tracker = Builder::new(params).build_responder().unwrap();
    step(&mut node, &mut tracker);
    step(&mut tracker, &mut node);
    let line = Line::new(tracker.into_stateless_transport_mode().unwrap());
    (line, Far { noise: node.into_stateless_transport_mode().unwrap(), sealed: 0, opened: 0 })
}

impl Far {
    fn record(&mut self, plain: &[u8]) -> Vec<u8> {
        let mut out = vec![0; LEN + plain.len() + TAG];
        out[..LEN].copy_from_slice(&((plain.len() + TAG) as u16).to_be_bytes());
        self.noise.write_message(self.sealed, plain, &mut out[LEN..]).unwrap();
        self.sealed += 1;
        out
    }

    /// A frame whose records carry so many bytes at most.
    fn frame(&mut self, kind: Kind, id: u32, body: &[u8], part: usize) -> Vec<u8> {
        let header = Header { kind, len: body.len() as u32, flags: 0, id, plain_len: 0 };
        let plain = [&header.write()[..], body].concat();
        plain.chunks(part.max(HEADER)).flat_map(|part| self.record(part)).collect()
    }

    fn ask(&mut self, id: u32, request: &Request) -> Vec<u8> {
        let body = rmp_serde::to_vec(request).unwrap();
        self.frame(Kind::Request, id, &body, MAX_PART)
    }

    /// The answers in what came.
    fn open(&mut self, mut data: &[u8]) -> Vec<(u32, Vec<u8>)> {
        let (mut assembler, mut all) = (Assembler::default(), Vec::new());
        while let Some((len, rest)) = data.split_first_chunk() {
            let (record, rest) = rest.split_at(usize::from(u16::from_be_bytes(*len)));
            let plain = record.len() - TAG;
            self.noise.read_message(self.opened, record, assembler.space(plain).unwrap()).unwrap();
            self.opened += 1;
            if let Some(frame) = assembler.filled(plain).unwrap() {
                all.push((frame.header.id, frame.body.to_vec()));
            }
            data = rest;
        }
        all
    }
}

/// As the socket would bring it: in pieces, until all has been taken or nothing is.
fn bring(line: &mut Line, data: &[u8], piece: usize, clerk: &dyn Clerk) -> Result<Vec<u8>, Broken> {
    let (mut scratch, mut waits, mut out) = (Scratch::default(), Vec::new(), Vec::new());
    for piece in data.chunks(piece) {
        waits.extend_from_slice(piece);
        loop {
            let taken = line.take(&waits, &mut scratch, &CALLER, clerk)?;
            waits.drain(..taken);
            let enough = scratch.out.len() >= ENOUGH;
            out.append(&mut scratch.out);
            if !enough {
                break;
            }
        }
    }
    assert!(waits.is_empty(), "{} bytes are left", waits.len());
    Ok(out)
}

fn announce() -> Request {
    Request::Announce(crate::wire::message::Announce { addrs: Vec::new(), since: 0, boot: 0, begun: 0, leaving: false })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn every_request_is_answered_once_however_it_is_cut(piece in 1usize..300, part in 16usize..60, len in prop_oneof![1usize..100, Just(200_000)]) {
        let (mut line, mut far) = pair();
        let mut data = Vec::new();
        for id in 1..6 {
            data.extend(far.ask(id, &Request::Ping));
            let body = rmp_serde::to_vec(&announce()).unwrap();
            data.extend(far.frame(Kind::Request, id + 10, &body, part));
            data.extend(far.frame(Kind::Cancel, id, &[], part));
        }
        let out = bring(&mut line, &data, piece, &Answers(len)).unwrap();
        let answers = far.open(&out);
        let ids: Vec<u32> = answers.iter().map(|(id, _)| *id).collect();
        prop_assert_eq!(ids, (1..6).flat_map(|id| [id, id + 10]).collect::<Vec<_>>());
        let pong = rmp_serde::to_vec(&Response::Pong).unwrap();
        let right = |(id, body): &(u32, Vec<u8>)| (*id < 10 && *body == pong) || (*id > 10 && body.len() == len);
        prop_assert!(answers.iter().all(right));
        prop_assert!(line.frame.capacity() == 0, "nothing is held while nothing is under way");
    }

    #[test]
    fn what_a_node_invents_never_panics(plains in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..60), 1..8)) {
        let (mut line, mut far) = pair();
        for plain in plains {
            let record = far.record(&plain);
            if bring(&mut line, &record, 40, &Answers(1)).is_err() {
                break;
            }
        }
    }
}

#[test]
fn what_breaks_the_protocol_ends_the_session() {
    type Sent = Box<dyn Fn(&mut Far) -> Vec<u8>>;
    let header = |len| Header { kind: Kind::Request, len, flags: 0, id: 1, plain_len: 0 }.write();
    let cases: [(&str, Sent); 7] = [
        ("shorter than a tag", Box::new(|_| vec![0, 3, 1, 2, 3])),
        ("not sealed", Box::new(|_| [&[0, 20][..], &[9; 20]].concat())),
        ("longer than any request", Box::new(move |far| far.record(&header(MAX_REQUEST as u32 + 1)))),
        ("more than it announced", Box::new(move |far| far.record(&[&header(1)[..], b"xx"].concat()))),
        ("an empty record within a frame", Box::new(move |far| [far.record(&header(5)), far.record(b"")].concat())),
        ("an answer", Box::new(|far| far.frame(Kind::Response, 1, b"", MAX_PART))),
        ("not a request", Box::new(|far| far.frame(Kind::Request, 1, b"\xc1", MAX_PART))),
    ];
    for (what, sent) in cases {
        let (mut line, mut far) = pair();
        let data = sent(&mut far);
        assert_eq!(bring(&mut line, &data, data.len(), &Answers(1)), Err(Broken), "{what}");
    }
}

#[test]
fn what_the_clerk_does_not_answer_is_refused() {
    let (mut line, mut far) = pair();
    let data = far.ask(3, &announce());
    let out = bring(&mut line, &data, data.len(), &Answers(0)).unwrap();
    assert_eq!(far.open(&out), [(3, rmp_serde::to_vec(&Response::Refused).unwrap())]);
}

#[test]
fn who_asks_much_is_answered_bit_by_bit() {
    let (mut line, mut far) = pair();
    let data: Vec<u8> = (1..100).flat_map(|id| far.ask(id, &announce())).collect();
    let mut scratch = Scratch::default();
    let taken = line.take(&data, &mut scratch, &CALLER, &Answers(100_000)).unwrap();
    assert!(taken < data.len() && scratch.out.len() < ENOUGH + 110_000);
}

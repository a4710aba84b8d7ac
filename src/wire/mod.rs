//! What goes over a session, without the session: messages, framing, compression. No sockets, no tokio.

pub mod message;

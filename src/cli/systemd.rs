//! What systemd is told of a daemon or a tracker that it started (`Type=notify`): one datagram to the socket that it named
//! in `NOTIFY_SOCKET`, as sd_notify(3) describes. Elsewhere nothing happens.

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// systemd reads at once; if it does not, nothing that is told of is worth waiting longer for.
const PATIENCE: Duration = Duration::from_secs(5);

/// It can be asked, and does its work. `status` is what `systemctl status` shows.
pub fn ready(status: &str) {
    tell(&format!("READY=1\nSTATUS={status}\n"));
}

/// It has begun to end.
pub fn stopping() {
    tell("STOPPING=1\nSTATUS=ends\n");
}

fn tell(state: &str) {
    let Some(socket) = std::env::var_os("NOTIFY_SOCKET").filter(|socket| !socket.is_empty()) else { return };
    if let Err(error) = send(&socket, state) {
        tracing::warn!(%error, "systemd can't be told of the daemon's state");
    }
}

/// The socket is a path, or with an `@` in front a name that is in no file system.
fn send(socket: &OsStr, state: &str) -> io::Result<()> {
    let address = match socket.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(socket)?,
    };
    let from = UnixDatagram::unbound()?;
    from.set_write_timeout(Some(PATIENCE))?;
    from.send_to_addr(state.as_bytes(), &address).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(socket: &UnixDatagram) -> String {
        let mut bytes = [0; 256];
        socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let len = socket.recv(&mut bytes).unwrap();
        String::from_utf8(bytes[..len].to_vec()).unwrap()
    }

    #[test]
    fn a_socket_is_a_path_or_an_abstract_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let listener = UnixDatagram::bind(&path).unwrap();
        send(path.as_os_str(), "READY=1\n").unwrap();
        assert_eq!(heard(&listener), "READY=1\n");

        let name = format!("flashget-test-{}", std::process::id());
        let listener = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        send(OsStr::new(&format!("@{name}")), "STOPPING=1\n").unwrap();
        assert_eq!(heard(&listener), "STOPPING=1\n");
    }

    #[test]
    fn nobody_who_listens_is_an_error_and_no_more() {
        let dir = tempfile::tempdir().unwrap();
        assert!(send(dir.path().join("none").as_os_str(), "READY=1\n").is_err());
    }
}

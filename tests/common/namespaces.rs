//! Network namespaces of one test, each for one node, on two switches between which nothing passes: nodes that are moved to
//! the other one are parted from those that stay. Needs root, as everything that makes networks does.

use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::process::CommandExt;
use std::process::{ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use super::process::tool;

/// Takes the namespaces `$@` away once nobody holds its stdin any more.
const JANITOR: &str = r#"cat > /dev/null; for name in "$@"; do ip netns delete "$name"; done"#;

/// See the module. Declare it before its nodes, so that it goes after them.
pub struct Namespaces {
    hub: String,
    nodes: Vec<String>,
    _janitor: ChildStdin,
}

fn ip(words: &[&str]) {
    tool("ip", words).ok();
}

impl Namespaces {
    /// So many, all on one switch.
    pub fn new(count: usize) -> Self {
        assert!(rustix::process::geteuid().is_root(), "this test makes network namespaces: run it as root");
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let tag = format!("fgt{}x{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let hub = format!("{tag}hub");
        let nodes: Vec<String> = (0..count).map(|number| format!("{tag}n{number}")).collect();
        let mut command = Command::new("sh");
        command.args(["-c", JANITOR, "sh", &hub]).args(&nodes);
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
        let janitor = command.spawn().unwrap().stdin.take().unwrap();
        let namespaces = Self { hub, nodes, _janitor: janitor };
        namespaces.make();
        namespaces
    }

    fn make(&self) {
        let hub = &self.hub;
        ip(&["netns", "add", hub]);
        for switch in ["br0", "br1"] {
            ip(&["-n", hub, "link", "add", switch, "type", "bridge"]);
            ip(&["-n", hub, "link", "set", switch, "up"]);
        }
        for (number, name) in self.nodes.iter().enumerate() {
            ip(&["netns", "add", name]);
            ip(&["-n", name, "link", "set", "lo", "up"]);
            let port = format!("port{number}");
            ip(&["-n", hub, "link", "add", &port, "type", "veth", "peer", "name", "eth0", "netns", name]);
            ip(&["-n", hub, "link", "set", &port, "master", "br0", "up"]);
            ip(&["-n", name, "addr", "add", &format!("{}/16", Self::ip_of(number)), "dev", "eth0"]);
            ip(&["-n", name, "link", "set", "eth0", "up"]);
            // Multicast has to know where to go.
            ip(&["-n", name, "route", "add", "224.0.0.0/4", "dev", "eth0"]);
        }
    }

    fn ip_of(number: usize) -> Ipv4Addr {
        Ipv4Addr::new(10, 78, 0, number as u8 + 1)
    }

    /// Where a node in this namespace listens.
    pub fn addr(&self, number: usize) -> SocketAddr {
        SocketAddr::new(Self::ip_of(number).into(), 7450)
    }

    /// What a namespace is called.
    pub fn name(&self, number: usize) -> &str {
        &self.nodes[number]
    }

    /// Gives a node another address in place of the one that it has, as if it had gone to another network: the last number.
    pub fn renumber(&self, number: usize, to: u8) -> SocketAddr {
        let name = &self.nodes[number];
        let ip_now = Ipv4Addr::new(10, 78, 0, to);
        ip(&["-n", name, "addr", "del", &format!("{}/16", Self::ip_of(number)), "dev", "eth0"]);
        ip(&["-n", name, "addr", "add", &format!("{ip_now}/16"), "dev", "eth0"]);
        SocketAddr::new(ip_now.into(), 7450)
    }

    /// Moves a node to switch 0 or 1.
    pub fn plug(&self, number: usize, switch: usize) {
        ip(&["-n", &self.hub, "link", "set", &format!("port{number}"), "master", &format!("br{switch}")]);
    }
}

//! Trackers that keep their list in etcd: several serve one network, and any of them, and any etcd server, may go.

// clippy.toml lets only test functions unwrap, and all of this file is tests.
#![allow(clippy::unwrap_used)]
#![cfg(feature = "etcd")]

mod common;

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use common::network::free_port;
use common::process::{FLASHGET, Running, find_tool, in_plain_locale, run, tool};
use common::wait::{until, until_within};
use common::{Network, Node};

/// What is promised: a tracker and etcd's leader are killed, and after this time all is as before.
const HEALED: Duration = Duration::from_secs(10);

/// One etcd server.
struct Server {
    name: String,
    client: SocketAddr,
    args: Vec<String>,
    log: PathBuf,
    running: Option<Running>,
}

impl Server {
    fn start(&mut self) {
        let mut command = in_plain_locale(Command::new(find_tool("etcd")));
        // Debian's etcd refuses platforms that nobody tested, unless told.
        command.args(&self.args).env("ETCD_UNSUPPORTED_ARCH", std::env::consts::ARCH.replace("aarch64", "arm64"));
        self.running = Some(Running::start(&mut command, &self.log));
    }

    fn kill(&mut self) {
        drop(self.running.take().unwrap());
    }
}

/// Servers that know each other, on the test's own address.
struct Cluster {
    servers: Vec<Server>,
    /// How etcdctl is let in.
    access: Vec<String>,
}

impl Cluster {
    /// `secure`: what is said in addition to each server, and what etcdctl says.
    fn start(network: &Network, count: usize, scheme: &str, secure: &[String], access: &[String]) -> Self {
        let ports: Vec<(SocketAddr, SocketAddr)> =
            (0..count).map(|_| (free_port(network.ip), free_port(network.ip))).collect();
        let all: Vec<String> =
            ports.iter().enumerate().map(|(number, (_, peer))| format!("e{number}=http://{peer}")).collect();
        let server = |(number, (client, peer)): (usize, &(SocketAddr, SocketAddr))| {
            let name = format!("e{number}");
            let data = network.path(format!("etcd-{name}"));
            let args = [
                ("name", name.clone()),
                ("data-dir", data.to_str().unwrap().into()),
                ("listen-client-urls", format!("{scheme}://{client}")),
                ("advertise-client-urls", format!("{scheme}://{client}")),
                ("listen-peer-urls", format!("http://{peer}")),
                ("initial-advertise-peer-urls", format!("http://{peer}")),
                ("initial-cluster", all.join(",")),
                ("initial-cluster-state", "new".into()),
            ];
            let mut args: Vec<String> = args.iter().map(|(name, value)| format!("--{name}={value}")).collect();
            args.extend(secure.iter().cloned());
            let log = network.path("logs").join(format!("{name}.log"));
            Server { name, client: *client, args, log, running: None }
        };
        let servers = ports.iter().enumerate().map(server).collect();
        let mut cluster = Self { servers, access: access.to_vec() };
        cluster.servers.iter_mut().for_each(Server::start);
        until("etcd answers", || cluster.ctl(&["get", "x"]).is_some());
        cluster
    }

    fn store(&self) -> String {
        let hosts: Vec<String> = self.servers.iter().map(|server| server.client.to_string()).collect();
        format!("etcd://{}", hosts.join(","))
    }

    fn ctl(&self, args: &[&str]) -> Option<String> {
        let live = self.servers.iter().filter(|server| server.running.is_some());
        let endpoints: Vec<String> = live.map(|server| server.client.to_string()).collect();
        let mut command = in_plain_locale(Command::new(find_tool("etcdctl")));
        command.env("ETCDCTL_API", "3").args(&self.access).args(args);
        command.arg("--command-timeout=2s").arg(format!("--endpoints={}", endpoints.join(",")));
        let done = run(&mut command);
        done.status.success().then(|| done.text())
    }

    fn leader(&self) -> usize {
        until_within(common::wait::SOON, "etcd has a leader", || {
            let told = self.ctl(&["endpoint", "status", "--write-out=json"])?;
            let told: serde_json::Value = serde_json::from_str(&told).ok()?;
            let led = |one: &&serde_json::Value| {
                one["Status"]["leader"] == one["Status"]["header"]["member_id"] && one["Status"]["leader"] != 0
            };
            let at = told.as_array()?.iter().find(led)?["Endpoint"].as_str()?.to_owned();
            self.servers.iter().position(|server| at.ends_with(&server.client.to_string()))
        })
    }

    fn keys(&self) -> usize {
        self.ctl(&["get", "--prefix", "--keys-only", "/flashget/"]).map_or(0, |text| text.split_whitespace().count())
    }
}

/// A tracker with a home of its own.
struct Tracker {
    home: PathBuf,
    addr: SocketAddr,
    log: PathBuf,
    running: Option<Running>,
}

impl Tracker {
    fn command(home: &Path) -> Command {
        let mut command = in_plain_locale(Command::new(FLASHGET));
        command.arg("--home").arg(home).env_remove("FLASHGET_HOME").env_remove("FLASHGET_PASSPHRASE_FILE");
        command
    }

    fn start(network: &Network, name: &str, addr: SocketAddr, args: &[&str]) -> Self {
        let home = network.path(name);
        fs::create_dir(&home).unwrap();
        run(Self::command(&home).args(["network", "join", &network.invite])).ok();
        let log = network.path("logs").join(format!("{name}.log"));
        let mut command = Self::command(&home);
        command.args(["tracker", "--listen", &addr.to_string()]).args(args);
        let running = Running::start(&mut command, &log);
        let mut tracker = Self { home, addr, log, running: Some(running) };
        tracker.answers();
        tracker
    }

    fn answers(&mut self) {
        let (home, log) = (self.home.clone(), self.log.clone());
        let running = self.running.as_mut().unwrap();
        until(&format!("the tracker at {} answers", self.addr), || {
            assert!(running.ended().is_none(), "it has ended: {}", fs::read_to_string(&log).unwrap());
            run(Self::command(&home).args(["tracker", "status"])).status.success()
        });
    }

    fn status(&self) -> serde_json::Value {
        let told = run(Self::command(&self.home).args(["tracker", "status", "--json"])).ok();
        serde_json::from_str(&told.text()).unwrap()
    }

    fn nodes(&self) -> u64 {
        self.status()["networks"][0]["nodes"].as_u64().unwrap()
    }

    fn is_healthy(&self) -> bool {
        self.status()["store"]["healthy"] == true
    }
}

/// A member whose daemon knows these trackers.
fn member(network: &Network, name: &str, trackers: &[&Tracker]) -> Node {
    let mut node = network.member(name);
    let args: Vec<String> =
        trackers.iter().flat_map(|tracker| ["--tracker".into(), tracker.addr.to_string()]).collect();
    node.start_with(&args.iter().map(String::as_str).collect::<Vec<_>>());
    node
}

#[test]
fn a_killed_tracker_and_a_killed_leader_lose_no_member_and_all_is_healed_soon() {
    // Its own tracker never runs: the members are told of others.
    let network = Network::without_tracker("lab");
    let mut cluster = Cluster::start(&network, 3, "http", &[], &[]);
    let store = cluster.store();
    let start = |name| Tracker::start(&network, name, free_port(network.ip), &["--store", &store]);
    let (mut one, two) = (start("one"), start("two"));
    until("both follow etcd", || one.is_healthy() && two.is_healthy());
    // Some know one tracker, some the other, some both.
    let mut nodes = vec![
        member(&network, "a", &[&one]),
        member(&network, "b", &[&two]),
        member(&network, "c", &[&one, &two]),
        member(&network, "d", &[&one, &two]),
    ];
    until("both trackers know all", || one.nodes() == 4 && two.nodes() == 4);
    assert_eq!(cluster.keys(), 4);
    nodes[1].has_peers(3);

    // One says goodbye to the other tracker: it is off the list everywhere.
    let mut polite = member(&network, "e", &[&two]);
    until("it is known where it does not ping", || one.nodes() == 5);
    polite.stop();
    until("it is off the list where it did not say goodbye", || one.nodes() == 4);

    // Who can only be reached over the dead tracker is in the list until his lease ends; so let all know both.
    nodes.remove(0).stop();
    nodes.push(member(&network, "f", &[&one, &two]));
    until("both know all", || one.nodes() == 4 && two.nodes() == 4);
    let leader = cluster.leader();
    let began = Instant::now();
    drop(one.running.take());
    cluster.servers[leader].kill();
    let mut newcomer = None;
    let mut healed = None;
    while began.elapsed() < HEALED * 3 {
        assert!(two.nodes() >= 4, "a member was lost after {:?}", began.elapsed());
        newcomer.get_or_insert_with(|| member(&network, "g", &[&two]));
        if healed.is_none() && two.is_healthy() && two.nodes() == 5 && cluster.keys() == 5 {
            healed = Some(began.elapsed());
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    let healed = healed.expect("it is healed");
    eprintln!("a tracker and etcd's leader {} were killed; healed after {healed:.1?}", cluster.servers[leader].name);
    assert!(healed < HEALED, "healed after {healed:?}");

    // All of etcd goes: nobody is lost, and it is said.
    cluster.servers.iter_mut().filter(|server| server.running.is_some()).for_each(Server::kill);
    until("it is noticed", || !two.is_healthy());
    std::thread::sleep(Duration::from_secs(18));
    assert_eq!(two.nodes(), 5, "nodes stay as they are while etcd is away");
    cluster.servers.iter_mut().for_each(Server::start);
    until("it is back", || two.is_healthy());
    until("all are there again", || cluster.keys() == 5 && two.nodes() == 5);

    // Another tracker learns all of it from etcd, and who is killed runs out everywhere.
    let three = start("three");
    until("it knows all", || three.nodes() == 5);
    nodes[0].kill();
    until("it is missed", || three.nodes() == 4 && two.nodes() == 4 && cluster.keys() == 4);

    // What a broken writer puts there is no node.
    let id = two.status()["networks"][0]["id"].as_str().unwrap().to_owned();
    for (key, value) in [("x".into(), "y"), (format!("{id}/x"), "y"), (format!("{id}/{}", "ab".repeat(32)), "not ours")]
    {
        cluster.ctl(&["put", &format!("/flashget/{key}"), value]).unwrap();
    }
    cluster.ctl(&["put", &format!("/flashget/{}/{}", "cd".repeat(32), "ab".repeat(32)), "y"]).unwrap();
    let other = member(&network, "h", &[&two]);
    until("it goes on", || three.nodes() == 5 && two.nodes() == 5);
    drop(other);
}

fn certificates(dir: &Path, ip: Ipv4Addr) -> [PathBuf; 5] {
    let file = |name: &str| dir.join(name);
    let path = |name: &str| file(name).to_str().unwrap().to_owned();
    for (name, how, more) in [("ca", "-x509", &["-days", "2"][..]), ("server", "-new", &[]), ("own", "-new", &[])] {
        let (key, out) =
            (path(&format!("{name}.key")), path(&format!("{name}.{}", if name == "ca" { "pem" } else { "csr" })));
        let (curve, subject) = ("ec_paramgen_curve:prime256v1", format!("/CN={name}"));
        let args = [
            "req", how, "-newkey", "ec", "-pkeyopt", curve, "-nodes", "-keyout", &key, "-out", &out, "-subj", &subject,
        ];
        tool("openssl", args.iter().chain(more));
    }
    fs::write(file("server.ext"), format!("subjectAltName=IP:{ip}\n")).unwrap();
    fs::write(file("own.ext"), "extendedKeyUsage=clientAuth\n").unwrap();
    for name in ["server", "own"] {
        let [csr, pem, ext] = ["csr", "pem", "ext"].map(|end| path(&format!("{name}.{end}")));
        let ca = [path("ca.pem"), path("ca.key")];
        let args = [
            "x509",
            "-req",
            "-in",
            &csr,
            "-CA",
            &ca[0],
            "-CAkey",
            &ca[1],
            "-CAcreateserial",
            "-out",
            &pem,
            "-days",
            "2",
            "-extfile",
            &ext,
        ];
        tool("openssl", args);
    }
    ["ca.pem", "server.pem", "server.key", "own.pem", "own.key"].map(file)
}

#[test]
fn etcd_may_ask_for_certificates_and_a_password() {
    // Its own tracker never runs: the members are told of others.
    let network = Network::without_tracker("lab");
    let [ca, cert, key, own, own_key] = certificates(&network.path(""), network.ip);
    let text = |path: &Path| path.to_str().unwrap().to_owned();
    let secure = [
        format!("--cert-file={}", text(&cert)),
        format!("--key-file={}", text(&key)),
        format!("--trusted-ca-file={}", text(&ca)),
        "--client-cert-auth".into(),
    ];
    let access =
        [format!("--cacert={}", text(&ca)), format!("--cert={}", text(&own)), format!("--key={}", text(&own_key))];
    let mut cluster = Cluster::start(&network, 1, "https", &secure, &access);
    for args in [
        &["user", "add", "root:very secret"][..],
        &["user", "grant-role", "root", "root"],
        &["role", "add", "trackers"],
        &["role", "grant-permission", "trackers", "--prefix=true", "readwrite", "/flashget/"],
        &["user", "add", "tracker:secret"],
        &["user", "grant-role", "tracker", "trackers"],
        &["auth", "enable"],
    ] {
        cluster.ctl(args).unwrap_or_else(|| panic!("{args:?}"));
    }
    cluster.access.push("--user=root:very secret".into());
    let password = network.path("password");
    fs::write(&password, "secret\n").unwrap();
    let store = cluster.store();
    let (ca, own, own_key, password_file) = (text(&ca), text(&own), text(&own_key), text(&password));
    let tls = ["--store", &store, "--etcd-ca", &ca, "--etcd-cert", &own, "--etcd-key", &own_key];
    let user = ["--etcd-user", "tracker", "--etcd-password-file", &password_file];
    let tracker = Tracker::start(&network, "one", free_port(network.ip), &[&tls[..], &user].concat());
    until("it is let in", || tracker.is_healthy());
    let _node = member(&network, "a", &[&tracker]);
    until("the node is in etcd", || cluster.keys() == 1);

    let stranger = Tracker::start(&network, "two", free_port(network.ip), &tls);
    let refused = |tracker: &Tracker| {
        let store = &tracker.status()["store"];
        let problem = store["problem"].as_str().filter(|problem| !problem.contains("not connected yet"))?;
        assert_eq!(store["healthy"], false);
        Some(problem.to_owned())
    };
    let why = until_within(common::wait::SOON, "it is said why it is not let in", || refused(&stranger));
    assert!(why.contains("user") || why.contains("permission"), "{why}");
    let plain = Tracker::start(&network, "three", free_port(network.ip), &["--store", &store]);
    until_within(common::wait::SOON, "it gets nowhere without TLS", || refused(&plain));
    assert_eq!((tracker.nodes(), stranger.nodes(), plain.nodes()), (1, 0, 0));
    let log = fs::read_to_string(&tracker.log).unwrap();
    assert!(!log.contains("secret"), "{log}");
}

//! Mounts and the daemons behind them: when they come and go, who may have them, and what is left when one is killed.

// clippy.toml lets only test functions unwrap, and all of this file is tests.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use common::contents::{MIB, hash_of, random_file, text_file};
use common::mounts::{is_mounted, require_root};
use common::process::{FLASHGET, Output, find_tool, run, tool};
use common::wait::until;
use common::{Network, Node};
use flashget::control::Request;
use flashget::control::request::MountRequest;
use rustix::process::Signal;

/// An ordinary user who exists everywhere and owns nothing: nobody.
const NOBODY: u32 = 65534;

fn umount(node: &Node, more: &[&str]) -> Output {
    let point = node.mount_point.to_str().unwrap();
    node.run(["umount", point].iter().chain(more))
}

fn os_error<T>(result: std::io::Result<T>) -> i32 {
    match result {
        Ok(_) => panic!("it should have failed"),
        Err(error) => error.raw_os_error().unwrap_or_else(|| panic!("{error}")),
    }
}

#[test]
fn the_kernel_knows_a_mount_as_flashgets_and_reads_ahead_of_it_as_set() {
    let network = Network::named("lab, the second");
    let node = network.node("reader");
    let report = node.json([Path::new("mount"), &node.mount_point]);
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let line = table.lines().find(|line| line.contains(node.mount_point.to_str().unwrap())).unwrap();
    assert!(line.contains(" - fuse.flashget lab,\\040the\\040second "), "{line}");
    let options = line.split(' ').nth(5).unwrap();
    assert!(["ro", "nosuid", "nodev"].iter().all(|option| options.split(',').any(|has| has == *option)), "{line}");
    if rustix::process::geteuid().is_root() {
        assert_eq!(report["read_ahead_kb"], 4096);
    }
    let error = fs::write(node.mount_point.join("new"), "x");
    assert_eq!(os_error(error), libc::EROFS);
    node.umount();
}

#[test]
fn a_daemon_that_mount_started_ends_when_nothing_needs_it_any_more() {
    let network = Network::new();
    let node = network.member("reader");
    node.mount();
    let first = node.pid().unwrap();
    assert!(node.status().ends_when_idle);
    node.umount();
    node.ends();

    text_file(&network.path("share/file"), "shared");
    node.share(&network.path("share"));
    assert!(node.pid().is_none(), "sharing without a daemon starts none");
    node.mount();
    let second = node.pid().unwrap();
    assert_ne!(first, second);
    node.sees("file", 1);
    node.umount();
    // As long as it had taken to end, and longer.
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(node.pid(), Some(second), "a daemon with a share stays");
    node.ok([Path::new("share"), "remove".as_ref(), &network.path("share")]);
    node.ends();
}

#[test]
fn a_daemon_that_was_started_by_hand_stays_when_its_mount_goes() {
    let network = Network::new();
    let node = network.node("reader");
    let pid = node.pid().unwrap();
    node.mount();
    node.umount();
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(node.pid(), Some(pid));
    assert!(node.status().mounts.is_empty());
}

#[test]
fn a_mount_that_fails_leaves_no_daemon_behind() {
    let network = Network::new();
    let node = network.member("reader");
    let missing = network.path("missing");
    node.run([Path::new("mount"), &missing]).refused(3, "missing");
    assert!(node.pid().is_none(), "for a folder that is not there none is started");

    // One is started to look for the network; it has a share, and still no business to stay.
    text_file(&network.path("share/file"), "text");
    node.share(&network.path("share"));
    for _ in 0..2 {
        // The second may meet the first one's daemon as it ends.
        node.run([Path::new("mount"), Path::new("typo"), &node.mount_point]).refused(3, "typo");
        node.watch_daemon();
    }
    until("no daemon is left", || node.pid().is_none());
    node.mount();
    node.umount();
    assert!(node.pid().is_some(), "it has a share, and a mount came up");
    node.ok(["stop"]);
}

#[test]
fn a_mount_in_use_stays_unless_it_is_forced() {
    let network = Network::new();
    let hash = random_file(&network.path("share/file"), 8 * MIB, "in use");
    random_file(&network.path("share/unread"), 8 * MIB, "unread");
    let source = network.source("source", &network.path("share"));
    let reader = network.node("reader");
    let mount = reader.mount();
    reader.sees("unread", 1);
    let mut open = File::open(mount.join("unread")).unwrap();
    umount(&reader, &[]).refused(4, "busy");
    assert!(is_mounted(&mount));
    assert_eq!(hash_of(&mount.join("file")), hash, "it goes on working");

    umount(&reader, &["--force"]).ok();
    assert!(!is_mounted(&mount));
    until("the mount is forgotten", || reader.status().mounts.is_empty());
    assert_eq!(os_error(open.read(&mut [0; 10])), libc::ENOTCONN);

    // The old file is still open, and in nobody's way.
    reader.mount();
    assert_eq!(hash_of(&mount.join("file")), hash);
    let began = Instant::now();
    reader.umount();
    assert!(began.elapsed() < Duration::from_secs(10));
    drop((open, source));
}

#[test]
fn a_read_that_waits_for_ever_ends_when_its_mount_is_forced_away() {
    let network = Network::new();
    random_file(&network.path("share/file"), 8 * MIB, "waits");
    let mut source = network.source("source", &network.path("share"));
    let reader = network.node("reader");
    reader.mount_with(&["-o", "hard"]);
    reader.sees("file", 1);
    source.kill();
    let mut cat = Command::new("cat");
    cat.arg(reader.mount_point.join("file")).stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
    let mut cat = cat.spawn().unwrap();
    // Longer than a soft read waits for a source.
    std::thread::sleep(Duration::from_secs(5));
    assert!(cat.try_wait().unwrap().is_none(), "a hard read waits");
    umount(&reader, &[]).refused(4, "busy");
    umount(&reader, &["--force"]).ok();
    until("the read has ended", || cat.try_wait().unwrap().is_some());
    assert!(!cat.wait().unwrap().success());
}

#[test]
fn a_folder_below_the_mount_that_somebody_stands_in_keeps_it_busy() {
    let network = Network::new();
    text_file(&network.path("share/folder/file"), "x");
    let _source = network.source("source", &network.path("share"));
    let reader = network.node("reader");
    let mount = reader.mount();
    reader.sees("folder/file", 1);
    let mut shell = Command::new("sleep").arg("60").current_dir(mount.join("folder")).spawn().unwrap();
    let refused = umount(&reader, &[]);
    shell.kill().unwrap();
    shell.wait().unwrap();
    refused.refused(4, "busy");
    reader.umount();
}

#[test]
fn after_its_daemon_was_killed_a_mount_is_made_again_in_the_same_place() {
    let network = Network::new();
    let hash = random_file(&network.path("share/file"), 3 * MIB, "killed");
    let _source = network.source("source", &network.path("share"));
    let mut reader = network.member("reader");
    let mount = reader.mount();
    reader.sees("file", 1);
    // From now on the kernel knows the root's attributes, and tells them of a dead mount too.
    assert!(fs::metadata(&mount).unwrap().is_dir());
    reader.kill();
    until("the mount is dead", || {
        fs::read_dir(&mount).is_err_and(|error| error.raw_os_error() == Some(libc::ENOTCONN))
    });
    reader.mount();
    reader.sees("file", 1);
    assert_eq!(hash_of(&mount.join("file")), hash);
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let there = table.lines().filter(|line| line.contains(mount.to_str().unwrap())).count();
    assert_eq!(there, 1, "the dead mount is gone, not covered");

    // And one that nobody mounts again can be taken away, without a daemon.
    reader.kill();
    umount(&reader, &[]).ok();
    assert!(!is_mounted(&mount));
    umount(&reader, &[]).refused(3, "not mounted");
}

#[test]
fn a_daemon_that_is_started_again_revives_the_mounts_of_one_that_was_killed() {
    let network = Network::new();
    let hash = random_file(&network.path("share/file"), 3 * MIB, "revived");
    let _source = network.source("source", &network.path("share"));
    let mut reader = network.node("reader");
    reader.mount_with(&["-o", "umask=077"]);
    let mount = reader.mount_point.clone();
    reader.sees("file", 1);
    reader.kill();
    reader.start();
    until("it is live again", || {
        fs::metadata(mount.join("file")).is_ok_and(|meta| meta.permissions().mode() & 0o777 == 0o400)
    });
    assert_eq!(hash_of(&mount.join("file")), hash);
    // A script that mounts after each start is not refused for it; who asks once more is.
    reader.mount_with(&["-o", "umask=077"]);
    reader.run([Path::new("mount"), &mount]).refused(4, "mounted there already");
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert_eq!(table.lines().filter(|line| line.contains(mount.to_str().unwrap())).count(), 1);

    // What was unmounted, or ended in an orderly way, stays away.
    reader.umount();
    reader.kill();
    reader.start();
    reader.run([Path::new("umount"), &mount]).refused(3, "not mounted");
    reader.mount();
    reader.stop();
    reader.start();
    reader.run([Path::new("umount"), &mount]).refused(3, "not mounted");
}

#[test]
fn two_mounts_of_one_daemon_live_and_end_apart() {
    let network = Network::new();
    text_file(&network.path("share/file"), "twice");
    let _source = network.source("source", &network.path("share"));
    let reader = network.member("reader");
    let second = network.path("mnt/second");
    fs::create_dir(&second).unwrap();
    network.undo.mount(&second);
    let first = reader.mount();
    reader.ok([Path::new("mount"), &second]);
    reader.sees("file", 1);
    for mount in [&first, &second] {
        assert_eq!(fs::read_to_string(mount.join("file")).unwrap(), "twice");
    }
    reader.umount();
    assert_eq!(fs::read_to_string(second.join("file")).unwrap(), "twice");
    assert_eq!(reader.status().mounts.len(), 1);
    reader.umount_at(&second);
    reader.ends();
}

#[test]
fn stopping_the_daemon_takes_its_mounts_away() {
    let network = Network::new();
    let mut by_signal = network.node("one");
    by_signal.mount();
    by_signal.stop();
    assert!(!is_mounted(&by_signal.mount_point));

    let by_command = network.member("two");
    by_command.mount();
    by_command.ok(["stop"]);
    by_command.ends();
    until("the mount is gone", || !is_mounted(&by_command.mount_point));
}

/// A command as the user nobody.
fn as_nobody(program: &str, args: &[&Path]) -> Output {
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all"]);
    run(command.arg(program).args(args))
}

#[test]
fn an_ordinary_user_mounts_with_fusermount3() {
    require_root("it becomes an ordinary user; run the other tests as one to see the same");
    let network = Network::named("lab, the second");
    let hash = random_file(&network.path("share/file"), 5 * MIB, "ordinary");
    let _source = network.source("source", &network.path("share"));
    // Where the program was built, others may not be allowed to look.
    let program = network.path("flashget");
    // Not by this process: while another thread's child still has the copy open for writing, nobody can execute it.
    tool("cp", [Path::new(FLASHGET), &program]);
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let mut reader = network.outsider("reader");
    reader.belongs_to(NOBODY, &program);
    reader.join(&network.invite);
    let mount = reader.mount();
    reader.sees("file", 1);
    assert_eq!(fs::metadata(reader.home.join("state/key")).unwrap().permissions().mode() & 0o777, 0o600);

    let copy = reader.home.join("copy");
    as_nobody("cp", &[&mount.join("file"), &copy]).ok();
    assert_eq!(hash_of(&copy), hash);
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let line = table.lines().find(|line| line.contains(mount.to_str().unwrap())).unwrap();
    assert!(line.contains("- fuse.flashget lab,\\040the\\040second ") && line.contains("user_id=65534"), "{line}");

    let mut standing = Command::new("setpriv");
    standing.args(["--reuid=65534", "--regid=65534", "--clear-groups", "sh", "-c", "cd \"$0\" && exec sleep 60"]);
    let mut standing = standing.arg(&mount).spawn().unwrap();
    until("somebody stands in the mount", || {
        fs::read_link(format!("/proc/{}/cwd", standing.id())).is_ok_and(|cwd| cwd == mount)
    });
    let refused = umount(&reader, &[]);
    standing.kill().unwrap();
    standing.wait().unwrap();
    refused.refused(4, "busy");
    reader.umount();
    reader.ends();
}

#[test]
fn a_client_that_goes_away_in_the_middle_of_a_mount_leaves_no_daemon_behind() {
    // A tracker that takes connections and says nothing holds the first view up.
    let ip = std::net::Ipv4Addr::LOCALHOST;
    let silent = std::net::TcpListener::bind((ip, 0)).unwrap();
    let addr = silent.local_addr().unwrap();
    let network = Network::at("lab", ip, addr, addr);
    let node = network.member("reader");
    network.undo.mount(&node.mount_point);
    let mut client = node.command().arg("mount").arg(&node.mount_point).spawn().unwrap();
    until("the daemon is up", || node.pid().is_some());
    node.watch_daemon();
    client.kill().unwrap();
    client.wait().unwrap();
    until("no daemon is left", || node.pid().is_none());
    assert!(!is_mounted(&node.mount_point));
}

#[test]
fn a_daemon_that_is_told_twice_ends_at_once() {
    // As above: the mount, and whoever asked for it, wait for the first view; a daemon lets them have their answer.
    let ip = std::net::Ipv4Addr::LOCALHOST;
    let silent = std::net::TcpListener::bind((ip, 0)).unwrap();
    let addr = silent.local_addr().unwrap();
    let network = Network::at("lab", ip, addr, addr);
    let mut node = network.member("reader");
    node.start();
    network.undo.mount(&node.mount_point);
    let daemon = node.pid().unwrap();
    // Its socket goes first, and what has ended stays a zombie until somebody looks.
    let runs = || {
        let stat = fs::read_to_string(format!("/proc/{daemon}/stat")).unwrap_or_default();
        stat.rsplit(") ").next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with('Z'))
    };
    std::thread::scope(|scope| {
        // Not by the command, which would start another daemon.
        let mount =
            Request::Mount { network: None, dir: node.mount_point.as_path().into(), options: MountRequest::default() };
        let asker = &node;
        let asks = scope.spawn(move || asker.ask(&mount));
        std::thread::sleep(Duration::from_millis(500));
        let told = Instant::now();
        rustix::process::kill_process(daemon, Signal::TERM).unwrap();
        std::thread::sleep(Duration::from_millis(300));
        assert!(runs(), "it waits for those who asked");
        rustix::process::kill_process(daemon, Signal::INT).unwrap();
        until("the daemon has ended", || !runs());
        assert!(told.elapsed() < Duration::from_millis(1500), "{:?}", told.elapsed());
        assert!(asks.join().unwrap().is_err());
    });
}

/// The mount helper, made now if nobody has made it yet.
fn mount_helper() -> std::path::PathBuf {
    let helper = Path::new(FLASHGET).with_file_name("mount-flashget");
    if !helper.exists() {
        run(Command::new(env!("CARGO")).args(["build", "--package", "mount-flashget"])).ok();
    }
    assert!(helper.exists(), "{} is missing: run cargo build --workspace --bins", helper.display());
    helper
}

#[test]
fn mount_8_and_an_fstab_line_do_what_flashget_mount_does() {
    require_root("ordinary users mount by fstab only");
    let network = Network::new();
    let hash = random_file(&network.path("share/file"), 3 * MIB, "mount(8)");
    let _source = network.source("source", &network.path("share"));
    let reader = network.member("reader");
    let sbin = network.path("sbin");
    fs::create_dir(&sbin).unwrap();
    tool("cp", [mount_helper(), sbin.join("mount.flashget")]);
    let (home, point) = (reader.home.to_str().unwrap(), reader.mount_point.to_str().unwrap());
    let options = format!("_netdev,nofail,x-systemd.automount,noatime,umask=0227,home={home}");
    text_file(&network.path("fstab"), format!("lab {point} flashget {options} 0 0\n"));
    // mount(8) looks for its helpers in /sbin alone: in a mount namespace of its own this can be another folder.
    let script = r#"
        set -eu
        mount --bind "$1/sbin" "$(readlink -f /sbin)"
        mount -t flashget lab "$2" -o ro,home="$3"
        cat "$2/file" > "$1/copy"
        umount "$2"
        for turn in first second; do
            mount --all --fstab "$1/fstab"
            echo "$turn $(grep -c " $2 " /proc/self/mountinfo) $(stat -c '%a %F' "$2/file")"
        done
        umount "$2"
        ! mount -t flashget nets "$2" -o home="$3" 2> "$1/error"
    "#;
    let mut unshare = Command::new(find_tool("unshare"));
    unshare.args(["--mount", "sh", "-c", script, "sh"]).arg(network.path("")).args([point, home]);
    let done = run(unshare.env("FLASHGET_BIN", FLASHGET).env_remove("FLASHGET_HOME"));
    reader.watch_daemon();
    // The first view is there when mount returns, so the file could be read at once.
    assert_eq!(done.ok().text(), "first 1 440 regular file\nsecond 1 440 regular file\n");
    assert_eq!(hash_of(&network.path("copy")), hash);
    let error = fs::read_to_string(network.path("error")).unwrap();
    assert!(error.lines().count() == 1 && error.contains("'nets'"), "{error}");
    reader.ends();
}

#[test]
fn status_files_tell_of_the_mount_and_of_each_file() {
    let network = Network::new();
    let size = 3 * MIB;
    let hash = random_file(&network.path("share/folder/file"), size, "status");
    let _source = network.source("source", &network.path("share"));
    let reader = network.node("reader");
    let mount = reader.mount();
    reader.sees("folder/file", 1);
    let text = |path: &str| fs::read_to_string(mount.join(path)).unwrap();
    let names = |path: &str| {
        let mut names: Vec<_> = fs::read_dir(mount.join(path))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    };
    assert_eq!(names(""), ["folder"], "hidden");
    assert_eq!(names(".flashget"), ["files", "status"]);
    assert_eq!(names(".flashget/files"), ["folder"]);
    assert_eq!(names(".flashget/files/folder"), ["file"]);
    let status = text(".flashget/status");
    for line in ["network lab\n", "peers 1\n", "locked no\n", concat!("version ", env!("CARGO_PKG_VERSION"), "\n")] {
        assert!(status.contains(line), "{status}");
    }
    assert!(status.lines().any(|line| line.starts_with("trackers ") && line.ends_with("=up")), "{status}");
    let told = text(".flashget/files/folder/file");
    let expected = |cached| format!("root {hash}\nsize {size}\nsources 1\ncached_percent {cached}\nstate live\n");
    assert_eq!(told, expected(0));
    // Told anew at each opening, and by programs that copy as well.
    assert_eq!(hash_of(&mount.join("folder/file")), hash);
    until("it is in the cache", || text(".flashget/files/folder/file") == expected(100));
    let copied = tool("cat", [mount.join(".flashget/files/folder/file").as_os_str()]).text();
    assert_eq!(copied, expected(100));
    assert_eq!(os_error(fs::read(mount.join(".flashget/files/none"))), libc::ENOENT);
    assert_eq!(os_error(fs::read_dir(mount.join(".flashget/status"))), libc::ENOTDIR);
    assert_eq!(os_error(File::create(mount.join(".flashget/status"))), libc::EROFS);
    reader.ok(["lock"]);
    assert!(text(".flashget/status").contains("locked yes\n"));
    assert!(tool("find", [mount.as_os_str()]).text().lines().all(|line| !line.contains(".flashget")));

    let plain = run(Command::new("getfattr").args(["-d"]).arg(mount.join("folder/file")));
    assert!(!plain.text().contains("flashget."), "{}", plain.text());
    reader.umount();
    reader.mount_with(&["-o", "xattr"]);
    let told =
        tool("getfattr", ["-d".as_ref(), "--absolute-names".as_ref(), mount.join("folder/file").as_os_str()]).text();
    for line in [
        format!("user.flashget.root=\"{hash}\""),
        "user.flashget.sources=\"1\"".into(),
        "user.flashget.state=\"live\"".into(),
    ] {
        assert!(told.contains(&line), "{told}");
    }
    let told = tool("getfattr", ["-d".as_ref(), "--absolute-names".as_ref(), mount.as_os_str()]).text();
    assert!(told.contains("user.flashget.network=\"lab\""), "{told}");
}

#[test]
fn an_ordinary_user_mounts_what_fstab_lets_users_mount() {
    require_root("it becomes an ordinary user, with an fstab of its own");
    let network = Network::new();
    let hash = random_file(&network.path("share/file"), 2 * MIB, "fstab of a user");
    let _source = network.source("source", &network.path("share"));
    let program = network.path("flashget");
    tool("cp", [Path::new(FLASHGET), &program]);
    let sbin = network.path("sbin");
    fs::create_dir(&sbin).unwrap();
    tool("cp", [mount_helper(), sbin.join("mount.flashget")]);
    for program in [&program, &sbin.join("mount.flashget")] {
        fs::set_permissions(program, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let mut reader = network.outsider("reader");
    reader.belongs_to(NOBODY, &program);
    reader.join(&network.invite);
    let (home, point) = (reader.home.to_str().unwrap(), reader.mount_point.to_str().unwrap());
    let options = format!("user,noauto,_netdev,nofail,x-systemd.automount,x-systemd.idle-timeout=1min,home={home}");
    text_file(&network.path("fstab"), format!("lab {point} flashget {options} 0 0\n"));
    let script = r#"
        set -eu
        mount --bind "$1/sbin" "$(readlink -f /sbin)"
        mount --bind "$1/fstab" /etc/fstab
        as_user="setpriv --reuid=65534 --regid=65534 --clear-groups --inh-caps=-all"
        $as_user mount "$2"
        $as_user cat "$2/file" > "$1/copy"
        grep " $2 " /proc/self/mountinfo | grep -c noexec
        $as_user umount "$2" || $as_user fusermount3 -u "$2"
        ! grep -q " $2 " /proc/self/mountinfo
    "#;
    let mut unshare = Command::new(find_tool("unshare"));
    unshare.args(["--mount", "sh", "-c", script, "sh"]).arg(network.path("")).arg(point);
    let done = run(unshare.env("FLASHGET_BIN", &program).env_remove("FLASHGET_HOME"));
    reader.watch_daemon();
    assert_eq!(done.ok().text(), "1\n");
    assert_eq!(hash_of(&network.path("copy")), hash);
    reader.ends();
}

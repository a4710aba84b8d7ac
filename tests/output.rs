//! What is printed, for people and for programs, and what is logged.

// clippy.toml lets only test functions unwrap, and all of this file is tests.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::path::Path;

use common::Network;
use common::contents::{MIB, hash_of, random_file, text_file};
use common::search::{found_in, markers};
use common::wait::until;
use serde_json::Value;

#[test]
fn an_invite_is_one_line_and_nothing_else_is_on_stdout() {
    let network = Network::new();
    let (fresh, running) = (network.outsider("fresh"), network.node("running"));
    for node in [&fresh, &running] {
        let made = node.run(["network", "create", "another", "--tracker", "tracker.example"]).ok();
        assert_eq!(made.stderr, "");
        let line = made.text();
        assert!(
            line.ends_with('\n') && line.lines().count() == 1 && !line.trim().contains(char::is_whitespace),
            "{line}"
        );
        let again = node.run(["network", "invite", "another"]).ok();
        assert_eq!((again.text(), again.stderr.as_str()), (line.clone(), ""));
        let joiner = network.outsider(&format!("joins-{}", node.name));
        // As `flashget network join "$(cat invite)"` and as `flashget network join - < invite`.
        joiner.ok(["network", "join", line.trim()]);
        assert_eq!(joiner.ok(["network", "invite", "another"]), line);
        assert_eq!(joiner.json(["network", "list"])["networks"][0]["trackers"][0]["address"], "tracker.example:7440");
    }
}

/// Asserts that `value` has these fields.
fn has(value: &Value, fields: &[&str]) {
    for field in fields {
        assert!(value.get(field).is_some(), "no '{field}' in {value}");
    }
}

#[test]
fn every_report_is_json_for_programs() {
    let network = Network::new();
    let share = network.path("share");
    random_file(&share.join("sub/file.bin"), MIB, "json");
    // A name that is no text: an array of bytes in JSON.
    let odd: &std::ffi::OsStr = std::os::unix::ffi::OsStrExt::from_bytes(b"odd\xff");
    text_file(&share.join(odd), "odd");

    let idle = network.member("idle");
    has(&idle.json(["network", "list"])["networks"][0], &["name", "id", "member", "trackers"]);
    has(&idle.json([Path::new("share"), "add".as_ref(), &share]), &["dir", "network", "state", "files"]);
    has(&idle.json(["share", "list"])["shares"][0], &["dir", "network", "state"]);
    let joiner = network.outsider("joiner");
    let joined = joiner.run_with(["network", "join", "-", "--json"], network.invite.as_bytes()).ok();
    has(&serde_json::from_slice(&joined.stdout).unwrap(), &["name", "id"]);

    let source = network.node("source");
    let added = source.json([Path::new("share"), "add".as_ref(), &share]);
    assert_eq!((&added["files"], &added["state"]), (&2.into(), &"watching".into()));
    let reader = network.node("reader");
    reader.sees("sub/file.bin", 1);
    let mounted = reader.json([Path::new("mount"), &reader.mount_point]);
    has(&mounted, &["dir", "network", "read_ahead_kb", "peers", "files", "notes"]);
    hash_of(&reader.mount_point.join("sub/file.bin"));

    let status = reader.json(["status"]);
    has(&status, &["version", "node", "name", "pid", "uptime_secs", "listen", "networks", "shares", "mounts", "cache"]);
    has(&status["cache"], &["disk_bytes", "disk_limit", "ram_bytes", "damaged", "evicted"]);
    let peer = &reader.json(["peers"])["peers"][0];
    has(peer, &["node", "network", "address", "received", "sent", "rtt_micros"]);
    assert_eq!((&peer["name"], &peer["files"]), (&"source".into(), &2.into()));
    let transfer = &reader.json(["transfers"])["transfers"][0];
    has(transfer, &["network", "root", "state", "bytes"]);
    assert_eq!((&transfer["path"], &transfer["size"]), (&"sub/file.bin".into(), &MIB.into()));
    has(&transfer["sources"][0], &["name", "bytes", "rate", "rtt_micros", "retries", "bad"]);

    let entries = reader.json(["ls"]);
    let entries = entries["entries"].as_array().unwrap().clone();
    assert_eq!(entries.iter().map(|entry| entry["kind"].as_str().unwrap()).collect::<Vec<_>>(), ["file", "folder"]);
    assert_eq!(entries[0]["path"], serde_json::json!([111, 100, 100, 255]));
    assert_eq!(reader.json(["ls", "-R"])["entries"].as_array().unwrap().len(), 2);
    let file = reader.json(["stat", "sub/file.bin"]);
    assert_eq!(file["root"], hash_of(&share.join("sub/file.bin")));
    assert_eq!(
        file,
        reader.json([Path::new("stat"), &reader.mount_point.join("sub/file.bin")]),
        "or by its path in a mount"
    );
}

#[test]
fn reports_for_people_name_what_there_is_and_escape_what_peers_name() {
    let network = Network::new();
    let share = network.path("share");
    text_file(&share.join("evil\u{1b}[31mred\nname"), "x");
    let source = network.source("source", &share);
    let reader = network.node("reader");
    until("the file is seen", || !reader.listing().is_empty());
    reader.mount();
    let reports = [
        source.ok(["share", "list"]),
        reader.ok(["network", "list"]),
        reader.ok(["ls"]),
        reader.ok(["ls", "-R"]),
        reader.ok(["peers"]),
        reader.ok(["transfers"]),
        reader.ok(["status"]),
    ];
    for report in &reports {
        assert!(!report.contains('\u{1b}') && !report.trim().is_empty(), "{report:?}");
    }
    assert!(reports[2].contains("red") && reports[2].lines().count() == 2, "{}", reports[2]);
    assert!(reports[4].contains("source") && reports[6].contains("lab"), "{reports:?}");
    for shell in ["bash", "zsh", "fish"] {
        assert!(reader.ok(["completions", shell]).contains("flashget"));
    }
    assert!(reader.ok(["--help"]).contains("Exit codes"));
}

#[test]
fn logs_at_the_usual_level_name_no_file_no_folder_and_no_content() {
    let network = Network::named("zq-network");
    let share = network.path("zq-share");
    random_file(&share.join("zq-folder/zq-big.bin"), 2 * MIB, "log");
    text_file(&share.join("zq-small.txt"), "zq-content");
    let (mut source, mut reader) = (network.node("source"), network.member("reader"));
    source.share(&share);
    let mut logs = Vec::new();
    let mut keep = |file: &Path| logs.push((file.to_owned(), fs::read(file).unwrap()));

    reader.mount();
    reader.sees("zq-small.txt", 1);
    assert_eq!(fs::read_to_string(reader.mount_point.join("zq-small.txt")).unwrap(), "zq-content");
    // Whatever goes wrong is logged too.
    fs::write(share.join("zq-small.txt"), "zq-changed").unwrap();
    until("the change is seen", || {
        fs::read_to_string(reader.mount_point.join("zq-small.txt")).is_ok_and(|text| text == "zq-changed")
    });
    let open = fs::File::open(reader.mount_point.join("zq-folder/zq-big.bin")).unwrap();
    fs::write(share.join("zq-folder/zq-big.bin"), "zq-other").unwrap();
    let mut byte = [0];
    let _ = std::os::unix::fs::FileExt::read_at(&open, &mut byte, MIB);
    drop(open);
    source.run(["share", "add", "/zq-missing"]).refused(3, "zq-missing");
    reader.run(["mount", "/zq-missing"]).refused(3, "zq-missing");
    fs::remove_dir_all(share.join("zq-folder")).unwrap();
    reader.misses("zq-folder/zq-big.bin");
    reader.umount();
    reader.ends();
    keep(&reader.home.join("state/daemon.log"));
    source.stop();
    keep(&source.log);
    fs::rename(&share, network.path("elsewhere")).unwrap();
    source.start();
    until("the share has failed", || source.status().shares[0].state == "failed");
    source.stop();
    keep(&source.log);
    // A cache that was tampered with.
    fs::write(reader.home.join("cache/packs/0"), "zq-garbage").unwrap();
    reader.start();
    reader.stop();
    keep(&reader.log);
    keep(&network.tracker_log());

    let names = markers(&[
        "zq-share",
        "zq-folder",
        "zq-big",
        "zq-small",
        "zq-content",
        "zq-changed",
        "zq-other",
        "zq-missing",
        "zq-garbage",
        "zq-network",
        "mnt/reader",
        &network.invite,
    ]);
    for (file, log) in logs {
        assert!(log.len() > 50, "{} is empty", file.display());
        let found = found_in(&log, &names);
        assert!(found.is_empty(), "{found:?} in {}:\n{}", file.display(), String::from_utf8_lossy(&log));
    }
}

#[test]
fn a_log_in_json_is_json_line_by_line() {
    let mut network = Network::new();
    text_file(&network.path("share/file"), "x");
    let mut node = network.member("node");
    node.start_with(&["--log-format", "json", "--log-level", "debug"]);
    node.share(&network.path("share"));
    node.mount();
    assert_eq!(fs::read_to_string(node.mount_point.join("file")).unwrap(), "x");
    node.umount();
    network.kill_tracker();
    node.stop();
    let log = fs::read_to_string(&node.log).unwrap();
    assert!(log.lines().count() > 3, "{log}");
    for line in log.lines() {
        let value: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        has(&value, &["timestamp", "level", "target", "fields"]);
    }
    assert!(log.contains(&node.addr.to_string()), "where it listens is in the log: {log}");

    // The same by the settings, and a level that says less.
    node.settings("log.format = \"json\"\nlog.level = \"error\"\n");
    node.start();
    node.stop();
    assert_eq!(fs::read_to_string(&node.log).unwrap(), "");
}

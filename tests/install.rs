//! scripts/install: all of it is in its place, it works from there, and taking it away leaves what was there before.

// clippy.toml lets only test functions unwrap, and all of this file is tests.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::contents::text_file;
use common::process::{FLASHGET, Output, in_plain_locale, run, tool};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// As mlocate and plocate have it in Debian.
const UPDATEDB: &str = "\
PRUNE_BIND_MOUNTS=\"yes\"
# PRUNENAMES=\".git .bzr .hg .svn\"
PRUNEPATHS=\"/tmp /var/spool /media\"
PRUNEFS=\"NFS afs autofs nfs nfs4 fuse.glusterfs fuse.sshfs\"
";

/// Runs scripts/install into a folder with this test's own programs.
fn install(destdir: &Path, args: &[&str]) -> Output {
    let from = Path::new(FLASHGET).parent().unwrap();
    if !from.join("mount-flashget").exists() {
        run(Command::new(env!("CARGO")).args(["build", "--package", "mount-flashget"])).ok();
    }
    let mut command = in_plain_locale(Command::new(Path::new(ROOT).join("scripts/install")));
    run(command.arg("--destdir").arg(destdir).arg("--from").arg(from).args(args))
}

/// Everything below a folder: the contents of files, where links lead; nothing for folders.
fn all_below(dir: &Path) -> BTreeMap<PathBuf, String> {
    let mut all = BTreeMap::new();
    let mut folders = vec![dir.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let meta = fs::symlink_metadata(&path).unwrap();
            let what = if meta.is_symlink() {
                format!("-> {}", fs::read_link(&path).unwrap().display())
            } else if meta.is_dir() {
                folders.push(path.clone());
                "folder".into()
            } else {
                format!("{:o} {}", meta.permissions().mode() & 0o7777, blake3::hash(&fs::read(&path).unwrap()))
            };
            all.insert(path.strip_prefix(dir).unwrap().into(), what);
        }
    }
    all
}

/// What a system has before: some of the folders, a file in one of them, updatedb's settings.
fn system() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    text_file(&dir.path().join("usr/local/bin/other"), "another program");
    text_file(&dir.path().join("etc/updatedb.conf"), UPDATEDB);
    fs::set_permissions(dir.path().join("etc/updatedb.conf"), PermissionsExt::from_mode(0o640)).unwrap();
    dir
}

#[test]
fn what_was_installed_works_and_goes_without_a_trace() {
    let dir = system();
    let before = all_below(dir.path());
    let said = install(dir.path(), &[]).ok().text();
    assert!(said.contains("user_allow_other"), "{said}");

    let at = |path: &str| dir.path().join(path);
    let read = |path: &str| fs::read_to_string(at(path)).unwrap_or_else(|error| panic!("{path}: {error}"));
    for (path, says) in [
        ("usr/local/share/man/man1/flashget-mount.1", "cache_size"),
        ("usr/local/share/man/man8/mount.flashget.8", "read_ahead_kb"),
        ("usr/local/share/bash-completion/completions/flashget", "complete -F"),
        ("usr/local/share/zsh/site-functions/_flashget", "#compdef flashget"),
        ("usr/local/share/fish/vendor_completions.d/flashget.fish", "complete -c flashget"),
        ("usr/local/lib/systemd/system/flashget.service", "ExecStart=/usr/local/bin/flashget daemon\n"),
        ("usr/local/lib/systemd/system/flashget-tracker.service", "ExecStart=/usr/local/bin/flashget tracker\n"),
        ("usr/local/lib/systemd/user/flashget.service", "ExecStart=/usr/local/bin/flashget daemon\n"),
        ("etc/flashget/config.toml", "#listen = "),
        ("etc/updatedb.conf", "nfs4 fuse.glusterfs fuse.sshfs fuse.flashget\"\n"),
    ] {
        assert!(read(path).contains(says), "{path} does not say {says}:\n{}", read(path));
    }
    let version = format!("flashget {}", env!("CARGO_PKG_VERSION"));
    assert_eq!(run(Command::new(at("usr/local/bin/flashget")).arg("--version")).ok().text().trim(), version);
    let config = run(Command::new(at("usr/local/bin/flashget"))
        .args(["config", "check", "--home"])
        .arg(at("home"))
        .arg("--config")
        .arg(at("etc/flashget/config.toml")))
    .ok();
    assert!(config.text().contains("in order"));
    let helper = run(Command::new(at("sbin/mount.flashget")).arg("-V")).ok().text();
    assert!(helper.starts_with("mount.flashget "), "{helper}");
    assert_eq!(fs::metadata(at("etc/updatedb.conf")).unwrap().permissions().mode() & 0o7777, 0o640);

    // A second time changes nothing.
    let once = all_below(dir.path());
    install(dir.path(), &[]).ok();
    assert_eq!(all_below(dir.path()), once);

    install(dir.path(), &["--uninstall"]).ok();
    assert_eq!(all_below(dir.path()), before);
}

#[test]
fn an_empty_folder_is_empty_again() {
    let dir = tempfile::tempdir().unwrap();
    for prefix in ["/usr/local", "/usr", "/opt/flash"] {
        install(dir.path(), &["--prefix", prefix]).ok();
        assert!(dir.path().join(&prefix[1..]).join("bin/flashget").exists());
        if prefix.starts_with("/opt") {
            // The helper finds flashget beside itself, and systemd its units in /etc.
            let link = fs::read_link(dir.path().join("sbin/mount.flashget")).unwrap();
            assert_eq!(link, Path::new("/opt/flash/bin/mount.flashget"));
            let unit = fs::read_to_string(dir.path().join("etc/systemd/system/flashget.service")).unwrap();
            assert!(unit.contains("ExecStart=/opt/flash/bin/flashget daemon\n"), "{unit}");
        }
        install(dir.path(), &["--uninstall", "--prefix", prefix]).ok();
        assert_eq!(all_below(dir.path()), BTreeMap::new(), "{prefix}");
    }
}

#[test]
fn settings_and_keys_stay_and_the_cache_goes() {
    let dir = system();
    let settings = dir.path().join("etc/flashget/config.toml");
    text_file(&settings, "[node]\nname = \"mine\"\n");
    let vault = dir.path().join("var/lib/flashget/vault");
    text_file(&vault, "keys");
    text_file(&dir.path().join("var/cache/flashget/flashget-cache/1"), "sealed");
    install(dir.path(), &[]).ok();
    assert_eq!(fs::read_to_string(&settings).unwrap(), "[node]\nname = \"mine\"\n");
    let said = install(dir.path(), &["--uninstall"]).ok().text();
    assert!(settings.exists() && vault.exists() && !dir.path().join("var/cache/flashget").exists());
    assert!(said.contains("etc/flashget") && said.contains("var/lib/flashget"), "{said}");

    // Those that were installed, and changed since, stay as well.
    fs::remove_file(&settings).unwrap();
    install(dir.path(), &[]).ok();
    fs::write(&settings, "[node]\nname = \"other\"\n").unwrap();
    install(dir.path(), &["--uninstall"]).ok();
    assert_eq!(fs::read_to_string(&settings).unwrap(), "[node]\nname = \"other\"\n");
}

#[test]
fn what_updatedb_leaves_out_is_as_it_was_to_the_byte() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("updatedb.conf");
    let prunefs = |what: &str| run(Command::new(Path::new(ROOT).join("dist/prunefs")).arg(what).arg(&file)).ok().stderr;
    for (text, added) in [
        (UPDATEDB, "\nPRUNEFS=\"NFS afs autofs nfs nfs4 fuse.glusterfs fuse.sshfs fuse.flashget\"\n"),
        ("PRUNEFS=\"\"\n", "\nPRUNEFS=\" fuse.flashget\"\n"),
        ("  PRUNEFS = \"nfs\" \nX=\"1\"", "\n  PRUNEFS = \"nfs fuse.flashget\" \nX=\"1\""),
        (
            "# PRUNEFS=\"nfs\"\nPRUNEPATHS=\"/tmp\"",
            "\nPRUNEFS=\"fuse.flashget\"\n# PRUNEFS=\"nfs\"\nPRUNEPATHS=\"/tmp\"",
        ),
    ] {
        fs::write(&file, text).unwrap();
        prunefs("add");
        let now = fs::read_to_string(&file).unwrap();
        assert!(now.contains(added), "{text:?} became {now:?}");
        prunefs("add");
        assert_eq!(fs::read_to_string(&file).unwrap(), now, "{text:?}");
        prunefs("remove");
        assert_eq!(fs::read_to_string(&file).unwrap(), text);
        // What somebody adds meanwhile stays.
        prunefs("add");
        let more = fs::read_to_string(&file).unwrap().replace("fuse.flashget\"", "fuse.flashget fuse.other\"");
        fs::write(&file, more + "\n# more\n").unwrap();
        prunefs("remove");
        let left = fs::read_to_string(&file).unwrap();
        assert!(!left.contains("flashget") && left.ends_with("\n# more\n"), "{left:?}");
    }
    // Somebody else's, or of a shape that is not known: left alone.
    for text in ["PRUNEFS=\"nfs fuse.flashget\"\n", "PRUNEFS=\"fuse.flashget nfs\"\n", "PRUNEFS=nfs\n"] {
        fs::write(&file, text).unwrap();
        let said = prunefs("add");
        assert_eq!(said.contains("by hand"), !text.contains("flashget"), "{said}");
        prunefs("remove");
        assert_eq!(fs::read_to_string(&file).unwrap(), text);
    }
    let names: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["updatedb.conf"]);
}

#[test]
fn what_is_wrong_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let refused = |output: Output, code: i32, says: &str| {
        assert_eq!(output.code(), code, "{}", output.stderr);
        assert!(output.stderr.contains(says), "{}", output.stderr);
    };
    refused(install(dir.path(), &["--uninstall"]), 1, "nothing is installed there");
    refused(install(dir.path(), &["--prefix", "relative"]), 1, "absolute");
    refused(install(dir.path(), &["--frob"]), 2, "usage: ");
    refused(install(dir.path(), &["--prefix"]), 2, "usage: ");
    refused(install(dir.path(), &["--from", "/nowhere"]), 1, "cargo build --release");
    assert_eq!(all_below(dir.path()), BTreeMap::new());

    // Only root may write into the system. Who runs this test as root becomes somebody else for it.
    let script = Path::new(ROOT).join("scripts/install");
    // The source may be where others have no access: the script comes by stdin.
    let mut command = if rustix::process::geteuid().is_root() {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "bash"]);
        command
    } else {
        Command::new("bash")
    };
    command.arg("-s");
    let text = fs::read(&script).unwrap();
    let output = common::process::run_with(command.current_dir("/"), &text, common::process::LIMIT);
    refused(output, 1, "needs root");
}

#[test]
fn the_pages_are_such_that_man_takes_them() {
    let dir = tempfile::tempdir().unwrap();
    run(Command::new(FLASHGET).arg("man").arg(dir.path())).ok();
    let page = |name: &str| fs::read_to_string(dir.path().join(name)).unwrap();
    // Each begins with its title and says what it is in the line that apropos reads.
    let mut pages = 0;
    for entry in fs::read_dir(dir.path()).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let text = page(&name);
        assert!(text.contains("\n.TH ") || text.starts_with(".TH "), "{name}");
        assert!(text.contains(".SH NAME\n") && text.contains("\\- "), "{name}");
        pages += 1;
    }
    assert!(pages > 20, "{pages}");
    let help = tool(FLASHGET, ["help"]).text();
    assert!(!help.contains("\n  man"), "it is for those who package flashget: {help}");
}

/// What a daemon or tracker tells systemd, in order, until one of it begins with `last`.
fn told(socket: &std::os::unix::net::UnixDatagram, last: &str) -> Vec<String> {
    socket.set_read_timeout(Some(std::time::Duration::from_secs(30))).unwrap();
    let mut all = Vec::new();
    while !all.iter().any(|told: &String| told.starts_with(last)) {
        let mut bytes = [0; 512];
        let len = socket.recv(&mut bytes).unwrap_or_else(|error| panic!("{last}: {error} after {all:?}"));
        all.push(String::from_utf8(bytes[..len].to_vec()).unwrap());
    }
    all
}

#[test]
fn systemd_is_told_when_a_service_is_ready_and_when_it_ends() {
    let dir = tempfile::tempdir().unwrap();
    let home = dir.path().join("home");
    let flashget = || {
        let mut command = Command::new(FLASHGET);
        command.arg("--home").arg(&home).env_remove("FLASHGET_HOME");
        command
    };
    run(flashget().args(["network", "create", "lab"])).ok();
    let path = dir.path().join("notify");
    let socket = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
    for (service, status) in [("daemon", "STATUS=node "), ("tracker", "STATUS=tracker for 1 network ")] {
        let log = dir.path().join(format!("{service}.log"));
        let mut running = common::process::Running::start(
            flashget().args([service, "--listen", "127.0.0.1:0"]).env("NOTIFY_SOCKET", &path),
            &log,
        );
        let ready = told(&socket, "READY=1\n");
        assert!(ready.len() == 1 && ready[0].contains(status), "{ready:?}");
        if service == "daemon" {
            // Ready is: it can be asked.
            run(flashget().arg("status")).ok();
        }
        running.signal(rustix::process::Signal::TERM);
        told(&socket, "STOPPING=1\n");
        assert!(running.wait(common::process::LIMIT).success(), "{service}");
    }
}

#[test]
fn the_units_of_daemons_let_their_mounts_be_seen_and_their_shares_be_read() {
    let unit = |path: &str| fs::read_to_string(Path::new(ROOT).join("dist/systemd").join(path)).unwrap();
    let set = |unit: &str| -> Vec<String> {
        unit.lines()
            .filter_map(|line| Some(line.split_once('=')?.0.to_owned()))
            .filter(|key| !key.contains('#'))
            .collect()
    };
    let system = unit("system/flashget.service");
    // Its own comment lists what would give it a mount namespace of its own.
    let listed = system.split_once("PrivateMounts, ").unwrap().1.split_once("What they would forbid").unwrap().0;
    let mut never: Vec<&str> =
        listed.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty()).collect();
    assert!(never.contains(&"ProtectSystem") && never.contains(&"PrivateTmp") && never.len() > 20, "{never:?}");
    // It takes openat2(2) away, by which shared files are opened.
    never.extend(["PrivateMounts", "RestrictSUIDSGID"]);
    for key in set(&system) {
        assert!(!never.contains(&key.as_str()), "{key} hides mounts, or shared files");
    }
    // These imply NoNewPrivileges in a user's unit (and others hide mounts), and fusermount3 is setuid.
    for key in set(&unit("user/flashget.service")) {
        let harmless = ["Description", "Documentation", "Type", "ExecStart", "Restart", "RestartSec", "WantedBy"];
        let others = ["RestartPreventExitStatus", "TimeoutStopSec", "LimitCORE"];
        assert!(
            harmless.contains(&key.as_str()) || others.contains(&key.as_str()),
            "{key}: may fusermount3 still mount?"
        );
    }
}

//! What people do with a folder works from the mount.

// clippy.toml lets only test functions unwrap, and all of this file is tests.
#![allow(clippy::unwrap_used)]

mod common;

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::contents::{MIB, assert_same, files_below, random_file, text_file};
use common::mounts::require_root;
use common::network::shared;
use common::process::{find_tool, in_plain_locale, run, tool};

/// A share with files of all sizes around a chunk's (256 KiB), an empty one, a program, and one with odd names.
fn tree(dir: &Path) {
    const CHUNK: u64 = 256 << 10;
    for size in [0, 1, 4095, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK, 5 * MIB + 123] {
        random_file(&dir.join(format!("sizes/{size}")), size, "sizes");
    }
    text_file(&dir.join("texts/first.txt"), "nothing here\nthe needle is here\n");
    text_file(&dir.join("texts/deep/er/second.txt"), "needle\n".repeat(10_000));
    text_file(&dir.join("names/with space"), "space");
    text_file(&dir.join("names/größe 漢字"), "letters");
    text_file(&dir.join("names/-rf"), "dash");
    let program = dir.join("bin/hello");
    text_file(&program, "#!/bin/sh\necho hello\n");
    fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
}

#[test]
fn rsync_copies_once_and_finds_nothing_to_do_the_second_time() {
    let (network, source, reader, mount) = shared(tree);
    let copy = network.path("copy");
    let rsync = || {
        let from = mount.join("");
        tool(
            "rsync",
            ["-a".as_ref(), "--stats".as_ref(), "--out-format=COPIED %n".as_ref(), from.as_os_str(), copy.as_os_str()],
        )
        .text()
    };
    let files = files_below(&network.path("share"));
    let copied = |said: &str| said.lines().filter(|line| line.starts_with("COPIED ") && !line.ends_with('/')).count();
    assert_eq!(copied(&rsync()), files.len());
    assert_same(&network.path("share"), &copy);
    let second = rsync();
    assert_eq!(copied(&second), 0, "{second}");
    assert!(second.contains("Number of regular files transferred: 0"), "{second}");

    // Another source of the same files, with times of its own, changes nothing.
    let other = network.path("again");
    tool("cp", ["-r".as_ref(), network.path("share").as_os_str(), other.as_os_str()]);
    let other = network.source("other", &other);
    reader.sees("texts/first.txt", 2);
    assert_eq!(copied(&rsync()), 0);
    drop((source, other));
}

#[test]
fn tar_packs_what_is_there() {
    let (network, _source, _reader, mount) = shared(tree);
    let archive = network.path("all.tar");
    // --sparse trusts st_blocks: where a file claimed none, its content would be left out.
    tool(
        "tar",
        ["--sparse".as_ref(), "-cf".as_ref(), archive.as_os_str(), "-C".as_ref(), mount.as_os_str(), ".".as_ref()],
    );
    let unpacked = network.path("unpacked");
    fs::create_dir(&unpacked).unwrap();
    tool("tar", ["-xf".as_ref(), archive.as_os_str(), "-C".as_ref(), unpacked.as_os_str()]);
    assert_same(&network.path("share"), &unpacked);
}

#[test]
fn grep_du_find_and_programs_work() {
    let (network, _source, _reader, mount) = shared(tree);
    let found = tool("grep", ["-rc".as_ref(), "needle".as_ref(), mount.join("texts").as_os_str()]).text();
    let mut found: Vec<&str> = found.lines().map(|line| line.rsplit_once('/').unwrap().1).collect();
    found.sort();
    assert_eq!(found, ["first.txt:1", "second.txt:10000"]);

    let size = |dir: &Path| {
        let said = tool("du", ["-s".as_ref(), "--apparent-size".as_ref(), "-B1".as_ref(), dir.as_os_str()]).text();
        said.split_whitespace().next().unwrap().parse::<u64>().unwrap()
    };
    let real: u64 = files_below(&network.path("share"))
        .iter()
        .map(|file| fs::metadata(network.path("share").join(file)).unwrap().len())
        .sum();
    assert_eq!(size(&mount), real);
    let blocks = tool("du", ["-s".as_ref(), "-B1".as_ref(), mount.as_os_str()]).text();
    assert!(blocks.split_whitespace().next().unwrap().parse::<u64>().unwrap() >= real, "{blocks}");

    let names = tool(
        "find",
        [mount.join("names").as_os_str(), "-type".as_ref(), "f".as_ref(), "-printf".as_ref(), "%f\n".as_ref()],
    );
    let names = names.text();
    let mut names: Vec<&str> = names.lines().collect();
    names.sort();
    assert_eq!(names, ["-rf", "größe 漢字", "with space"]);
    assert_eq!(run(&mut Command::new(mount.join("bin/hello"))).ok().text(), "hello\n");
    let df = tool("df", ["--output=source,fstype,avail".as_ref(), mount.as_os_str()]).text();
    let last: Vec<&str> = df.lines().last().unwrap().split_whitespace().collect();
    assert_eq!(last, ["lab", "fuse.flashget", "0"]);
}

#[test]
fn sqlite_reads_a_database() {
    let sqlite = find_tool("sqlite3");
    let ask = |file: &Path, question: &str| {
        let mut command = in_plain_locale(Command::new(&sqlite));
        // A database on a file system that is read-only: nobody can change it.
        command.arg(format!("file:{}?immutable=1", file.display())).arg(question);
        run(&mut command).ok().text()
    };
    let count = "select count(*), sum(number), max(word) from things where number % 3 = 0;";
    let (network, _source, _reader, mount) = shared(|dir| {
        let file = dir.join("things.db");
        fs::create_dir_all(dir).unwrap();
        let make = "create table things(number integer primary key, word text);
            with recursive n(i) as (select 1 union all select i + 1 from n where i < 100000)
            insert into things select i, 'word ' || i from n; create index words on things(word);";
        run(in_plain_locale(Command::new(&sqlite)).arg(&file).arg(make)).ok();
    });
    let original = ask(&network.path("share/things.db"), count);
    assert_eq!(original.trim(), "33333|1666683333|word 99999");
    assert_eq!(ask(&mount.join("things.db"), count), original);
    let indexed = "select number from things where word = 'word 77777';";
    assert_eq!(ask(&mount.join("things.db"), indexed), "77777\n");
    // And without being told that nobody changes it.
    let plain = run(in_plain_locale(Command::new(&sqlite)).arg("-readonly").arg(mount.join("things.db")).arg(indexed));
    assert_eq!(plain.ok().text(), "77777\n");
}

/// Undone when dropped: in this order, and before the mount below goes.
struct Loop {
    point: PathBuf,
    device: Option<String>,
}

impl Drop for Loop {
    fn drop(&mut self) {
        let quiet = |mut command: Command| drop(command.stderr(std::process::Stdio::null()).status());
        let mut umount = Command::new(find_tool("umount"));
        umount.arg("-l").arg(&self.point);
        quiet(umount);
        if let Some(device) = &self.device {
            let mut losetup = Command::new(find_tool("losetup"));
            losetup.args(["-d", device]);
            quiet(losetup);
        }
    }
}

#[test]
fn images_are_mounted_through_loop_devices() {
    require_root("only root may set a loop device up");
    if let Err(error) = fs::OpenOptions::new().read(true).write(true).open("/dev/loop-control") {
        panic!("this test mounts through a loop device, and /dev/loop-control can't be opened: {error}");
    }
    let (network, _source, _reader, mount) = shared(|dir| {
        let files = dir.parent().unwrap().join("packed");
        random_file(&files.join("dir/data.bin"), 3 * MIB + 77, "iso");
        text_file(&files.join("readme.txt"), "read me\n");
        fs::create_dir_all(dir).unwrap();
        let make_iso: [&OsStr; 7] = [
            "-as".as_ref(),
            "mkisofs".as_ref(),
            "-quiet".as_ref(),
            "-R".as_ref(),
            "-o".as_ref(),
            &dir.join("image.iso").into_os_string(),
            files.as_os_str(),
        ];
        tool("xorriso", make_iso);
        let image = dir.join("image.ext4");
        fs::File::create(&image).unwrap().set_len(16 * MIB).unwrap();
        let make_ext4: [&OsStr; 6] =
            ["-q".as_ref(), "-t".as_ref(), "ext4".as_ref(), "-d".as_ref(), files.as_os_str(), image.as_os_str()];
        tool("mke2fs", make_ext4);
    });
    let packed = network.path("packed");
    let point = network.path("looped");
    fs::create_dir(&point).unwrap();

    let iso = mount.join("image.iso");
    if fs::read_to_string("/proc/filesystems").unwrap().contains("iso9660") || load_iso9660() {
        let mut looped = Loop { point: point.clone(), device: None };
        tool("mount", ["-o".as_ref(), "loop,ro".as_ref(), iso.as_os_str(), point.as_os_str()]);
        assert_same(&packed, &point);
        tool("umount", [looped.point.as_os_str()]);
        looped.point = PathBuf::new();
    } else {
        // A kernel without ISO 9660: what it would do to the loop device, another reader of such images does.
        eprintln!("this kernel can't mount an ISO image: xorriso reads it, from a loop device all the same");
        let made = tool("losetup", ["--find".as_ref(), "--show".as_ref(), "--read-only".as_ref(), iso.as_os_str()]);
        let device = made.text().trim().to_owned();
        let looped = Loop { point: PathBuf::new(), device: Some(device.clone()) };
        let unpacked = network.path("unpacked");
        let device = format!("stdio:{device}");
        let extract: [&OsStr; 8] = [
            "-indev".as_ref(),
            device.as_ref(),
            "-osirrox".as_ref(),
            "on".as_ref(),
            "-extract".as_ref(),
            "/".as_ref(),
            unpacked.as_os_str(),
            "-end".as_ref(),
        ];
        tool("xorriso", extract);
        assert_same(&packed, &unpacked);
        drop(looped);
    }

    let looped = Loop { point: point.clone(), device: None };
    let image = mount.join("image.ext4");
    tool("mount", ["-o".as_ref(), "loop,ro,noload".as_ref(), image.as_os_str(), point.as_os_str()]);
    let lost_and_found = point.join("lost+found");
    assert!(lost_and_found.is_dir());
    assert_same(&packed, &point);
    tool("umount", [point.as_os_str()]);
    drop(looped);
}

fn load_iso9660() -> bool {
    let loaded = Command::new("modprobe").arg("isofs").stderr(std::process::Stdio::null()).status();
    loaded.is_ok_and(|status| status.success())
}

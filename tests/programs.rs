//! Programs that are hard on a file system work from the mount: they seek, map, read in parallel, and look at sizes and
//! blocks.

// clippy.toml lets only test functions unwrap, and all of this file is tests.
#![allow(clippy::unwrap_used)]

mod common;

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::process::Command;

use common::contents::{MIB, assert_same, hash_of, random_file, text_file};
use common::network::shared;
use common::process::{Output, find_tool, in_plain_locale, run, tool};

/// Runs a tool with arguments of mixed kinds.
macro_rules! tool {
    ($name:expr $(, $arg:expr)* $(,)?) => { tool($name, [$(AsRef::<OsStr>::as_ref(&$arg)),*]) };
}

/// Git with nobody's settings.
fn git<A: AsRef<OsStr>>(dir: &Path, args: impl IntoIterator<Item = A>) -> Output {
    let mut command = in_plain_locale(Command::new(find_tool("git")));
    command.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_NOSYSTEM", "1");
    for role in ["AUTHOR", "COMMITTER"] {
        command.env(format!("GIT_{role}_NAME"), "Somebody").env(format!("GIT_{role}_EMAIL"), "somebody@example.org");
    }
    run(command.arg("-C").arg(dir).args(args)).ok()
}

#[test]
fn git_clones_a_bare_repository() {
    let (network, _source, _reader, mount) = shared(|dir| {
        let work = dir.parent().unwrap().join("work");
        fs::create_dir_all(&work).unwrap();
        git(&work, ["init", "-q", "-b", "main"]);
        for commit in 0..10 {
            text_file(&work.join("texts/log.txt"), format!("line {commit}\n").repeat(commit * 500 + 1));
            random_file(&work.join(format!("data/{commit}.bin")), 50_000, &commit.to_string());
            git(&work, ["add", "."]);
            git(&work, ["commit", "-q", "-m", &format!("commit {commit}")]);
        }
        git(&work, ["tag", "v1"]);
        fs::create_dir_all(dir).unwrap();
        let bare = dir.join("project.git");
        git(dir, ["init", "-q", "--bare", "-b", "main", "project.git"]);
        git(&work, ["push", "-q", "--tags", bare.to_str().unwrap(), "main"]);
        // Everything in one pack but the last commit, which stays in loose objects.
        git(&bare, ["repack", "-adq"]);
        text_file(&work.join("last.txt"), "last\n");
        git(&work, ["add", "."]);
        git(&work, ["commit", "-q", "-m", "last"]);
        git(&work, ["push", "-q", bare.to_str().unwrap(), "main"]);
    });
    let work = network.path("work");
    let bare = mount.join("project.git");
    git(&bare, ["fsck", "--full", "--strict"]);
    // Both ways that git knows: copying the objects, and talking to an upload-pack that maps them.
    let by_protocol = format!("file://{}", bare.display());
    for (name, from) in [("copied", bare.to_str().unwrap()), ("spoken", &by_protocol)] {
        git(&network.path(""), ["clone", "-q", from, name]);
        let clone = network.path(name);
        git(&clone, ["fsck", "--full", "--strict"]);
        let head = |dir: &Path| git(dir, ["log", "--format=%H %s", "main"]).text();
        assert_eq!(head(&clone), head(&work));
        assert_eq!(head(&clone).lines().count(), 11);
        assert_eq!(git(&clone, ["rev-parse", "v1"]).text(), git(&work, ["rev-parse", "v1"]).text());
        for part in ["texts", "data"] {
            assert_same(&work.join(part), &clone.join(part));
        }
        assert_eq!(git(&clone, ["status", "--porcelain"]).text(), "");
    }
}

#[test]
fn ffmpeg_seeks_in_a_video() {
    let (network, _source, _reader, mount) = shared(|dir| {
        fs::create_dir_all(dir).unwrap();
        let picture = "testsrc2=size=640x480:rate=25:duration=20";
        let sound = "sine=frequency=440:duration=20";
        // Its index is at its end, so that even opening it seeks.
        let encoded = ["-c:v", "mpeg4", "-q:v", "2", "-c:a", "aac", "-bitexact", "-shortest"];
        let inputs = ["-v", "error", "-f", "lavfi", "-i", picture, "-f", "lavfi", "-i", sound];
        let video = dir.join("video.mp4");
        tool("ffmpeg", inputs.iter().chain(&encoded).map(OsStr::new).chain([video.as_os_str()]));
        assert!(fs::metadata(video).unwrap().len() > 4 * MIB, "long enough that there is something to seek over");
    });
    let (original, video) = (network.path("share/video.mp4"), mount.join("video.mp4"));
    let frame = |video: &Path, second: &str| {
        let args: [&OsStr; 10] = [
            "-v".as_ref(),
            "error".as_ref(),
            "-ss".as_ref(),
            second.as_ref(),
            "-i".as_ref(),
            video.as_os_str(),
            "-frames:v".as_ref(),
            "1".as_ref(),
            "-f".as_ref(),
            "framemd5".as_ref(),
        ];
        tool("ffmpeg", args.into_iter().chain(["-an".as_ref(), "-".as_ref()])).text()
    };
    let in_the_middle = frame(&video, "10");
    assert!(in_the_middle.lines().any(|line| line.starts_with("0, ")), "a frame: {in_the_middle}");
    assert_eq!(in_the_middle, frame(&original, "10"));
    assert_ne!(in_the_middle, frame(&original, "3"), "frames differ, or this would show nothing");
    let shown = "format=duration,size,bit_rate:stream=codec_name,nb_frames,width,height";
    let probe = |video: &Path| tool!("ffprobe", "-v", "error", "-show_entries", shown, "-of", "csv", video).text();
    let probed = probe(&video);
    assert!(probed.contains("mpeg4,640,480,500"), "{probed}");
    assert_eq!(probed, probe(&original));
    let all = |video: &Path| tool!("ffmpeg", "-v", "error", "-i", video, "-f", "md5", "-").text();
    assert_eq!(all(&video), all(&original));
}

#[test]
fn archives_and_disk_images_are_read() {
    let (network, _source, _reader, mount) = shared(|dir| {
        let files = dir.parent().unwrap().join("files");
        random_file(&files.join("random.bin"), 3 * MIB + 5, "zip");
        text_file(&files.join("deep/text.txt"), "a line of text\n".repeat(100_000));
        fs::create_dir_all(dir).unwrap();
        tool!("python3", "-m", "zipfile", "-c", dir.join("files.zip"), files.join("random.bin"), files.join("deep"));
        // A disk with data here and there.
        let disk = File::create(dir.join("disk.raw")).unwrap();
        disk.set_len(48 * MIB).unwrap();
        for at in [0, 7 * MIB + 512, 33 * MIB, 48 * MIB - 4096] {
            disk.write_all_at(&at.to_le_bytes().repeat(512), at).unwrap();
        }
    });
    let zip = mount.join("files.zip");
    let tested = tool!("python3", "-m", "zipfile", "-t", zip).text();
    assert!(tested.contains("Done testing") && !tested.contains("corrupt"), "{tested}");
    let unpacked = network.path("unpacked");
    tool!("python3", "-m", "zipfile", "-e", zip, unpacked);
    assert_same(&network.path("files"), &unpacked);

    let (original, disk) = (network.path("share/disk.raw"), mount.join("disk.raw"));
    let converted = network.path("disk.qcow2");
    tool!("qemu-img", "convert", "-f", "raw", "-O", "qcow2", disk, converted);
    // Fails if they differ.
    tool!("qemu-img", "compare", "-f", "raw", "-F", "qcow2", original, converted);
    tool!("qemu-img", "compare", "-f", "raw", "-F", "raw", original, disk);
    tool!("qemu-img", "check", "-f", "qcow2", converted);

    // A copy that finds the zeros by itself, as the mount says of no part that it is a hole.
    let sparse = network.path("sparse.raw");
    tool!("cp", "--sparse=always", disk, sparse);
    assert_eq!(hash_of(&sparse), hash_of(&original));
    let occupied = |file: &Path| fs::metadata(file).unwrap().blocks() * 512;
    assert!(occupied(&sparse) < MIB, "{}", occupied(&sparse));
    assert!(occupied(&disk) >= 48 * MIB);
    let plain = network.path("plain.raw");
    tool!("cp", "--sparse=auto", disk, plain);
    assert_eq!(hash_of(&plain), hash_of(&original));
}

#[test]
fn find_and_du_say_of_the_mount_what_they_say_of_the_share() {
    let (network, _source, _reader, mount) = shared(|dir| {
        for (at, size) in [0, 1, 511, 512, 513, 4096, 262_143, 262_144, 262_145, MIB + 1].into_iter().enumerate() {
            let file = dir.join(format!("{}/{}/file {size}", at % 3, at % 2));
            random_file(&file, size, &size.to_string());
            let mode = if at % 4 == 0 { 0o755 } else { 0o644 };
            fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
            tool!("touch", "-d", format!("2001-02-03 04:05:{at:02}.123456789"), file);
        }
    });
    let share = network.path("share");
    let sorted = |said: String| {
        let mut lines: Vec<String> = said.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    let files = |dir: &Path| sorted(tool!("find", dir, "-type", "f", "-printf", "%P %s %T+ %y %d %f %h\n").text());
    let below = |lines: Vec<String>, dir: &Path| -> Vec<String> {
        lines.iter().map(|line| line.replace(dir.to_str().unwrap(), "")).collect()
    };
    assert_eq!(below(files(&mount), &mount), below(files(&share), &share));
    assert_eq!(files(&mount).len(), 10);
    let picked = |dir: &Path| {
        let mut found = Vec::new();
        for test in
            [["-size", "+256k"], ["-perm", "-u=x"], ["-empty", "-readable"], ["-newermt", "2001-02-03 04:05:05"]]
        {
            found.push(sorted(tool!("find", dir, "-type", "f", test[0], test[1], "-printf", "%P\n").text()));
        }
        found
    };
    assert_eq!(picked(&mount), picked(&share));
    assert!(picked(&share).iter().all(|found| !found.is_empty()), "each of them picks some");
    // Folders have no size of their own in the mount, so only files are compared.
    let sizes = |dir: &Path| {
        let found = tool!("find", dir, "-type", "f", "-exec", "du", "-b", "{}", "+").text();
        below(sorted(found), dir)
    };
    assert_eq!(sizes(&mount), sizes(&share));
}

#[test]
fn fio_verifies_what_eight_jobs_read() {
    const SIZE: &str = "--size=32M";
    // What each job reads is checked against a checksum and the place that fio wrote into every block.
    const CHECKED: [&str; 5] = ["--bs=64k", "--verify=crc32c", "--verify_fatal=1", "--minimal", SIZE];
    let fio = |dir: &Path, file: &Path, more: &[&str]| {
        let mut command = in_plain_locale(Command::new(find_tool("fio")));
        // It leaves its state in the folder in which it runs.
        command.current_dir(dir).arg("--name=job").arg(format!("--filename={}", file.display()));
        run(command.args(CHECKED).args(more))
    };
    let (network, _source, _reader, mount) = shared(|dir| {
        fs::create_dir_all(dir).unwrap();
        let file = dir.join("data");
        fio(dir.parent().unwrap(), &file, &["--rw=write", "--do_verify=0", "--ioengine=psync"]).ok();
        assert_eq!(fs::metadata(file).unwrap().len(), 32 * MIB);
    });
    let at = network.path("");
    let jobs = ["--readonly", "--numjobs=8"];
    for [order, engine] in [
        ["--rw=randread", "--ioengine=psync"],
        ["--rw=read", "--ioengine=psync"],
        ["--rw=randread", "--ioengine=mmap"],
        ["--rw=randread", "--ioengine=libaio"],
    ] {
        // Each time anew from the daemon, not from what the kernel has cached.
        forget(&mount.join("data"));
        let done = fio(&at, &mount.join("data"), &[&jobs[..], &[order, engine]].concat());
        eprintln!("fio {order} {engine}: {:.1?}", done.took);
        assert_eq!(done.ok().text().lines().count(), 8, "one line for each job");
    }
    // One byte that is wrong is found, or all of this would show nothing.
    let wrong = network.path("wrong");
    fs::copy(network.path("share/data"), &wrong).unwrap();
    let mut byte = [0];
    let file = File::options().read(true).write(true).open(&wrong).unwrap();
    file.read_exact_at(&mut byte, 20_000_000).unwrap();
    file.write_all_at(&[byte[0] ^ 1], 20_000_000).unwrap();
    let found = fio(&at, &wrong, &["--readonly", "--numjobs=8", "--rw=randread", "--ioengine=psync"]);
    assert_ne!(found.code(), 0);
}

/// Makes the kernel forget a file's bytes.
fn forget(file: &Path) {
    let file = File::open(file).unwrap();
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
}

#[test]
fn a_file_of_more_than_4_gib_is_read_on_both_sides() {
    const LINE: u64 = 4 << 30;
    const SIZE: u64 = LINE + 5 * MIB + 321;
    let piece = |at: u64| -> Vec<u8> {
        let mut bytes = vec![0; 300_000];
        blake3::Hasher::new().update(&at.to_le_bytes()).finalize_xof().fill(&mut bytes);
        bytes
    };
    let pieces = [0, LINE / 2 - 1000, LINE - 150_001, SIZE - 300_000];
    let (_network, _source, _reader, mount) = shared(|dir| {
        fs::create_dir_all(dir).unwrap();
        let file = File::create(dir.join("huge")).unwrap();
        file.set_len(SIZE).unwrap();
        for at in pieces {
            file.write_all_at(&piece(at), at).unwrap();
        }
    });
    let path = mount.join("huge");
    assert_eq!(fs::metadata(&path).unwrap().len(), SIZE);
    let file = File::open(&path).unwrap();
    for at in pieces.into_iter().rev() {
        let mut bytes = vec![0; 300_000];
        file.read_exact_at(&mut bytes, at).unwrap();
        assert!(bytes == piece(at), "the piece at {at}");
    }
    // What lies between them is zeros, 4 GiB further as well as there.
    let mut bytes = vec![1; 70_000];
    for at in [LINE - MIB, LINE + MIB] {
        file.read_exact_at(&mut bytes, at).unwrap();
        assert!(bytes.iter().all(|byte| *byte == 0), "at {at}");
        bytes.fill(1);
    }
    assert_eq!(file.read_at(&mut bytes, SIZE - 10).unwrap(), 10);
    assert_eq!(file.read_at(&mut bytes, SIZE).unwrap(), 0);
    let tail = tool!("tail", "-c", "300000", path);
    assert!(tail.stdout == piece(pieces[3]));
}

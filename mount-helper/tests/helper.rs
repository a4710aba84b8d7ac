//! The helper as a process, with a stand-in for `flashget` that writes down how it was called and ends as it is told.

// clippy.toml lets only test functions unwrap, and all of this file is a test.
#![allow(clippy::unwrap_used)]

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};

/// A folder for what the stand-in writes down, removed at the end.
struct Stage {
    dir: PathBuf,
    ends: &'static str,
}

impl Stage {
    /// `ends`: what the stand-in does last, as a line of shell.
    fn new(ends: &'static str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("mount-helper-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let dir = std::env::temp_dir().join(name);
        fs::create_dir(&dir).unwrap();
        Self { dir, ends }
    }

    /// Committed rather than written here: a program that another thread's fork still holds open for writing can't be
    /// executed.
    fn program() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/stand-in")
    }

    fn called(&self) -> PathBuf {
        self.dir.join("called")
    }

    /// The arguments that the stand-in saw, if it was executed.
    fn arguments(&self) -> Option<Vec<String>> {
        let text = fs::read_to_string(self.called()).ok()?;
        Some(text.lines().map(str::to_owned).collect())
    }

    fn run(&self, args: &[&str]) -> Output {
        self.run_program(&Self::program(), &args.iter().map(OsStr::new).collect::<Vec<_>>())
    }

    fn run_program(&self, program: &Path, args: &[&OsStr]) -> Output {
        let mut helper = Command::new(env!("CARGO_BIN_EXE_mount-flashget"));
        helper.args(args).env("FLASHGET_BIN", program);
        helper.env("STAND_IN_CALLED", self.called()).env("STAND_IN_ENDS", self.ends).output().unwrap()
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.dir);
    }
}

fn code(output: &Output) -> Option<i32> {
    output.status.code()
}

/// Exactly one line, and nothing on standard output.
fn complaint(output: &Output) -> String {
    assert!(output.stdout.is_empty());
    let text = String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!(text.lines().count(), 1, "{text:?}");
    text
}

#[test]
fn mounts_as_an_fstab_line_says() {
    let stage = Stage::new("exit 0");
    let output = stage.run(&["lab", "/mnt/lab files", "-o", "rw,_netdev,x-systemd.automount,home=/srv/fg,uid=3"]);
    assert_eq!(code(&output), Some(0));
    assert!(output.stdout.is_empty() && output.stderr.is_empty());
    assert_eq!(stage.arguments().unwrap(), ["mount", "lab", "/mnt/lab files", "-o", "uid=3", "--home", "/srv/fg"]);
}

#[test]
fn success_is_silent_unless_asked_and_errors_never_are() {
    let stage = Stage::new("echo mounted; echo trouble >&2; exit 1");
    let output = stage.run(&["lab", "/mnt"]);
    assert!(output.stdout.is_empty());
    assert_eq!(complaint(&output), "trouble\n");
    let output = stage.run(&["lab", "/mnt", "-v"]);
    assert!(String::from_utf8(output.stdout).unwrap().ends_with("mounted\n"));
}

#[test]
fn exit_codes_are_those_of_mount() {
    for (ends, expected) in
        [("exit 0", 0), ("exit 2", 1), ("exit 1", 32), ("exit 99", 32), ("kill -INT $$", 8), ("kill -9 $$", 32)]
    {
        let stage = Stage::new(ends);
        assert_eq!(code(&stage.run(&["lab", "/mnt"])), Some(expected), "{ends}");
    }
}

#[test]
fn an_interrupt_of_both_is_told_after_the_end_of_the_other() {
    let stage = Stage::new("kill -INT $PPID; exit 1");
    assert_eq!(code(&stage.run(&["lab", "/mnt"])), Some(8));
}

#[test]
fn an_unknown_option_is_refused_by_name_before_anything_is_executed() {
    let stage = Stage::new("exit 0");
    let output = stage.run(&["lab", "/mnt", "-o", "ro,frobnicate=3"]);
    assert_eq!(code(&output), Some(1));
    assert!(complaint(&output).contains("frobnicate"));
    assert_eq!(stage.arguments(), None);
    assert_eq!(code(&stage.run(&["lab", "/mnt", "-s", "-o", "ro,frobnicate=3"])), Some(0));
    assert_eq!(stage.arguments().unwrap(), ["mount", "lab", "/mnt", "-o", "ro"]);
}

#[test]
fn fake_checks_and_mounts_nothing() {
    let stage = Stage::new("exit 0");
    let dir = stage.dir.to_str().unwrap();
    let output = stage.run(&["lab", dir, "-fv", "-o", "ro"]);
    assert_eq!(code(&output), Some(0));
    let line = String::from_utf8(output.stdout).unwrap();
    assert_eq!(line, format!("mount.flashget: {} mount lab {dir} -o ro\n", Stage::program().display()));
    let output = stage.run(&["lab", "/nowhere/at/all", "-f"]);
    assert_eq!(code(&output), Some(32));
    assert!(complaint(&output).contains("/nowhere/at/all"));
    assert_eq!(code(&stage.run(&["lab", dir, "-f", "-o", "frobnicate"])), Some(1));
    assert_eq!(stage.arguments(), None);
}

#[test]
fn without_the_program_it_is_a_system_error() {
    let stage = Stage::new("exit 0");
    let missing = stage.dir.join("flashget");
    let run = || stage.run_program(&missing, &[OsStr::new("lab"), OsStr::new("/mnt")]);
    let output = run();
    assert_eq!(code(&output), Some(2));
    assert!(complaint(&output).contains(missing.to_str().unwrap()));
    fs::write(&missing, "#!/nowhere/sh\n").unwrap();
    assert_eq!(code(&run()), Some(2), "not executable");
    fs::set_permissions(&missing, fs::Permissions::from_mode(0o755)).unwrap();
    assert_eq!(code(&run()), Some(2), "can't be executed");
}

#[test]
fn names_that_are_not_utf8_arrive_as_they_are() {
    let stage = Stage::new("exit 0");
    let dir = OsStr::from_bytes(b"/mnt/\xff");
    assert_eq!(code(&stage.run_program(&Stage::program(), &[OsStr::new("lab"), dir])), Some(0));
    let called = fs::read(stage.called()).unwrap();
    assert_eq!(called, b"mount\nlab\n/mnt/\xff\n");
}

#[test]
fn help_says_what_there_is() {
    let stage = Stage::new("exit 0");
    let output = stage.run(&["--help"]);
    assert_eq!(code(&output), Some(0));
    let text = String::from_utf8(output.stdout).unwrap();
    for word in ["home=", "allow_other", "keyfile=", "32", "fstab"] {
        assert!(text.contains(word), "{word}");
    }
    assert!(!Path::new(&stage.called()).exists());
}

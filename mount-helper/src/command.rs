//! The command that mounts: where `flashget` is, with which arguments it is executed, and what its end means to mount(8).
//! Pure; what it has to ask the system is passed in.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::options::Mapped;

/// The program that this helper is for.
const PROGRAM: &str = "flashget";

/// What clap, which reads `flashget`'s arguments, ends with when it does not understand them.
const USAGE_ERROR: i32 = 2;

/// What a shell, and `flashget`, end with after SIGINT.
const INTERRUPTED: i32 = 128 + libc::SIGINT;

/// The end of a mount helper, as in mount(8).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// Mounted.
    Success = 0,
    /// Incorrect invocation or permissions.
    Incorrect = 1,
    /// System error: something needed is not there.
    System = 2,
    /// The user interrupted.
    Interrupted = 8,
    /// The mount failed; `flashget` has said why.
    Failed = 32,
}

/// How `flashget` ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ended {
    /// With this status.
    Code(i32),
    /// By this signal.
    Signal(i32),
}

/// What mount(8) is told. `interrupted`: SIGINT came to this helper too, as it does from a terminal's Ctrl-C.
pub fn outcome(ended: Ended, interrupted: bool) -> Outcome {
    match ended {
        Ended::Code(0) => Outcome::Success,
        Ended::Code(INTERRUPTED) | Ended::Signal(libc::SIGINT) => Outcome::Interrupted,
        _ if interrupted => Outcome::Interrupted,
        Ended::Code(USAGE_ERROR) => Outcome::Incorrect,
        Ended::Code(_) | Ended::Signal(_) => Outcome::Failed,
    }
}

/// Where to look for the program.
#[derive(Clone, Debug, Default)]
pub struct Places {
    /// The kernel says that this process has rights that its caller has not: the environment is not to be trusted.
    pub secure: bool,
    /// `$FLASHGET_BIN`
    pub explicit: Option<OsString>,
    /// This helper's own file.
    pub own: Option<PathBuf>,
    /// `$PATH`
    pub path: Option<OsString>,
}

/// The first of: `$FLASHGET_BIN`, beside this helper, `/usr/bin`, `/usr/local/bin`, `$PATH`; the two from the environment
/// only where it can be trusted. An explicit one that is not there is not replaced by another. `Err`: what was not found.
pub fn locate(places: &Places, is_program: impl Fn(&Path) -> bool) -> Result<PathBuf, PathBuf> {
    if let Some(explicit) = places.explicit.as_ref().filter(|path| !places.secure && !path.is_empty()) {
        let explicit = PathBuf::from(explicit);
        return if is_program(&explicit) { Ok(explicit) } else { Err(explicit) };
    }
    let beside = places.own.as_deref().and_then(Path::parent).map(Path::to_path_buf);
    let usual = ["/usr/bin", "/usr/local/bin"].map(PathBuf::from);
    let path = places.path.iter().filter(|_| !places.secure).flat_map(std::env::split_paths);
    let mut all = beside.into_iter().chain(usual).chain(path.filter(|dir| dir.is_absolute()));
    all.find_map(|dir| Some(dir.join(PROGRAM)).filter(|file| is_program(file))).ok_or_else(|| PathBuf::from(PROGRAM))
}

/// `flashget`'s arguments.
pub fn arguments(spec: &OsStr, dir: &OsStr, mapped: &Mapped) -> Vec<OsString> {
    let mut args: Vec<OsString> = vec!["mount".into(), spec.into(), dir.into()];
    if let Some(options) = mapped.joined() {
        args.extend(["-o".into(), options]);
    }
    if let Some(home) = &mapped.home {
        args.extend(["--home".into(), home.clone()]);
    }
    args
}

/// The command as a line that can be pasted into a shell.
pub fn show(program: &Path, args: &[OsString]) -> String {
    let words = std::iter::once(program.as_os_str()).chain(args.iter().map(OsString::as_os_str));
    words.map(quote).collect::<Vec<_>>().join(" ")
}

/// One word as a shell would take it, without anything that a terminal would obey.
pub fn quote(word: &OsStr) -> String {
    let bytes = word.as_bytes();
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"_-./=,:@%+".contains(byte);
    match word.to_str() {
        Some(text) if !text.is_empty() && bytes.iter().all(plain) => text.to_owned(),
        Some(text) if !text.chars().any(char::is_control) => format!("'{}'", text.replace('\'', "'\\''")),
        _ => {
            let escaped =
                bytes.iter().map(|byte| if plain(byte) { (*byte as char).into() } else { format!("\\x{byte:02x}") });
            format!("$'{}'", escaped.collect::<String>())
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStringExt;

    use proptest::prelude::*;

    use super::*;

    fn mapped(options: &str) -> Mapped {
        crate::options::map(OsStr::new(options), false).unwrap()
    }

    #[test]
    fn the_arguments_of_an_fstab_line() {
        let args = arguments(OsStr::new("lab"), OsStr::new("/mnt/a b"), &mapped("rw,ro,home=/h,timeo=5"));
        assert_eq!(args, ["mount", "lab", "/mnt/a b", "-o", "ro,timeo=5", "--home", "/h"]);
        assert_eq!(arguments(OsStr::new("lab"), OsStr::new("/mnt"), &mapped("rw")), ["mount", "lab", "/mnt"]);
        assert_eq!(
            show(Path::new("/usr/bin/flashget"), &args),
            "/usr/bin/flashget mount lab '/mnt/a b' -o ro,timeo=5 --home /h"
        );
    }

    #[test]
    fn odd_names_are_quoted_and_never_reach_the_terminal_raw() {
        assert_eq!(quote(OsStr::new("it's")), "'it'\\''s'");
        assert_eq!(quote(OsStr::new("")), "''");
        assert_eq!(quote(OsStr::new("a\x1b[2J")), "$'a\\x1b\\x5b2J'");
        assert_eq!(quote(&OsString::from_vec(b"\xff".to_vec())), "$'\\xff'");
    }

    #[test]
    fn how_it_ended() {
        assert_eq!(outcome(Ended::Code(0), false), Outcome::Success);
        assert_eq!(outcome(Ended::Code(0), true), Outcome::Success);
        assert_eq!(outcome(Ended::Code(2), false), Outcome::Incorrect);
        assert_eq!(outcome(Ended::Code(1), false), Outcome::Failed);
        assert_eq!(outcome(Ended::Code(77), false), Outcome::Failed);
        assert_eq!(outcome(Ended::Code(1), true), Outcome::Interrupted);
        assert_eq!(outcome(Ended::Code(130), false), Outcome::Interrupted);
        assert_eq!(outcome(Ended::Signal(libc::SIGINT), false), Outcome::Interrupted);
        assert_eq!(outcome(Ended::Signal(libc::SIGKILL), false), Outcome::Failed);
    }

    #[test]
    fn where_it_is_found() {
        let places = Places {
            secure: false,
            explicit: None,
            own: Some("/usr/sbin/mount.flashget".into()),
            path: Some("relative:/opt/bin".into()),
        };
        let found =
            |there: &[&str], places: &Places| locate(places, |path| there.iter().any(|one| Path::new(one) == path));
        let all = ["/usr/sbin/flashget", "/usr/bin/flashget", "/usr/local/bin/flashget", "/opt/bin/flashget"];
        for at in 0..all.len() {
            assert_eq!(found(&all[at..], &places), Ok(all[at].into()));
        }
        assert_eq!(found(&["relative/flashget"], &places), Err("flashget".into()));
        let chosen = Places { explicit: Some("/x/fg".into()), ..places.clone() };
        assert_eq!(found(&["/x/fg", "/usr/bin/flashget"], &chosen), Ok("/x/fg".into()));
        assert_eq!(found(&["/usr/bin/flashget"], &chosen), Err("/x/fg".into()));
        let secure = Places { secure: true, ..chosen };
        assert_eq!(
            found(&["/x/fg", "/opt/bin/flashget", "/usr/bin/flashget"], &secure),
            Ok("/usr/bin/flashget".into())
        );
        assert_eq!(found(&["/x/fg", "/opt/bin/flashget"], &secure), Err("flashget".into()));
    }

    proptest! {
        #[test]
        fn a_shown_word_has_no_control_characters(word in proptest::collection::vec(any::<u8>(), 0..20)) {
            prop_assert!(!quote(OsStr::from_bytes(&word)).chars().any(char::is_control));
        }
    }
}

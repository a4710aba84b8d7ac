//! What mount(8) says on the command line: `mount.flashget SPEC DIR [-sfnvhV] [-N ns] [-o OPTS] [-t type]`. Pure.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::os::unix::ffi::{OsStrExt, OsStringExt};

/// What is to be done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Request {
    /// `-h`, `--help`
    Help,
    /// `-V`, `--version`
    Version,
    /// To mount.
    Mount(Args),
}

/// The arguments of a mount.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Args {
    /// The network: the first field of an fstab line.
    pub spec: OsString,
    /// The mount point.
    pub dir: OsString,
    /// All `-o`, joined by commas.
    pub options: OsString,
    /// `-s`: unknown options are no error.
    pub sloppy: bool,
    /// `-f`: check everything, mount nothing.
    pub fake: bool,
    /// `-v`: say what is executed.
    pub verbose: bool,
}

/// Arguments that make no sense. What it names is escaped for a terminal.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ArgsError {
    /// An option that no mount helper has.
    UnknownFlag(String),
    /// `-o`, `-t` or `-N` at the end.
    NeedsValue(char),
    /// Not a type of ours.
    OtherType(String),
    /// `-N`: the daemon that mounts may be in any namespace but that one.
    Namespace,
    /// No network or no folder, or more than these.
    Positional(usize),
    /// An empty name, or one that `flashget` would take for an option.
    BadName(String),
}

impl fmt::Display for ArgsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownFlag(flag) => write!(f, "unknown argument '{flag}' (see mount.flashget --help)"),
            Self::NeedsValue(flag) => write!(f, "-{flag} needs a value"),
            Self::OtherType(name) => write!(f, "this helper mounts type flashget, not '{name}'"),
            Self::Namespace => write!(
                f,
                "mounting into another mount namespace (-N) is not supported: enter it first, with nsenter --mount=..."
            ),
            Self::Positional(given) => {
                write!(f, "a network and a folder are needed, {given} given: mount.flashget NETWORK DIR [-o OPTIONS]")
            }
            Self::BadName(name) => write!(f, "'{name}' is neither a network nor a folder"),
        }
    }
}

/// Reads the arguments after the program's name.
pub fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Request, ArgsError> {
    let mut parsed = Args::default();
    let mut positional = Vec::new();
    let mut options: Vec<OsString> = Vec::new();
    let mut args = args.into_iter();
    while let Some(arg) = args.next() {
        match arg.as_bytes() {
            b"--help" => return Ok(Request::Help),
            b"--version" => return Ok(Request::Version),
            [b'-', b'-', ..] => return Err(ArgsError::UnknownFlag(show(&arg))),
            [b'-', flags @ ..] if !flags.is_empty() => {
                for (at, &flag) in flags.iter().enumerate() {
                    match flag {
                        b'h' => return Ok(Request::Help),
                        b'V' => return Ok(Request::Version),
                        b's' => parsed.sloppy = true,
                        b'f' => parsed.fake = true,
                        b'v' => parsed.verbose = true,
                        // There is no /etc/mtab to leave alone any more.
                        b'n' => {}
                        b'o' | b't' | b'N' => {
                            let value = value(flag, &flags[at + 1..], &mut args)?;
                            match flag {
                                b'o' => options.push(value),
                                b't' => check_type(&value)?,
                                _ => return Err(ArgsError::Namespace),
                            }
                            break;
                        }
                        _ => return Err(ArgsError::UnknownFlag(format!("-{}", flag.escape_ascii()))),
                    }
                }
            }
            _ => positional.push(arg),
        }
    }
    let given = positional.len();
    let [spec, dir] = <[OsString; 2]>::try_from(positional).map_err(|_| ArgsError::Positional(given))?;
    for name in [&spec, &dir] {
        if matches!(name.as_bytes(), [] | [b'-', ..]) {
            return Err(ArgsError::BadName(show(name)));
        }
    }
    parsed.spec = spec;
    parsed.dir = dir;
    parsed.options = options.join(OsStr::new(","));
    Ok(Request::Mount(parsed))
}

/// The value of a flag: what follows it in the same argument, else the next argument.
fn value(flag: u8, rest: &[u8], args: &mut impl Iterator<Item = OsString>) -> Result<OsString, ArgsError> {
    if rest.is_empty() { args.next() } else { Some(OsString::from_vec(rest.to_vec())) }
        .ok_or(ArgsError::NeedsValue(char::from(flag)))
}

/// mount(8) passes `-t` for types with a subtype; the kernel calls ours `fuse.flashget`.
fn check_type(name: &OsStr) -> Result<(), ArgsError> {
    match name.as_bytes() {
        b"flashget" | b"fuse.flashget" => Ok(()),
        _ => Err(ArgsError::OtherType(show(name))),
    }
}

fn show(text: &OsStr) -> String {
    text.as_bytes().escape_ascii().to_string()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parsed(args: &[&str]) -> Result<Request, ArgsError> {
        parse(args.iter().map(OsString::from))
    }

    fn mount(args: &[&str]) -> Args {
        match parsed(args) {
            Ok(Request::Mount(args)) => args,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn as_mount_calls_it() {
        let args = mount(&["lab", "/mnt/lab files", "-s", "-f", "-n", "-v", "-o", "rw,uid=3", "-t", "fuse.flashget"]);
        assert_eq!((args.spec.to_str(), args.dir.to_str()), (Some("lab"), Some("/mnt/lab files")));
        assert_eq!(args.options, "rw,uid=3");
        assert!(args.sloppy && args.fake && args.verbose);
        let plain = mount(&["lab", "/mnt"]);
        assert!(!plain.sloppy && !plain.fake && !plain.verbose && plain.options.is_empty());
    }

    #[test]
    fn flags_together_and_options_in_several_places() {
        let args = mount(&["-sv", "-oro", "lab", "-no", "uid=3", "/mnt"]);
        assert!(args.sloppy && args.verbose && !args.fake);
        assert_eq!(args.options, "ro,uid=3");
    }

    #[test]
    fn help_and_version() {
        assert_eq!(parsed(&["-h"]), Ok(Request::Help));
        assert_eq!(parsed(&["lab", "--help"]), Ok(Request::Help));
        assert_eq!(parsed(&["-V"]), Ok(Request::Version));
        assert_eq!(parsed(&["--version"]), Ok(Request::Version));
    }

    #[test]
    fn mistakes_are_named() {
        for (args, error) in [
            (&["lab"][..], ArgsError::Positional(1)),
            (&[], ArgsError::Positional(0)),
            (&["a", "b", "c"], ArgsError::Positional(3)),
            (&["lab", "/mnt", "-x"], ArgsError::UnknownFlag("-x".into())),
            (&["lab", "/mnt", "--frob"], ArgsError::UnknownFlag("--frob".into())),
            (&["lab", "/mnt", "-o"], ArgsError::NeedsValue('o')),
            (&["lab", "/mnt", "-t", "ext4"], ArgsError::OtherType("ext4".into())),
            (&["lab", "/mnt", "-N", "/proc/1/fd/3"], ArgsError::Namespace),
            (&["", "/mnt"], ArgsError::BadName(String::new())),
            (&["lab", "-"], ArgsError::BadName("-".into())),
        ] {
            assert_eq!(parsed(args), Err(error.clone()), "{args:?}");
            assert!(!error.to_string().contains('\n'));
        }
    }

    proptest! {
        #[test]
        fn any_arguments_are_read_or_refused(
            args in proptest::collection::vec(proptest::collection::vec(1u8.., 0..12), 0..6),
        ) {
            let _ = parse(args.into_iter().map(OsString::from_vec));
        }

        #[test]
        fn the_place_of_a_flag_does_not_matter(
            flags in proptest::collection::vec(proptest::sample::select(&["-s", "-f", "-n", "-v"][..]), 0..4),
            at: [proptest::sample::Index; 4],
        ) {
            let mut args = vec!["lab", "/mnt"];
            for (flag, at) in flags.iter().zip(at) {
                args.insert(at.index(args.len() + 1), flag);
            }
            let args = mount(&args);
            prop_assert_eq!((args.spec.to_str(), args.dir.to_str()), (Some("lab"), Some("/mnt")));
            prop_assert_eq!(args.sloppy, flags.contains(&"-s"));
            prop_assert_eq!(args.fake, flags.contains(&"-f"));
        }
    }
}

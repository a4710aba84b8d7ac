//! From mount(8)'s options to those of `flashget mount`. Pure: a list of options goes in, and what to pass on comes out,
//! or the name of the option that can't be.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use crate::known::{BY_USERS, FLAGS, IGNORED, PATHS, REPEATED, VALUES};

/// What `flashget mount` is to be told.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Mapped {
    /// From `home=`.
    pub home: Option<OsString>,
    /// Each `NAME` or `NAME=VALUE`, in the order given.
    pub passed: Vec<OsString>,
}

impl Mapped {
    /// As the value of one `-o`, if there is anything to say.
    pub fn joined(&self) -> Option<OsString> {
        (!self.passed.is_empty()).then(|| self.passed.join(OsStr::new(",")))
    }
}

/// An option that can't be mapped. What it names is escaped for a terminal.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum OptionError {
    /// Nobody knows it.
    Unknown(String),
    /// It needs a value and has none.
    NeedsValue(String),
    /// It has a value and takes none.
    TakesNoValue(String),
    /// A path that does not begin at the root.
    RelativePath(String),
    /// A value with a comma, which the list of options that `flashget mount` takes can't hold.
    Comma(String),
    /// A quote that nothing closes.
    OpenQuote,
    /// A mount can't be changed in place.
    Remount,
}

impl fmt::Display for OptionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown(name) => {
                write!(f, "unknown option '{name}' (mount.flashget --help lists those that it knows)")
            }
            Self::NeedsValue(name) => write!(f, "option '{name}' needs a value: {name}=..."),
            Self::TakesNoValue(name) => write!(f, "option '{name}' takes no value"),
            Self::RelativePath(name) => write!(f, "option '{name}' needs an absolute path, one that begins with /"),
            Self::Comma(name) => write!(f, "the value of option '{name}' can't contain a comma"),
            Self::OpenQuote => write!(f, "a quote in the options is not closed"),
            Self::Remount => {
                write!(f, "option 'remount' is not supported: unmount, and mount again with the new options")
            }
        }
    }
}

/// Maps a comma-separated list as mount(8) gives it. If `sloppy` (mount(8)'s `-s`), unknown options are left out instead of
/// refused; known ones with a wrong value are refused even so.
pub fn map(options: &OsStr, sloppy: bool) -> Result<Mapped, OptionError> {
    let mut mapped = Mapped::default();
    let mut passed: Vec<(&str, OsString)> = Vec::new();
    for option in split(options.as_bytes())? {
        let (name, value) = match option.iter().position(|&byte| byte == b'=') {
            Some(at) => (&option[..at], Some(unquote(&option[at + 1..]))),
            None => (option, None),
        };
        match classify(name) {
            Class::Ignored => {}
            Class::Remount => return Err(OptionError::Remount),
            Class::Unknown if sloppy => {}
            Class::ByUsers => put(&mut passed, "noexec", "noexec".into()),
            Class::Exec => passed.retain(|(earlier, _)| *earlier != "noexec"),
            Class::Unknown => return Err(OptionError::Unknown(show(name))),
            Class::Home => mapped.home = Some(OsString::from_vec(checked("home", value)?.to_vec())),
            Class::Flag(name) => {
                if value.is_some() {
                    return Err(OptionError::TakesNoValue(name.into()));
                }
                put(&mut passed, name, name.into());
            }
            Class::Value(name) => {
                let value = checked(name, value)?;
                if value.contains(&b',') {
                    return Err(OptionError::Comma(name.into()));
                }
                put(&mut passed, name, OsString::from_vec([name.as_bytes(), b"=", value].concat()));
            }
        }
    }
    mapped.passed = passed.into_iter().map(|(_, option)| option).collect();
    Ok(mapped)
}

/// What there is to know about an option by its name.
enum Class {
    Ignored,
    Flag(&'static str),
    Value(&'static str),
    Home,
    Remount,
    ByUsers,
    Exec,
    Unknown,
}

fn classify(name: &[u8]) -> Class {
    let find = |list: &[&'static str]| list.iter().copied().find(|known| known.as_bytes() == name);
    if name == b"home" {
        Class::Home
    } else if name == b"remount" {
        Class::Remount
    } else if name == b"exec" {
        Class::Exec
    } else if find(BY_USERS).is_some() {
        Class::ByUsers
    } else if let Some(name) = find(FLAGS) {
        Class::Flag(name)
    } else if let Some(name) = find(VALUES) {
        Class::Value(name)
    } else if name.starts_with(b"x-") || name.starts_with(b"X-") || find(IGNORED).is_some() {
        Class::Ignored
    } else {
        Class::Unknown
    }
}

/// Adds an option in place of what it overrides.
fn put(passed: &mut Vec<(&'static str, OsString)>, name: &'static str, option: OsString) {
    let rival = match name {
        "soft" => "hard",
        "hard" => "soft",
        name => name,
    };
    passed.retain(
        |(earlier, text)| {
            if REPEATED.contains(earlier) { *text != option } else { *earlier != name && *earlier != rival }
        },
    );
    passed.push((name, option));
}

/// A value that is there, and is an absolute path if it has to be one.
fn checked<'a>(name: &str, value: Option<&'a [u8]>) -> Result<&'a [u8], OptionError> {
    match value {
        None | Some([]) => Err(OptionError::NeedsValue(name.into())),
        Some(value) if PATHS.contains(&name) && value[0] != b'/' => Err(OptionError::RelativePath(name.into())),
        Some(value) => Ok(value),
    }
}

/// Cuts at commas, but not at those between double quotes, as mount(8) does. Empty parts are left out.
fn split(options: &[u8]) -> Result<Vec<&[u8]>, OptionError> {
    let mut parts = Vec::new();
    let (mut start, mut quoted) = (0, false);
    for (at, byte) in options.iter().enumerate() {
        match byte {
            b'"' => quoted = !quoted,
            b',' if !quoted => {
                parts.push(&options[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    if quoted {
        return Err(OptionError::OpenQuote);
    }
    parts.push(&options[start..]);
    parts.retain(|part| !part.is_empty());
    Ok(parts)
}

fn unquote(value: &[u8]) -> &[u8] {
    match value {
        [b'"', inner @ .., b'"'] => inner,
        value => value,
    }
}

/// Safe to print whatever it is.
fn show(name: &[u8]) -> String {
    name.escape_ascii().to_string()
}

#[cfg(test)]
#[path = "options_tests.rs"]
mod tests;

//! Mount options: `-o ro,soft,timeo=30` to what the daemon is asked. Pure.

use std::path::PathBuf;

use crate::control::ControlError;
use crate::control::request::MountRequest;
use crate::settings::units::parse_size;

/// What the options of one mount say.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct MountOptions {
    /// For the mount itself.
    pub request: MountRequest,
    /// For a daemon that has to be started: bytes of its cache on disk.
    pub cache_size: Option<String>,
    /// For a vault that has to be opened.
    pub keyfile: Option<PathBuf>,
    /// For a daemon that has to be started: peers to try.
    pub peers: Vec<String>,
}

/// Parses options, separated by commas; an unknown one is refused by name.
pub fn parse(lists: &[String]) -> Result<MountOptions, ControlError> {
    let mut options = MountOptions::default();
    for option in lists.iter().flat_map(|list| list.split(',')).filter(|option| !option.is_empty()) {
        let (name, value) = option.split_once('=').map_or((option, None), |(name, value)| (name, Some(value)));
        take(&mut options, name, value)?;
    }
    Ok(options)
}

fn take(options: &mut MountOptions, name: &str, value: Option<&str>) -> Result<(), ControlError> {
    let request = &mut options.request;
    let needed = || value.ok_or_else(|| ControlError::invalid(format!("the mount option {name} needs a value")));
    match name {
        "ro" | "soft" | "hard" | "allow_other" if value.is_some() => {
            return Err(ControlError::invalid(format!("the mount option {name} takes no value")));
        }
        "ro" => {}
        "rw" => {
            return Err(ControlError::invalid("flashget mounts are read-only: leave the option rw out"));
        }
        "allow_other" => request.allow_other = true,
        "soft" => request.hard = false,
        "hard" => request.hard = true,
        "uid" => request.uid = Some(number(name, needed()?)?),
        "gid" => request.gid = Some(number(name, needed()?)?),
        "umask" => {
            let text = needed()?;
            let umask = u16::from_str_radix(text, 8).ok().filter(|umask| *umask <= 0o777);
            request.umask = Some(umask.ok_or_else(|| bad(name, text, "an octal number such as 022"))?);
        }
        "timeo" => {
            let text = needed()?;
            let seconds: f64 = text.parse().map_err(|_| bad(name, text, "a number of seconds"))?;
            if !(0.1..=86_400.0).contains(&seconds) {
                return Err(bad(name, text, "0.1 to 86400 seconds"));
            }
            request.timeout_ms = Some((seconds * 1000.0) as u64);
        }
        "window" => request.window = Some(parse_size(needed()?).map_err(ControlError::invalid)?),
        "read_ahead_kb" => request.read_ahead_kb = Some(number(name, needed()?)?),
        "cache_size" => {
            let text = needed()?;
            parse_size(text).map_err(ControlError::invalid)?;
            options.cache_size = Some(text.to_owned());
        }
        "keyfile" => options.keyfile = Some(needed()?.into()),
        "peer" => options.peers.push(needed()?.to_owned()),
        unknown => {
            let unknown = crate::base::escape::for_terminal(unknown.as_bytes());
            return Err(ControlError::invalid(format!("unknown mount option '{unknown}': see flashget mount --help")));
        }
    }
    Ok(())
}

fn bad(name: &str, text: &str, what: &str) -> ControlError {
    let text = crate::base::escape::for_terminal(text.as_bytes());
    ControlError::invalid(format!("the mount option {name}={text}: write {what}"))
}

fn number(name: &str, text: &str) -> Result<u32, ControlError> {
    text.parse().map_err(|_| bad(name, text, "a number"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn one(list: &str) -> Result<MountOptions, ControlError> {
        parse(&[list.to_owned()])
    }

    #[test]
    fn options_mean_what_they_say() {
        let options = one("ro,hard,uid=5,gid=6,umask=027,timeo=2.5,window=8M,cache_size=2G,allow_other").unwrap();
        let request = &options.request;
        assert!(request.hard && request.allow_other);
        assert_eq!((request.uid, request.gid, request.umask), (Some(5), Some(6), Some(0o27)));
        assert_eq!((request.timeout_ms, request.window), (Some(2500), Some(8 << 20)));
        assert_eq!(options.cache_size.as_deref(), Some("2G"));
        assert_eq!(one("").unwrap(), MountOptions::default());
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (list, named) in
            [("ro,frobnicate", "frobnicate"), ("uid", "uid"), ("umask=999", "umask"), ("rw", "rw"), ("ro=1", "ro")]
        {
            let error = one(list).unwrap_err();
            assert!(error.message.contains(named), "{list}: {error}");
        }
    }

    proptest! {
        #[test]
        fn nothing_panics(list in ".{0,80}") {
            let _ = one(&list);
        }
    }
}

//! Mount options: `-o ro,soft,timeo=30` to what the daemon is asked. Pure.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::control::ControlError;
use crate::control::report::DaemonSettings;
use crate::control::request::MountRequest;
use crate::settings::address::parse_host_port;
use crate::settings::file::TRACKER_PORT;
use crate::settings::units::{parse_duration, parse_size};

/// What `flashget mount --help` says of them. mount-helper/src/main.rs says the same.
pub const HELP: &str = "\
Options, separated by commas:
  ro                  as it always is
  allow_other         other users may read too
  noexec | exec       nothing in it may be executed | may be
  uid=, gid=, umask=  who the entries belong to, and which permissions they lack
  soft | hard         reads of what has no source end with an error | wait
  timeo=SECONDS       after which a soft read ends
  window=SIZE         how far flashget reads ahead
  read_ahead_kb=KIB   how far the kernel reads ahead
  xattr               extended attributes tell what is known of each file
Of the daemon that is started; refused where one runs with other values:
  linger=TIME         how long an entry stays after its last source went
  cache_size=SIZE     of the sealed cache on disk
  keyfile=FILE        what unlocks the vault
  tracker=HOST:PORT   one more tracker; may be repeated
  peer=ADDR:PORT      a peer to try even when no tracker names it; may be repeated";

/// What the options of one mount say.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct MountOptions {
    /// For the mount itself.
    pub request: MountRequest,
    /// For a daemon that has to be started.
    pub daemon: DaemonOptions,
}

/// Options that concern the whole daemon.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct DaemonOptions {
    /// Bytes of its cache on disk.
    pub cache_size: Option<u64>,
    /// What unlocks its vault.
    pub keyfile: Option<PathBuf>,
    /// How long entries stay after their last source went.
    pub linger: Option<Duration>,
    /// Peers to try.
    pub peers: Vec<SocketAddr>,
    /// Trackers to ask, in full.
    pub trackers: Vec<String>,
}

impl DaemonOptions {
    /// The first option that is not what a running daemon has.
    pub fn differs(&self, running: &DaemonSettings) -> Option<&'static str> {
        let real = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.into());
        let same_key = |file: &PathBuf| running.keyfile.as_ref().is_some_and(|has| real(&has.to_path()) == real(file));
        let others = [
            ("cache_size", self.cache_size.is_some_and(|size| size != running.cache_size)),
            ("keyfile", self.keyfile.as_ref().is_some_and(|file| !same_key(file))),
            ("linger", self.linger.is_some_and(|linger| linger.as_millis() != u128::from(running.linger_ms))),
            ("peer", self.peers.iter().any(|peer| !running.peers.contains(peer))),
            ("tracker", self.trackers.iter().any(|tracker| !running.trackers.contains(tracker))),
        ];
        others.iter().find(|(_, differs)| *differs).map(|(name, _)| *name)
    }
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
        "ro" | "soft" | "hard" | "allow_other" | "exec" | "noexec" | "xattr" if value.is_some() => {
            return Err(ControlError::invalid(format!("the mount option {name} takes no value")));
        }
        "ro" => {}
        "rw" => {
            return Err(ControlError::invalid("flashget mounts are read-only: leave the option rw out"));
        }
        "xattr" => request.xattr = true,
        "exec" => request.noexec = false,
        "noexec" => request.noexec = true,
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
        "cache_size" => options.daemon.cache_size = Some(parse_size(needed()?).map_err(ControlError::invalid)?),
        "keyfile" => options.daemon.keyfile = Some(needed()?.into()),
        "linger" => options.daemon.linger = Some(parse_duration(needed()?).map_err(ControlError::invalid)?),
        "peer" => {
            let text = needed()?;
            let peer = text.parse().map_err(|_| bad(name, text, "ADDR:PORT, such as 192.0.2.7:7450"))?;
            options.daemon.peers.push(peer);
        }
        "tracker" => {
            let tracker = parse_host_port(needed()?, TRACKER_PORT).map_err(ControlError::invalid)?;
            options.daemon.trackers.push(tracker);
        }
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
#[path = "../../mount-helper/src/known.rs"]
#[allow(dead_code, reason = "the helper uses all of it")]
mod helper_knows;

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
        assert_eq!(options.daemon.cache_size, Some(2 << 30));
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

    #[test]
    fn the_mount_helper_passed_on_what_was_not_known_here() {
        for flag in helper_knows::FLAGS {
            one(flag).unwrap_or_else(|error| panic!("{flag}: {error}"));
        }
        for value in helper_knows::VALUES {
            let given = match *value {
                "keyfile" => "/etc/key",
                "peer" => "192.0.2.7:7450",
                "tracker" => "tracker.example",
                _ => "64",
            };
            one(&format!("{value}={given}")).unwrap_or_else(|error| panic!("{value}: {error}"));
        }
        // Whatever is here, the help of both tells, and the helper knows.
        let helper_says = include_str!("../../mount-helper/src/main.rs");
        for line in HELP.lines().filter(|line| line.starts_with("  ")) {
            let (words, _) = line.trim().split_once("  ").unwrap();
            for word in words.split([',', '|']).map(str::trim) {
                let name = word.split('=').next().unwrap();
                let lists = [helper_knows::FLAGS, helper_knows::VALUES];
                assert!(name == "exec" || lists.iter().any(|list| list.contains(&name)), "{name}");
            }
            assert!(helper_says.contains(words), "{words}");
        }
        for name in [helper_knows::FLAGS, helper_knows::VALUES].concat() {
            assert!(HELP.contains(name), "{name}");
        }
    }

    #[test]
    fn a_second_fstab_line_with_the_same_values_was_refused() {
        let running = DaemonSettings {
            cache_size: 2 << 30,
            keyfile: Some(Path::new("/etc/key").into()),
            linger_ms: 60_000,
            peers: vec![([192, 0, 2, 7], 7450).into()],
            trackers: vec!["tracker.example:7440".into()],
        };
        let differs = |list: &str| one(list).unwrap().daemon.differs(&running);
        let same = "cache_size=2G,keyfile=/etc/key,linger=1m,peer=192.0.2.7:7450,tracker=tracker.example";
        assert_eq!(differs(same), None);
        assert_eq!(differs("uid=3"), None);
        for (list, name) in [
            ("cache_size=1G", "cache_size"),
            ("keyfile=/etc/other", "keyfile"),
            ("linger=61s", "linger"),
            ("peer=192.0.2.8:7450", "peer"),
            ("tracker=tracker.example:1", "tracker"),
        ] {
            assert_eq!(differs(list), Some(name));
        }
        assert_eq!(one("keyfile=/a").unwrap().daemon.differs(&DaemonSettings::default()), Some("keyfile"));
    }

    #[test]
    fn the_last_word_on_execution_counts() {
        let noexec = |list: &str| one(list).unwrap().request.noexec;
        assert!(noexec("noexec") && noexec("exec,noexec"));
        assert!(!noexec("noexec,exec") && !noexec(""));
    }

    proptest! {
        #[test]
        fn nothing_panics(list in ".{0,80}") {
            let _ = one(&list);
        }
    }
}

//! The settings file (`config.toml`) and every default, each with its reason.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::address::metrics_addr;
use super::units::{Size, Span};

/// Default port of a node.
pub const NODE_PORT: u16 = 7450;
/// Default port of a tracker.
pub const TRACKER_PORT: u16 = 7440;

/// A settings file that can't be used.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// It could not be read.
    #[error("{0}: {1}")]
    Io(PathBuf, std::io::Error),
    /// It is not what it should be; says where.
    #[error("{0}: {1}")]
    Parse(PathBuf, String),
    /// A value that was given beside the file is not what it should be.
    #[error("--set {0}: {1}")]
    Given(String, String),
}

/// Everything that can be set. An empty file gives the defaults.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// This node.
    pub node: NodeSettings,
    /// The sealed cache.
    pub cache: CacheSettings,
    /// The mount and its reads.
    pub mount: MountSettings,
    /// Sharing.
    pub share: ShareSettings,
    /// How much of the links to use.
    pub limits: LimitSettings,
    /// The log.
    pub log: LogSettings,
}

/// `[node]`
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NodeSettings {
    /// Where peers connect to. All interfaces by default: a node that nobody reaches serves nobody.
    pub listen: SocketAddr,
    /// What to tell others to connect to, if not what they see.
    pub advertise: Option<SocketAddr>,
    /// How this node calls itself; the host's name by default.
    pub name: Option<String>,
    /// Peers to try even when no tracker names them.
    pub peers: Vec<SocketAddr>,
    /// `HOST:PORT` of trackers to ask beside those of the networks' invites, for all networks of this node.
    pub trackers: Vec<String>,
    /// What unlocks the vault, if not the key file in the home.
    pub keyfile: Option<PathBuf>,
    /// Tell other nodes who is alive, and hear of it, in UDP datagrams on the port of `listen`: what makes trackers
    /// dispensable.
    pub gossip: bool,
    /// Announce this node on the local network, and look for others there (mDNS). Says nothing of networks or names.
    pub lan: bool,
    /// Try the peers that were known when this node last ran.
    pub remember: bool,
    /// Sessions are held with all live peers as long as there are no more than this; beyond that with a few, and with
    /// others while they are needed.
    pub mesh: usize,
    /// Serve figures for Prometheus at this address, `ADDR:PORT` or a port of 127.0.0.1; none by default. Whoever may connect may
    /// read them.
    #[serde(deserialize_with = "metrics_addr")]
    pub metrics: Option<SocketAddr>,
}

/// `[cache]`
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CacheSettings {
    /// Where, if not in the home.
    pub dir: Option<PathBuf>,
    /// Bytes on disk; by default 10 % of the file system, at most 20 GiB.
    pub disk: Option<Size>,
    /// Bytes of plaintext chunks in RAM: two readers' whole windows.
    pub ram: Size,
}

/// `[mount]`
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MountSettings {
    /// A soft read that brought nothing by then ends with an error.
    pub timeout: Span,
    /// How long an entry stays after its last source went: a thinned view must not destroy mirrors.
    pub linger: Span,
    /// How far a sequential reader is read ahead of.
    pub window: Size,
    /// The kernel's own read-ahead in KiB, raised where permitted: the largest lever on speed that was measured.
    pub read_ahead_kb: u32,
    /// How long `mount` waits for the first view.
    pub first_view: Span,
}

/// `[share]`
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ShareSettings {
    /// Threads that hash; 0: one per core.
    pub threads: usize,
}

/// `[limits]`; 0 means no limit, as in `flashget limits`.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LimitSettings {
    /// Bytes per second to all peers together; what the link takes, if not said.
    pub upload: Option<Size>,
    /// Bytes per second from all peers together; what the link brings, if not said.
    pub download: Option<Size>,
    /// Chunks that are served at once; as many as the rate asks for, if not said.
    pub upload_slots: Option<usize>,
}

/// `[log]`
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LogSettings {
    /// error, warn, info, debug, trace, or a filter such as `info,flashget::net=debug`.
    pub level: String,
    /// text, json or journal.
    pub format: String,
}

impl LimitSettings {
    /// Bytes per second to all peers together, if that is limited.
    pub fn upload_rate(&self) -> Option<u64> {
        self.upload.map(|rate| rate.0).filter(|rate| *rate > 0)
    }

    /// Bytes per second from all peers together, if that is limited.
    pub fn download_rate(&self) -> Option<u64> {
        self.download.map(|rate| rate.0).filter(|rate| *rate > 0)
    }

    /// Chunks that are served at once, if that is fixed.
    pub fn slots(&self) -> Option<usize> {
        self.upload_slots.filter(|slots| *slots > 0)
    }
}

impl Default for NodeSettings {
    fn default() -> Self {
        let listen = SocketAddr::from(([0, 0, 0, 0], NODE_PORT));
        Self {
            listen,
            advertise: None,
            name: None,
            peers: Vec::new(),
            trackers: Vec::new(),
            keyfile: None,
            gossip: true,
            lan: true,
            remember: true,
            mesh: 16,
            metrics: None,
        }
    }
}

impl Default for CacheSettings {
    fn default() -> Self {
        Self { dir: None, disk: None, ram: Size(256 << 20) }
    }
}

impl Default for MountSettings {
    fn default() -> Self {
        Self {
            timeout: Span(Duration::from_secs(30)),
            linger: Span(Duration::from_secs(60)),
            window: Size(64 << 20),
            read_ahead_kb: 4096,
            first_view: Span(Duration::from_secs(5)),
        }
    }
}

impl Default for LogSettings {
    fn default() -> Self {
        Self { level: "info".into(), format: "text".into() }
    }
}

impl Settings {
    /// Reads `file`; one that does not exist gives the defaults.
    pub fn load(file: &Path) -> Result<Self, SettingsError> {
        match std::fs::read_to_string(file) {
            Ok(text) => Self::parse(&text).map_err(|error| SettingsError::Parse(file.into(), error)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(SettingsError::Io(file.into(), error)),
        }
    }

    /// The same, with values in place of the file's: each is `SECTION.KEY=VALUE`, with the value as in the file, or plain
    /// text.
    pub fn load_with(file: &Path, given: &[String]) -> Result<Self, SettingsError> {
        let mut settings = Self::load(file)?;
        for one in given {
            settings = settings.with(one).map_err(|error| SettingsError::Given(one.clone(), error))?;
        }
        Ok(settings)
    }

    fn with(&self, given: &str) -> Result<Self, String> {
        let parts = given.split_once('=').and_then(|(key, value)| Some((key.trim().split_once('.')?, value.trim())));
        let ((section, key), value) = parts.ok_or("write SECTION.KEY=VALUE, such as cache.ram=64M")?;
        let all = toml::Table::try_from(self).map_err(|error| error.to_string())?;
        let put = |value: toml::Value| {
            let mut all = all.clone();
            let section = all.entry(section).or_insert_with(|| toml::Table::new().into());
            let section = section.as_table_mut().ok_or("not a section")?;
            section.insert(key.to_owned(), value);
            all.try_into().map_err(|error: toml::de::Error| in_words(error.message()))
        };
        let text = || toml::Value::String(value.to_owned());
        let parsed = toml::from_str::<toml::Table>(&format!("value = {value}")).ok();
        match parsed.and_then(|mut table| table.remove("value")) {
            // What looks like a number may be a name all the same.
            Some(parsed) => put(parsed).or_else(|error| put(text()).map_err(|_| error)),
            None => put(text()),
        }
    }

    /// Checks values that are given beside the file, whether or not anything is done with them.
    pub fn check_given(given: &[String]) -> Result<(), SettingsError> {
        let wrong = |one: &String| Self::default().with(one).err().map(|error| (one.clone(), error));
        match given.iter().find_map(wrong) {
            Some((one, error)) => Err(SettingsError::Given(one, error)),
            None => Ok(()),
        }
    }

    fn parse(text: &str) -> Result<Self, String> {
        toml::from_str(text).map_err(|error: toml::de::Error| {
            // In one line; the library's own text draws a picture.
            let message = in_words(error.message());
            match error.span().and_then(|span| text.get(..span.start)) {
                Some(before) => format!("line {}: {message}", before.matches('\n').count() + 1),
                None => message,
            }
        })
    }
}

/// The library's message in one line, with what is expected said for people and not in the words of the code.
fn in_words(message: &str) -> String {
    const WORDS: [(&str, &str); 10] = [
        ("expected usize", "expected a whole number, 0 or more"),
        ("expected u32", "expected a whole number, 0 or more"),
        ("expected a boolean", "expected true or false"),
        ("expected a string", "expected text in quotes"),
        ("expected path string", "expected a path in quotes"),
        ("expected a sequence", "expected a list, such as [\"a\", \"b\"]"),
        ("invalid type: sequence", "invalid type: list"),
        ("expected socket address", "expected an address in quotes: ADDR:PORT, such as \"192.0.2.10:7450\""),
        ("invalid socket address syntax", "not an address: write ADDR:PORT, such as 192.0.2.10:7450"),
        ("expected struct ", "expected a section: "),
    ];
    WORDS.iter().fold(message.replace('\n', "; "), |message, (code, words)| message.replace(code, words))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_file_gives_the_defaults_and_a_typo_is_named() {
        assert_eq!(Settings::parse("").unwrap(), Settings::default());
        let some = Settings::parse("[cache]\ndisk = \"2GiB\"\n[mount]\ntimeout = \"5s\"\n").unwrap();
        assert_eq!(some.cache.disk, Some(Size(2 << 30)));
        assert_eq!(some.mount.timeout.0, Duration::from_secs(5));
        let error = Settings::parse("[cache]\nrams = 3\n").unwrap_err();
        assert!(error.contains("rams") && error.contains("line 2") && !error.contains('\n'), "{error}");
    }

    #[test]
    fn every_value_can_be_given_beside_the_file() {
        let with = |given: &[&str]| {
            let given: Vec<String> = given.iter().map(|one| (*one).to_owned()).collect();
            Settings::load_with(Path::new("/nonexistent/config.toml"), &given)
        };
        let some =
            with(&["cache.ram=64M", "mount.timeout = \"5s\"", "share.threads=3", "node.name=a b", "node.peers=[]"]);
        let some = some.unwrap();
        assert_eq!((some.cache.ram, some.mount.timeout.0), (Size(64 << 20), Duration::from_secs(5)));
        assert_eq!((some.share.threads, some.node.name.as_deref()), (3, Some("a b")));
        for (wrong, says) in
            [("cache.rams=3", "rams"), ("ram=3", "SECTION.KEY"), ("mount.timeout=soon", "soon"), ("x.y=1", "x")]
        {
            let error = with(&[wrong]).unwrap_err().to_string();
            assert!(error.contains(wrong) && error.contains(says) && !error.contains('\n'), "{error}");
        }
        // What looks like a number is a name where a name is wanted.
        assert_eq!(with(&["node.name=5"]).unwrap().node.name.as_deref(), Some("5"));
        for port in ["node.metrics=9440", "node.metrics=\"9440\"", "node.metrics=127.0.0.1:9440"] {
            assert_eq!(with(&[port]).unwrap().node.metrics, Some(([127, 0, 0, 1], 9440).into()), "{port}");
        }
        // Every one of them: what is the default may be said.
        for (section, values) in &toml::Table::try_from(Settings::default()).unwrap() {
            for (key, value) in values.as_table().unwrap() {
                assert_eq!(
                    with(&[&format!("{section}.{key}={value}")]).unwrap(),
                    Settings::default(),
                    "{section}.{key}"
                );
            }
        }
    }

    #[test]
    fn the_file_that_is_installed_has_every_setting_with_its_default() {
        let installed = include_str!("../../dist/config.toml");
        assert_eq!(Settings::parse(installed).unwrap(), Settings::default());
        // `#key = value` is a setting, `# ...` a remark.
        let setting = |line: &'static str| line.strip_prefix('#').filter(|rest| !rest.starts_with(' '));
        let counts: Vec<_> = installed.lines().filter_map(setting).collect();
        let examples = counts.iter().filter(|line| line.contains("# example: ")).count();
        let all: Vec<_> = installed.lines().map(|line| setting(line).unwrap_or(line)).collect();
        let all = Settings::parse(&all.join("\n")).unwrap();
        let given = toml::Table::try_from(&all).unwrap();
        let defaults = toml::Table::try_from(Settings::default()).unwrap();
        let (mut keys, mut differ) = (0, 0);
        for (table, settings) in &given {
            for (key, value) in settings.as_table().unwrap() {
                keys += 1;
                differ += usize::from(defaults[table].get(key) != Some(value));
            }
        }
        // `given` leaves out what is None: no key of the file may be, so none of the settings is missing in it.
        assert_eq!((keys, differ), (counts.len(), examples), "{given}");
        let Settings { node, cache, limits, .. } = all;
        assert!(node.metrics.is_some() && node.advertise.is_some() && node.name.is_some() && node.keyfile.is_some());
        assert!(cache.dir.is_some() && cache.disk.is_some());
        assert!(limits.upload.is_some() && limits.download.is_some() && limits.upload_slots.is_some());
    }

    #[test]
    fn what_is_expected_is_said_in_words_for_every_setting() {
        let installed = include_str!("../../dist/config.toml");
        let mut section = "";
        let mut keys = 0;
        for line in installed.lines() {
            if let Some(name) = line.strip_prefix('[') {
                section = name.trim_end_matches(']');
            } else if let Some((key, _)) = line.strip_prefix('#').and_then(|line| line.split_once(" = ")) {
                keys += 1;
                // A value of a type that none of them has.
                for wrong in ["{ a = 1 }", "1.5", "-1", "[[]]"] {
                    let given = format!("{section}.{key}={wrong}");
                    let Err(error) = Settings::check_given(std::slice::from_ref(&given)) else { continue };
                    let error = error.to_string();
                    let plain = ["usize", "u16", "u32", "u64", "struct", "enum", "variant", "syntax"];
                    assert!(plain.iter().all(|word| !error.contains(word)), "{error}");
                    assert!(["expected", "write", "unknown"].iter().any(|word| error.contains(word)), "{error}");
                }
                let given = format!("{section}.{key}={{ a = 1 }}");
                let takes_text = Settings::check_given(std::slice::from_ref(&given)).is_ok();
                let text = ["name", "keyfile", "dir", "level", "format"];
                assert_eq!(takes_text, text.contains(&key), "{section}.{key}");
            }
        }
        assert!(keys > 20, "{keys}");
        let error = Settings::check_given(&["node.mesh=x".to_owned()]).unwrap_err().to_string();
        assert!(error.contains("a whole number"), "{error}");
    }

    #[test]
    fn a_limit_of_0_nearly_stopped_everything() {
        let limits = |text: &str| {
            let limits = Settings::parse(text).unwrap().limits;
            (limits.upload_rate(), limits.download_rate(), limits.slots())
        };
        assert_eq!(limits("[limits]\nupload = 0\ndownload = \"0\"\nupload_slots = 0\n"), (None, None, None));
        assert_eq!(
            limits("[limits]\nupload = \"1K\"\ndownload = 7\nupload_slots = 1\n"),
            (Some(1024), Some(7), Some(1))
        );
        assert_eq!(limits(""), (None, None, None));
    }

    #[test]
    fn what_is_written_is_read_again() {
        let text = toml::to_string(&Settings::default()).unwrap();
        assert_eq!(Settings::parse(&text).unwrap(), Settings::default());
    }
}

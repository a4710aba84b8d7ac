//! The arguments, as clap parses them.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Parser, Subcommand};

use crate::settings::address::parse_metrics_addr;
use crate::tracker::store::StoreAt;

/// Mounts one folder that holds everything a network's live peers share.
#[derive(Parser, Clone, Debug)]
#[command(name = "flashget", version, propagate_version = true, after_help = AFTER)]
pub struct Args {
    /// The home of this node [default: the XDG folders; for root /etc, /var/lib and /var/cache/flashget]
    #[arg(long, global = true, value_name = "DIR", env = "FLASHGET_HOME", hide_env_values = true)]
    pub home: Option<PathBuf>,
    /// The settings file [default: config.toml in the home]
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Unlock the vault with the passphrase in this file's first line (- for stdin); when the vault is made: lock it so
    #[arg(long, global = true, value_name = "FILE", env = "FLASHGET_PASSPHRASE_FILE", hide_env_values = true)]
    pub passphrase_file: Option<PathBuf>,
    /// Unlock the vault with this key file [default: key in the home]
    #[arg(long, global = true, value_name = "FILE", conflicts_with = "passphrase_file")]
    pub keyfile: Option<PathBuf>,
    /// A value in place of the settings file's, such as cache.ram=64M; may be given several times
    #[arg(long, global = true, value_name = "SECTION.KEY=VALUE")]
    pub set: Vec<String>,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

const AFTER: &str = "Exit codes: 0 done, 1 failed, 2 wrong arguments, 3 not found, 4 in conflict with what is there,
5 locked, 6 nobody reachable, 7 not allowed, 8 no daemon.

First steps:
  flashget network create lab --tracker HOST:7440 > invite     on one machine; keep the invite secret
  flashget network join - < invite                             on every other
  flashget share add ~/iso
  flashget mount lab /mnt/flashget

Without a tracker, leave --tracker out. On one local network members find each other by themselves; elsewhere name one address
of one member that is up, which is enough to get to know all:
  flashget mount lab /mnt/flashget -o peer=ADDR:7450           or: flashget daemon --peer ADDR:7450";

/// How to print.
#[derive(clap::Args, Clone, Copy, Debug, Default)]
pub struct Output {
    /// Print JSON for programs
    #[arg(long)]
    pub json: bool,
}

/// The commands.
#[derive(Subcommand, Clone, Debug)]
pub enum Command {
    /// Make, join and list networks
    #[command(subcommand)]
    Network(NetworkCommand),
    /// Run a tracker for this home's networks, in the foreground
    Tracker(TrackerArgs),
    /// Run the daemon in the foreground, until it is stopped
    Daemon(DaemonArgs),
    /// Offer folders to a network
    #[command(subcommand)]
    Share(ShareCommand),
    /// Mount a network's folder; starts the daemon if need be
    Mount(MountArgs),
    /// Unmount
    Umount {
        /// Where it is mounted
        dir: PathBuf,
        /// Detach it even if it is in use; reads that wait end with an error
        #[arg(long, short)]
        force: bool,
    },
    /// List what the network's peers share
    Ls {
        /// A path in the view, or one below a mount [default: all of the root]
        path: Option<PathBuf>,
        /// Everything below it as well
        #[arg(long, short = 'R')]
        recursive: bool,
        /// Which network, where the home has several
        #[arg(long)]
        network: Option<String>,
        #[command(flatten)]
        output: Output,
    },
    /// Show what is known of one file or folder
    Stat {
        /// A path in the view, or one below a mount
        path: PathBuf,
        /// Which network, where the home has several
        #[arg(long)]
        network: Option<String>,
        #[command(flatten)]
        output: Output,
    },
    /// Show the peers that are live
    Peers {
        #[command(flatten)]
        output: Output,
    },
    /// Fetch whole files and folders, from every peer that has them; goes on where an earlier run was interrupted
    #[command(override_usage = "flashget get [OPTIONS] PATH... [DEST]")]
    Get {
        /// Paths in the view (or below a mount), and last, if there are several, where to put them: a folder, or the name
        /// of the one file; - is stdout [default: the current folder]
        #[arg(required = true, value_name = "PATH", num_args = 1..)]
        what: Vec<PathBuf>,
        /// Which network, where the home has several
        #[arg(long)]
        network: Option<String>,
        #[command(flatten)]
        output: Output,
    },
    /// Show what is being fetched, each peer's part in it, and what limits it
    Transfers {
        /// Every second, until interrupted; with --json one object per line
        #[arg(long, short)]
        watch: bool,
        #[command(flatten)]
        output: Output,
    },
    /// Show how much of the links may be used, or change it until the daemon ends (for good: [limits] in the settings)
    Limits {
        /// Bytes per second to all peers together, such as 10M; 0: no limit
        #[arg(long, value_name = "RATE")]
        upload: Option<String>,
        /// Bytes per second from all peers together; 0: no limit
        #[arg(long, value_name = "RATE")]
        download: Option<String>,
        /// Chunks that are served at once; 0: as many as the rate asks for
        #[arg(long, value_name = "N")]
        slots: Option<usize>,
        #[command(flatten)]
        output: Output,
    },
    /// Look after the sealed cache
    #[command(subcommand)]
    Cache(CacheCommand),
    /// Wipe the keys of contents from the daemon's memory: names stay listed, nothing can be read until `unlock`
    Lock,
    /// Unlock what `lock` locked
    Unlock,
    /// Look after what unlocks the vault
    #[command(subcommand)]
    Passphrase(PassphraseCommand),
    /// Show how this node is
    Status {
        #[command(flatten)]
        output: Output,
    },
    /// End the daemon
    Stop,
    /// Look after the settings file
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Print completions for a shell
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
    /// Write the manual pages, for whoever packages flashget
    #[command(hide = true)]
    Man {
        /// Into which folder; made if it is missing
        dir: PathBuf,
    },
}

/// `flashget config`
#[derive(Subcommand, Clone, Debug)]
pub enum ConfigCommand {
    /// Check the settings file: says what is wrong, and in which line
    Check,
}

/// `flashget passphrase`
#[derive(Subcommand, Clone, Debug)]
pub enum PassphraseCommand {
    /// Change it, or change between passphrase and key file; asks for the old one first
    Change {
        /// File with the new passphrase in its first line, - for stdin [default: a prompt]
        #[arg(long, value_name = "FILE")]
        new_passphrase_file: Option<PathBuf>,
        /// Unlock by this key file from now on; it is made if it is not there
        #[arg(long, value_name = "FILE", conflicts_with = "new_passphrase_file")]
        new_keyfile: Option<PathBuf>,
    },
}

/// `flashget cache`
#[derive(Subcommand, Clone, Debug)]
pub enum CacheCommand {
    /// Show how full the cache is and how it fares
    Status {
        #[command(flatten)]
        output: Output,
    },
    /// List what is in it, what was used longest ago first
    List {
        #[command(flatten)]
        output: Output,
    },
    /// Fetch files and folders into it, and never evict them
    Pin {
        #[command(flatten)]
        which: Which,
    },
    /// Let pinned files be evicted again
    Unpin {
        #[command(flatten)]
        which: Which,
    },
    /// Let go of files now
    Evict {
        #[command(flatten)]
        which: Which,
    },
    /// Let go of everything that is not pinned
    Clear {
        /// Pinned files too, which are no longer pinned then
        #[arg(long)]
        pinned: bool,
        #[command(flatten)]
        output: Output,
    },
    /// Read and open every sealed record; what does not open is fetched again when it is needed
    Verify {
        #[command(flatten)]
        output: Output,
    },
    /// Change how much it may take on disk, until the daemon ends (for good: cache.disk in the settings)
    Resize {
        /// Such as 20G
        size: String,
    },
}

/// Files for a command on the cache.
#[derive(clap::Args, Clone, Debug)]
pub struct Which {
    /// Files or folders of the view (or below a mount), or the root of a cached file
    #[arg(required = true, value_name = "PATH")]
    pub paths: Vec<PathBuf>,
    /// Which network, where the home has several
    #[arg(long)]
    pub network: Option<String>,
    #[command(flatten)]
    pub output: Output,
}

/// `flashget network`
#[derive(Subcommand, Clone, Debug)]
pub enum NetworkCommand {
    /// Make a network and print its invite: one line, alone on stdout, secret
    Create {
        /// What to call it
        name: String,
        /// A tracker of it; may be given several times. Without one, members find each other on the local network, or by one
        /// address of one member: flashget daemon --peer ADDR:PORT, flashget mount -o peer=ADDR:PORT
        #[arg(long = "tracker", value_name = "HOST:PORT")]
        trackers: Vec<String>,
    },
    /// Join the network of an invite
    Join {
        /// The invite, or - to read it from stdin (secrets don't belong in argv)
        invite: String,
        #[command(flatten)]
        output: Output,
    },
    /// List this node's networks
    List {
        #[command(flatten)]
        output: Output,
    },
    /// Print a network's invite: one line, alone on stdout, secret
    Invite {
        /// Which network
        name: String,
        /// For somebody who only runs a tracker: it can neither list nor read
        #[arg(long)]
        for_tracker: bool,
    },
    /// Leave a network
    Leave {
        /// Which network
        name: String,
    },
}

/// `flashget share`
#[derive(Subcommand, Clone, Debug)]
pub enum ShareCommand {
    /// Offer a folder
    Add {
        /// The folder
        dir: PathBuf,
        /// Where its contents appear in the mount [default: at its root]
        #[arg(long, value_name = "PATH")]
        at: Option<PathBuf>,
        /// To whom, where the home has several networks
        #[arg(long, value_name = "NAME")]
        network: Option<String>,
        /// Hidden files too
        #[arg(long)]
        hidden: bool,
        /// Don't wait until everything in it has been hashed and published
        #[arg(long)]
        no_wait: bool,
        #[command(flatten)]
        output: Output,
    },
    /// List the folders that are offered
    List {
        #[command(flatten)]
        output: Output,
    },
    /// Offer a folder no more
    Remove {
        /// The folder
        dir: PathBuf,
    },
}

/// How to log.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct LogArgs {
    /// error, warn, info, debug, trace, or a filter such as info,flashget::net=debug
    #[arg(long, value_name = "LEVEL")]
    pub log_level: Option<String>,
    /// text, json (both to stderr) or journal
    #[arg(long, value_name = "FORMAT")]
    pub log_format: Option<String>,
}

/// `flashget daemon`
#[derive(clap::Args, Clone, Debug, Default)]
pub struct DaemonArgs {
    /// Where peers connect to [default: 0.0.0.0:7450]
    #[arg(long, value_name = "ADDR:PORT")]
    pub listen: Option<SocketAddr>,
    /// What to tell others to connect to, if not what they see
    #[arg(long, value_name = "ADDR:PORT")]
    pub advertise: Option<SocketAddr>,
    /// How this node calls itself [default: the host's name]
    #[arg(long)]
    pub name: Option<String>,
    /// A peer to try even when no tracker names it; may be given several times
    #[arg(long = "peer", value_name = "ADDR:PORT")]
    pub peers: Vec<SocketAddr>,
    /// A tracker to ask beside those of the networks' invites; may be given several times
    #[arg(long = "tracker", value_name = "HOST:PORT")]
    pub trackers: Vec<String>,
    /// How long an entry stays after its last source went, such as 5m [default: 60s]
    #[arg(long, value_name = "TIME")]
    pub linger: Option<String>,
    /// Bytes of the sealed cache on disk, such as 20G [default: a tenth of the file system, at most 20G]
    #[arg(long, value_name = "SIZE")]
    pub cache_size: Option<String>,
    #[command(flatten)]
    pub log: LogArgs,
    /// Ends by itself once it has neither mount nor share; says on stdout when it is ready
    #[arg(long, hide = true)]
    pub for_mount: bool,
}

/// `flashget tracker`
#[derive(clap::Args, Clone, Debug)]
#[command(args_conflicts_with_subcommands = true)]
pub struct TrackerArgs {
    /// What else to do with a tracker.
    #[command(subcommand)]
    pub command: Option<TrackerCommand>,
    /// Where nodes ping
    #[arg(long, value_name = "ADDR:PORT", default_value = "0.0.0.0:7440")]
    pub listen: SocketAddr,
    /// Where to keep the list of active nodes: memory, or etcd://HOST[:PORT],... so that several trackers share it
    #[arg(long, value_name = "STORE", default_value = "memory", value_parser = StoreAt::parse)]
    pub store: StoreAt,
    /// Talk to etcd over TLS, and believe certificates of this authority (PEM)
    #[arg(long, value_name = "FILE")]
    pub etcd_ca: Option<PathBuf>,
    /// This tracker's certificate for etcd (PEM)
    #[arg(long, value_name = "FILE", requires_all = ["etcd_key", "etcd_ca"])]
    pub etcd_cert: Option<PathBuf>,
    /// The key of that certificate (PEM)
    #[arg(long, value_name = "FILE", requires = "etcd_cert")]
    pub etcd_key: Option<PathBuf>,
    /// The user that this tracker is to etcd
    #[arg(long, value_name = "NAME", requires = "etcd_password_file")]
    pub etcd_user: Option<String>,
    /// That user's password: this file's first line
    #[arg(long, value_name = "FILE", requires = "etcd_user")]
    pub etcd_password_file: Option<PathBuf>,
    /// Sessions at once: one for each node
    #[arg(long, value_name = "N", default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub max_sessions: u64,
    /// Sessions at once from one address (of IPv6: from one /64), which may stand for all nodes behind it
    #[arg(long, value_name = "N", default_value_t = 16_384, value_parser = clap::value_parser!(u64).range(1..))]
    pub max_per_address: u64,
    /// Serve figures for Prometheus at http://ADDR:PORT/metrics; a port alone is one of 127.0.0.1
    #[arg(long, value_name = "[ADDR:]PORT", value_parser = parse_metrics_addr)]
    pub metrics: Option<SocketAddr>,
    #[command(flatten)]
    pub log: LogArgs,
}

/// `flashget tracker ...`
#[derive(Subcommand, Clone, Debug)]
pub enum TrackerCommand {
    /// Show how this home's tracker is
    Status {
        #[command(flatten)]
        output: Output,
    },
}

/// `flashget mount`
#[derive(clap::Args, Clone, Debug)]
#[command(override_usage = "flashget mount [OPTIONS] [NETWORK] DIR")]
pub struct MountArgs {
    /// [NETWORK] DIR: which network (needed only where the home has several), and where
    #[arg(num_args = 1..=2, required = true, value_names = ["NETWORK", "DIR"])]
    pub what: Vec<PathBuf>,
    /// Options, separated by commas
    #[arg(short = 'o', value_name = "OPTIONS", long_help = super::options::HELP)]
    pub options: Vec<String>,
    #[command(flatten)]
    pub output: Output,
}

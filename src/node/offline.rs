//! Editing a home without a daemon: networks and shares, under the home's lock, starting nothing. A daemon does the same
//! through the functions here, so that both behave alike.

use std::path::{Path, PathBuf};

use super::LOCK_PATIENCE;
use super::errors::wrong;
use super::networks::idle_report;
use crate::base::ids::NetworkId;
use crate::base::names::ValidPath;
use crate::control::report::{Report, ShareReport};
use crate::control::text::PathText;
use crate::control::{ControlError, ErrorCode, Request};
use crate::settings::address::parse_host_port;
use crate::settings::file::TRACKER_PORT;
use crate::settings::home::{Home, HomeLock};
use crate::share::list::{Forbidden, Share, ShareList};
use crate::share::mounts::flashget_mounts;
use crate::vault::invite;
use crate::vault::keys::NetworkKey;
use crate::vault::network::{Network, NetworkSecret};
use crate::vault::sealer::Sealer;
use crate::vault::store::{Unlock, Vault};

/// A home that this process has to itself.
pub struct Offline {
    home: Home,
    vault: Vault,
    _lock: HomeLock,
}

/// The sealed list of shares.
pub(super) fn share_list_file(home: &Home) -> PathBuf {
    home.state_dir().join("shares")
}

/// A new network, with keys of its own.
pub(super) fn new_network(name: &str, trackers: &[String]) -> Result<Network, ControlError> {
    let trackers: Result<Vec<String>, _> = trackers.iter().map(|text| parse_host_port(text, TRACKER_PORT)).collect();
    let key = NetworkKey::random().map_err(ControlError::failed)?;
    Network::new(name, NetworkSecret::Member(key), trackers.map_err(wrong)?).map_err(wrong)
}

/// The network called `name`, or the only one that there is.
pub(super) fn pick_network<'a>(vault: &'a Vault, name: Option<&str>) -> Result<&'a Network, ControlError> {
    match (name, vault.networks()) {
        (Some(name), _) => vault.network(name).map_err(wrong),
        (None, [only]) => Ok(only),
        (None, []) => Err(ControlError::new(
            ErrorCode::NotFound,
            "this node is in no network: run flashget network create NAME, or flashget network join INVITE",
        )),
        (None, several) => {
            let names: Vec<&str> = several.iter().map(Network::name).collect();
            Err(ControlError::invalid(format!("name one of your networks: {}", names.join(", "))))
        }
    }
}

/// A network whose shares would be left behind is not left.
pub(super) fn refuse_shared(list: &ShareList, id: NetworkId, name: &str) -> Result<(), ControlError> {
    match list.shares().iter().find(|share| share.network == id) {
        None => Ok(()),
        Some(share) => {
            let dir = PathText::from(share.dir.as_path()).shown();
            let what = format!("{dir} is shared with network '{name}': run flashget share remove {dir} first");
            Err(ControlError::new(ErrorCode::Conflict, what))
        }
    }
}

/// Adds a share to `list`, after checking that it may be one. `never`: this home's folders.
pub(super) fn add_share(
    never: Vec<PathBuf>,
    vault: &Vault,
    list: &mut ShareList,
    dir: &Path,
    at: Option<&PathText>,
    network: Option<&str>,
    hidden: bool,
) -> Result<Share, ControlError> {
    let network = pick_network(vault, network)?;
    if network.member_psk().is_none() {
        let why = "this home has only a tracker's key of that network";
        return Err(ControlError::new(ErrorCode::Denied, why));
    }
    let at = at.map(|at| ValidPath::from_user(&at.0)).transpose().map_err(wrong)?.flatten();
    let forbidden = Forbidden { mounts: flashget_mounts(), home: never };
    list.add(dir, at, network.id(), hidden, &forbidden).map_err(wrong)
}

/// A share where no daemon tells how it is.
fn idle_share(vault: &Vault, share: &Share) -> ShareReport {
    ShareReport {
        dir: share.dir.as_path().into(),
        at: share.at.as_ref().map(|at| at.as_bytes().into()),
        network: network_name(vault, share.network),
        hidden: share.hidden,
        state: "stopped".into(),
        reason: Some("no daemon is running".into()),
        files: 0,
        bytes: 0,
        hashed: 0,
        to_hash: 0,
        skipped: 0,
    }
}

/// A request that makes no sense is refused before a vault is made for it.
fn check(request: &Request) -> Result<(), ControlError> {
    match request {
        Request::NetworkCreate { name, trackers } => new_network(name, trackers).map(drop),
        Request::NetworkJoin { invite: text } => invite::read(text).map(drop).map_err(wrong),
        _ => Ok(()),
    }
}

/// What a network is called in this home.
pub(super) fn network_name(vault: &Vault, id: NetworkId) -> String {
    vault.networks().iter().find(|network| network.id() == id).map_or_else(|| id.short(12), |n| n.name().to_owned())
}

impl Offline {
    /// Takes the home's lock and opens its vault; makes one where there is none and `request` needs one.
    pub fn open(home: &Home, unlock: &Unlock, request: &Request) -> Result<Self, ControlError> {
        check(request)?;
        let lock = home.lock_when_free(LOCK_PATIENCE).map_err(wrong)?;
        let makes = matches!(request, Request::NetworkCreate { .. } | Request::NetworkJoin { .. });
        let file = home.vault_file();
        if !makes && !file.exists() {
            let nothing =
                "this node is in no network: run flashget network create NAME, or flashget network join INVITE";
            return Err(ControlError::new(ErrorCode::NotFound, nothing));
        }
        let vault = Vault::open_or_create(&file, unlock).map_err(wrong)?;
        Ok(Self { home: home.clone(), vault, _lock: lock })
    }

    /// Carries out what needs no daemon. Anything else is refused.
    pub fn call(&mut self, request: &Request) -> Result<Report, ControlError> {
        match request {
            Request::NetworkCreate { name, trackers } => {
                let network = new_network(name, trackers)?;
                self.vault.add_network(network.clone()).map_err(wrong)?;
                Ok(Report::Invite(invite::write(&network)))
            }
            Request::NetworkJoin { invite: text } => {
                let network = invite::read(text).map_err(wrong)?;
                self.vault.add_network(network.clone()).map_err(wrong)?;
                Ok(Report::Network(idle_report(&network)))
            }
            Request::NetworkList => Ok(Report::Networks(self.vault.networks().iter().map(idle_report).collect())),
            Request::NetworkInvite { name, for_tracker } => {
                Ok(Report::Invite(write_invite(&self.vault, name, *for_tracker)?))
            }
            Request::NetworkLeave { name } => {
                let id = self.vault.network(name).map_err(wrong)?.id();
                refuse_shared(&self.shares()?, id, name)?;
                self.vault.remove_network(name).map_err(wrong)?;
                Ok(Report::Done)
            }
            Request::ShareAdd { dir, at, network, hidden, .. } => {
                let mut list = self.shares()?;
                let network = network.as_deref();
                let share = add_share(
                    self.home.folders(),
                    &self.vault,
                    &mut list,
                    &dir.to_path(),
                    at.as_ref(),
                    network,
                    *hidden,
                )?;
                self.save(&list)?;
                Ok(Report::Share(idle_share(&self.vault, &share)))
            }
            Request::ShareList => {
                Ok(Report::Shares(self.shares()?.shares().iter().map(|share| idle_share(&self.vault, share)).collect()))
            }
            Request::Rekey { old, new } => {
                super::locking::rekey(&mut self.vault, old.clone(), new.clone())?;
                Ok(Report::Done)
            }
            Request::ShareRemove { dir } => {
                let mut list = self.shares()?;
                list.remove(&dir.to_path()).map_err(wrong)?;
                self.save(&list)?;
                Ok(Report::Done)
            }
            _ => Err(ControlError::new(
                ErrorCode::NoDaemon,
                "no daemon is running: flashget mount starts one, or run flashget daemon",
            )),
        }
    }

    fn sealer(&self) -> Sealer {
        Sealer::new(self.vault.name_key())
    }

    fn shares(&self) -> Result<ShareList, ControlError> {
        ShareList::load(&share_list_file(&self.home), &self.sealer()).map_err(wrong)
    }

    fn save(&self, list: &ShareList) -> Result<(), ControlError> {
        list.save(&share_list_file(&self.home), &self.sealer()).map_err(ControlError::failed)
    }
}

/// The invite of a network; of one that was joined with a tracker's invite only such a one can be written.
pub(super) fn write_invite(vault: &Vault, name: &str, for_tracker: bool) -> Result<String, ControlError> {
    let network = vault.network(name).map_err(wrong)?;
    Ok(if for_tracker { invite::write(&network.for_tracker()) } else { invite::write(network) })
}

//! Finding peers on the local network by mDNS. What is announced names no network and no node: a service, a random number
//! and a port. Who answers there, a handshake tells.

use std::net::{IpAddr, SocketAddr};
use std::sync::Weak;

use mdns_sd::{Receiver, ScopedIp, ServiceDaemon, ServiceEvent, ServiceInfo};

use super::networks::Networks;

const SERVICE: &str = "_flashget._tcp.local.";

/// Announces and looks until it is dropped.
pub(super) struct Lan {
    daemon: ServiceDaemon,
    name: String,
    events: Receiver<ServiceEvent>,
}

/// Begins to announce a node that listens on `listen`. `None` where nobody else could reach it, or where it can't be done.
pub(super) fn announce(listen: SocketAddr) -> Option<Lan> {
    if listen.ip().is_loopback() {
        return None;
    }
    match Lan::begin(listen) {
        Ok(lan) => Some(lan),
        Err(error) => {
            tracing::warn!(%error, "no mDNS: peers on the local network are not found by themselves");
            None
        }
    }
}

impl Lan {
    fn begin(listen: SocketAddr) -> Result<Self, mdns_sd::Error> {
        let mut random = [0; 8];
        getrandom::fill(&mut random).map_err(|error| mdns_sd::Error::Msg(error.to_string()))?;
        let name = data_encoding::HEXLOWER.encode(&random);
        let host = format!("{name}.local.");
        let none: &[(&str, &str)] = &[];
        let info = if listen.ip().is_unspecified() {
            ServiceInfo::new(SERVICE, &name, &host, (), listen.port(), none)?.enable_addr_auto()
        } else {
            ServiceInfo::new(SERVICE, &name, &host, listen.ip(), listen.port(), none)?
        };
        let daemon = ServiceDaemon::new()?;
        daemon.register(info)?;
        let events = daemon.browse(SERVICE)?;
        Ok(Self { daemon, name, events })
    }

    /// Tells all networks where somebody was found, until there are none.
    pub async fn look(&self, networks: Weak<Networks>) {
        let own = format!("{}.{SERVICE}", self.name);
        while let Ok(event) = self.events.recv_async().await {
            let ServiceEvent::ServiceResolved(found) = event else { continue };
            if found.fullname == own {
                continue;
            }
            let Some(networks) = networks.upgrade() else { break };
            let ips = found.addresses.iter().filter_map(|ip| match ip {
                ScopedIp::V4(ip) => Some(IpAddr::V4(*ip.addr())),
                // An address of one link means nothing without its interface.
                ScopedIp::V6(ip) if !ip.addr().is_unicast_link_local() => Some(IpAddr::V6(*ip.addr())),
                _ => None,
            });
            let addrs: Vec<SocketAddr> = ips.map(|ip| SocketAddr::new(ip, found.port)).collect();
            networks.all().iter().for_each(|joined| joined.membership.found_nearby(&addrs));
        }
    }
}

impl Drop for Lan {
    fn drop(&mut self) {
        // Takes the announcement back on its way.
        let _ = self.daemon.shutdown();
    }
}

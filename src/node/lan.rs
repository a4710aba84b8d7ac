//! Finding peers on the local network by mDNS. What is announced names no network and no node: a service, a random number
//! and a port. Who answers there, a handshake tells.

use std::net::{IpAddr, SocketAddr};
use std::sync::Weak;
use std::time::Duration;

use mdns_sd::{Receiver, ScopedIp, ServiceDaemon, ServiceEvent, ServiceInfo, UnregisterStatus};

use super::networks::Networks;

/// Taking the announcement back takes no longer than this: two packets on a network that is there, and nobody waits for one that
/// is not.
const LAST_WORD: Duration = Duration::from_secs(1);

const SERVICE: &str = "_flashget._tcp.local.";

/// Announces and looks until it is [taken back](Lan::take_back).
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

    fn full_name(&self) -> String {
        format!("{}.{SERVICE}", self.name)
    }

    /// Tells all networks where somebody was found, until there are none, or the announcement is taken back.
    pub fn look(&self, networks: Weak<Networks>) -> impl Future<Output = ()> + Send + use<> {
        let (own, events) = (self.full_name(), self.events.clone());
        async move { look(&own, &events, &networks).await }
    }

    /// Takes the announcement back: others need not find out for themselves that nobody is there any more.
    pub async fn take_back(self) {
        let taken_back = async {
            let gone = self.daemon.unregister(&self.full_name())?.recv_async().await;
            let ended = self.daemon.shutdown()?.recv_async().await;
            Ok::<bool, mdns_sd::Error>(matches!(gone, Ok(UnregisterStatus::OK)) && ended.is_ok())
        };
        match tokio::time::timeout(LAST_WORD, taken_back).await {
            Ok(Ok(true)) => {}
            Ok(Ok(false)) | Err(_) => tracing::debug!("the announcement on the local network may not be taken back"),
            Ok(Err(error)) => tracing::debug!(%error, "the announcement on the local network can't be taken back"),
        }
    }
}

async fn look(own: &str, events: &Receiver<ServiceEvent>, networks: &Weak<Networks>) {
    while let Ok(event) = events.recv_async().await {
        let ServiceEvent::ServiceResolved(found) = event else { continue };
        if found.fullname == *own {
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

impl Drop for Lan {
    fn drop(&mut self) {
        // Where nobody had time to take it back.
        let _ = self.daemon.shutdown();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_announcement_is_taken_back_and_who_looks_ends_in_time() {
        // Nobody else need be there.
        let Some(lan) = announce(([0, 0, 0, 0], 7450).into()) else { panic!("no mDNS on this machine") };
        let networks = Weak::new();
        let looking = tokio::spawn(lan.look(networks));
        tokio::time::timeout(2 * LAST_WORD, lan.take_back()).await.unwrap();
        tokio::time::timeout(LAST_WORD, looking).await.unwrap().unwrap();
    }
}

//! Finding peers on the local network by mDNS. What is announced names no network and no node: a service, a random number
//! and a port. Who answers there, a handshake tells.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Weak;
use std::time::{Duration, Instant};

use mdns_sd::{Receiver, ScopedIp, ServiceDaemon, ServiceEvent, ServiceInfo, UnregisterStatus};

use super::networks::Networks;

/// Taking the announcement back takes no longer than this: two packets on a network that is there, and nobody waits for one that
/// is not.
const LAST_WORD: Duration = Duration::from_secs(1);

const SERVICE: &str = "_flashget._tcp.local.";
/// For how long it is known in which networks this host is: who floods it with announcements costs no more.
const INTERFACES: Duration = Duration::from_secs(10);

/// Where this host is on a network: an address, and the bits that those on the same link share.
type Subnet = (IpAddr, u8);

/// True if that may be somebody on this host's local network: anybody there may announce any address, and nodes should not
/// be made to call around in the world.
fn is_local(ip: IpAddr, subnets: &[Subnet]) -> bool {
    // Of an interface that claims everything nobody is near.
    let shares = |(own, bits): &Subnet| {
        let alike = match (own, ip) {
            (IpAddr::V4(own), IpAddr::V4(ip)) => (own.to_bits() ^ ip.to_bits()).leading_zeros(),
            (IpAddr::V6(own), IpAddr::V6(ip)) => (own.to_bits() ^ ip.to_bits()).leading_zeros(),
            _ => return false,
        };
        *bits > 0 && alike >= u32::from(*bits)
    };
    let (is_nobody, is_private) = match ip {
        IpAddr::V4(ip) => (ip.is_broadcast(), ip.is_private() || ip.is_link_local()),
        IpAddr::V6(ip) => (ip.to_ipv4_mapped().is_some(), ip.is_unique_local()),
    };
    if is_nobody || ip.is_loopback() || ip.is_unspecified() || ip.is_multicast() {
        return false;
    }
    is_private || subnets.iter().any(shares)
}

/// Where this host is now.
fn subnets() -> Vec<Subnet> {
    let all = if_addrs::get_if_addrs().unwrap_or_default();
    let link_local = |ip: &Ipv6Addr| ip.is_unicast_link_local();
    let subnet = |interface: if_addrs::Interface| match interface.addr {
        if_addrs::IfAddr::V4(addr) => Some((IpAddr::V4(addr.ip), addr.prefixlen)),
        if_addrs::IfAddr::V6(addr) if link_local(&addr.ip) => None,
        if_addrs::IfAddr::V6(addr) => Some((IpAddr::V6(addr.ip), addr.prefixlen)),
    };
    all.into_iter().filter_map(subnet).collect()
}

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
    let (mut read, mut here) = (Instant::now(), subnets());
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
        if read.elapsed() >= INTERFACES {
            (read, here) = (Instant::now(), subnets());
        }
        let ips = ips.filter(|ip| is_local(*ip, &here));
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

    #[test]
    fn whoever_is_on_the_local_network_made_nodes_call_around_in_the_world() {
        let subnets: Vec<Subnet> = vec![
            ("203.0.113.77".parse().unwrap(), 24),
            ("2001:db8:1:2::7".parse().unwrap(), 64),
            // A point-to-point link that claims everything.
            ("100.64.0.1".parse().unwrap(), 0),
        ];
        let local = |ip: &str| is_local(ip.parse().unwrap(), &subnets);
        for ip in
            ["10.1.2.3", "172.31.0.9", "192.168.7.7", "169.254.3.4", "203.0.113.200", "fd12::3", "2001:db8:1:2::99"]
        {
            assert!(local(ip), "{ip}");
        }
        for ip in [
            "8.8.8.8",
            "203.0.114.1",
            "100.64.0.9",
            "127.0.0.1",
            "0.0.0.0",
            "255.255.255.255",
            "224.0.0.251",
            "::1",
            "::",
            "ff02::fb",
            "2001:db8:1:3::1",
            "::ffff:10.0.0.1",
            "fe80::1",
        ] {
            assert!(!local(ip), "{ip}");
        }
    }

    #[test]
    fn this_host_knows_where_it_is() {
        assert!(subnets().iter().any(|(ip, _)| ip.is_loopback()));
    }
}

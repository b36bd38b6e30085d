//! Links, addresses and routes of a namespace, all by netlink.

use std::fmt;
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;
use std::str::FromStr;

use anyhow::{Context, Error, Result, bail, ensure};
use futures::TryStreamExt;
use ipnet::Ipv4Net;
use rtnetlink::packet_route::link::{InfoData, InfoVeth};
use rtnetlink::packet_route::route::RouteScope;
use rtnetlink::{
    AddressMessageBuilder, Handle, LinkBridge, LinkMessageBuilder, LinkUnspec, LinkVeth,
    RouteMessageBuilder,
};

use crate::netns::Netns;

/// A MAC address.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// The broadcast address.
    pub const BROADCAST: Mac = Mac([0xff; 6]);
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Mac {
    type Err = Error;

    fn from_str(text: &str) -> Result<Mac> {
        let bytes: Vec<u8> = text
            .split(':')
            .map(|part| {
                u8::from_str_radix(part, 16)
                    .with_context(|| format!("{text:?} is not a MAC address"))
            })
            .collect::<Result<_>>()?;
        match bytes.try_into() {
            Ok(bytes) => Ok(Mac(bytes)),
            Err(_) => bail!("{text:?} is not a MAC address"),
        }
    }
}

/// Where a route leads.
#[derive(Clone, Copy, Debug)]
pub enum Via<'a> {
    /// To the next router.
    Gateway(Ipv4Addr),
    /// Straight onto the link of this interface.
    Link(&'a str),
}

impl Netns {
    /// Runs `work` with a netlink connection inside the namespace.
    pub fn netlink<T: Send>(
        &self,
        work: impl AsyncFnOnce(&Handle) -> Result<T> + Send,
    ) -> Result<T> {
        self.run(|| {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            runtime.block_on(async {
                let (connection, handle, _) = rtnetlink::new_connection()?;
                tokio::spawn(connection);
                work(&handle).await
            })
        })
        .with_context(|| format!("in the network namespace {}", self.name()))
    }

    /// Makes a pair of interfaces, one here and one in `other`, with the given MACs; `None` leaves it to the kernel.
    pub fn veth(
        &self,
        name: &str,
        other: &Netns,
        other_name: &str,
        macs: [Option<Mac>; 2],
    ) -> Result<()> {
        let other_file = std::fs::File::open(other.path())?;
        self.netlink(async |handle| {
            let far = LinkMessageBuilder::<LinkUnspec>::new().name(other_name);
            let mut far = far.setns_by_fd(other_file.as_raw_fd());
            let mut near = LinkVeth::new(name, other_name);
            if let [_, Some(mac)] = macs {
                far = far.address(mac.0.to_vec());
            }
            if let [Some(mac), _] = macs {
                near = near.address(mac.0.to_vec());
            }
            let pair = near
                .set_info_data(InfoData::Veth(InfoVeth::Peer(far.build())))
                .build();
            handle.link().add(pair).execute().await.with_context(|| {
                format!(
                    "cannot make the pair of interfaces {name} and {other_name} of {}",
                    other.name()
                )
            })
        })
    }

    /// Makes a bridge of the given ports, and sets it and them up.
    pub fn bridge(&self, name: &str, ports: &[&str]) -> Result<()> {
        self.netlink(async |handle| {
            let bridge = LinkBridge::new(name).mcast_snooping(false).up().build();
            handle
                .link()
                .add(bridge)
                .execute()
                .await
                .with_context(|| format!("cannot make the bridge {name}"))
        })?;
        ports
            .iter()
            .try_for_each(|port| self.bridge_port(name, port))
    }

    /// Makes `port` a port of `bridge`, and sets it up.
    pub fn bridge_port(&self, bridge: &str, port: &str) -> Result<()> {
        self.netlink(async |handle| {
            let controller = index(handle, bridge).await?;
            let message = LinkUnspec::new_with_name(port)
                .controller(controller)
                .up()
                .build();
            let done = handle.link().set(message).execute().await;
            done.with_context(|| format!("cannot make {port} a port of {bridge}"))
        })
    }

    /// Sets an interface up.
    pub fn set_up(&self, interface: &str) -> Result<()> {
        self.set_link(interface, "up", LinkMessageBuilder::up)
    }

    /// Sets an interface down.
    pub fn set_down(&self, interface: &str) -> Result<()> {
        self.set_link(interface, "down", LinkMessageBuilder::down)
    }

    /// Sets the greatest packet that an interface sends.
    pub fn set_mtu(&self, interface: &str, mtu: u32) -> Result<()> {
        self.set_link(interface, &format!("to MTU {mtu}"), |link| link.mtu(mtu))
    }

    fn set_link(
        &self,
        interface: &str,
        what: &str,
        change: impl FnOnce(LinkMessageBuilder<LinkUnspec>) -> LinkMessageBuilder<LinkUnspec> + Send,
    ) -> Result<()> {
        self.netlink(async |handle| {
            let message = change(LinkUnspec::new_with_name(interface)).build();
            handle
                .link()
                .set(message)
                .execute()
                .await
                .with_context(|| format!("cannot set {interface} {what}"))
        })
    }

    /// Removes an interface, and with it its peer.
    pub fn delete_link(&self, interface: &str) -> Result<()> {
        self.netlink(async |handle| {
            let index = index(handle, interface).await?;
            handle
                .link()
                .del(index)
                .execute()
                .await
                .with_context(|| format!("cannot remove {interface}"))
        })
    }

    /// Gives an interface an address: `add_address("eth0", "10.90.3.1/24")`.
    pub fn add_address(&self, interface: &str, address: &str) -> Result<()> {
        let net = network(address)?;
        self.netlink(async |handle| {
            let index = index(handle, interface).await?;
            let done = handle
                .address()
                .add(index, net.addr().into(), net.prefix_len())
                .execute()
                .await;
            done.with_context(|| format!("cannot give {interface} the address {net}"))
        })
    }

    /// Takes an address away from an interface.
    pub fn remove_address(&self, interface: &str, address: &str) -> Result<()> {
        let net = network(address)?;
        self.netlink(async |handle| {
            let message = AddressMessageBuilder::<Ipv4Addr>::new()
                .index(index(handle, interface).await?)
                .address(net.addr(), net.prefix_len())
                .build();
            let done = handle.address().del(message).execute().await;
            done.with_context(|| format!("cannot take {net} away from {interface}"))
        })
    }

    /// Adds a route: `route("0.0.0.0/0", Via::Gateway(router))`.
    pub fn route(&self, destination: &str, via: Via<'_>) -> Result<()> {
        let net = network(destination)?;
        self.netlink(async |handle| {
            let route = RouteMessageBuilder::<Ipv4Addr>::new()
                .destination_prefix(net.network(), net.prefix_len());
            let route = match via {
                Via::Gateway(gateway) => route.gateway(gateway),
                Via::Link(interface) => route
                    .output_interface(index(handle, interface).await?)
                    .scope(RouteScope::Link),
            };
            let done = handle.route().add(route.build()).execute().await;
            done.with_context(|| format!("cannot add the route to {net} via {via:?}"))
        })
    }

    /// Pins the neighbour `address` at `interface` to a MAC, so that nobody asks for it.
    pub fn neighbour(&self, interface: &str, address: Ipv4Addr, mac: Mac) -> Result<()> {
        self.netlink(async |handle| {
            let index = index(handle, interface).await?;
            let request = handle
                .neighbours()
                .add(index, address.into())
                .link_layer_address(&mac.0)
                .replace();
            request
                .execute()
                .await
                .with_context(|| format!("cannot pin {address} at {interface} to {mac}"))
        })
    }

    /// The index of an interface.
    pub fn index(&self, interface: &str) -> Result<u32> {
        self.netlink(async |handle| index(handle, interface).await)
    }
}

async fn index(handle: &Handle, interface: &str) -> Result<u32> {
    let mut links = handle.link().get().match_name(interface).execute();
    let link = links
        .try_next()
        .await
        .with_context(|| format!("cannot find the interface {interface}"))?;
    Ok(link
        .with_context(|| format!("there is no interface {interface}"))?
        .header
        .index)
}

fn network(text: &str) -> Result<Ipv4Net> {
    ensure!(text.contains('/'), "{text:?} lacks its prefix length");
    text.parse()
        .with_context(|| format!("{text:?} is not an IPv4 address with a prefix length"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn macs_are_read_and_written() -> Result<()> {
        let mac: Mac = "52:54:84:00:08:45".parse()?;
        assert_eq!(mac, Mac([0x52, 0x54, 0x84, 0x00, 0x08, 0x45]));
        assert_eq!(mac.to_string(), "52:54:84:00:08:45");
        for wrong in [
            "",
            "52:54:84:00:08",
            "52:54:84:00:08:45:00",
            "52:54:84:00:08:zz",
            "5254.8400.0845",
        ] {
            assert!(wrong.parse::<Mac>().is_err(), "{wrong}");
        }
        Ok(())
    }
}

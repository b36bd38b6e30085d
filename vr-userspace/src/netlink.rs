//! The machine's links, addresses and routes, read and written through rtnetlink.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    os::fd::RawFd,
};

use anyhow::{Context, Result, anyhow};
use futures::{StreamExt, TryStreamExt};
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::{
    RouteNetlinkMessage,
    address::AddressMessage,
    link::{LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage, LinkXdp, XdpAttached},
    route::{RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteType},
    tc::{TcAttribute, TcFilterBpfOption, TcHandle, TcOption},
};
use rtnetlink::{AddressMessageBuilder, Handle, LinkUnspec, RouteMessageBuilder};

use crate::{
    bulk,
    config::MacAddr,
    dump,
    state::{DefaultRoute, OnLink},
};

/// A network interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// The kernel's index.
    pub ifindex: u32,
    /// Its name now.
    pub name: String,
    /// Its MAC; `None` for devices without Ethernet addresses.
    pub mac: Option<MacAddr>,
    /// Whether it is administratively up.
    pub up: bool,
    /// What the kernel calls a device made by software (`veth`, `bridge`, `vlan`, …); `None` for a NIC.
    pub kind: Option<String>,
    /// The bridge or bond that it is a port of.
    pub master: Option<u32>,
    /// The link below it in this namespace (a VLAN's NIC).
    pub lower: Option<u32>,
    /// Largest IP packet, in bytes.
    pub mtu: u32,
    /// The kernel's number of the XDP program that it runs natively.
    pub xdp: Option<u32>,
}

/// What netlink tells of the machine.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Machine {
    /// Interfaces by index.
    pub links: BTreeMap<u32, Link>,
    /// All IPv4 addresses.
    pub addresses: BTreeSet<OnLink>,
    /// Interfaces with a clsact qdisc.
    pub clsact: BTreeSet<u32>,
    /// Default routes of the main table with metric 0.
    pub routes: BTreeSet<DefaultRoute>,
    /// Interfaces that accept frames redirected by XDP, as far as the kernel tells (6.3); `None` if it does not.
    pub redirect_targets: Option<BTreeSet<u32>>,
}

/// The side of an interface that a classifier is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Where packets come in.
    Ingress,
    /// Where they leave.
    Egress,
}

/// A netlink socket in the namespace of the thread that opened it.
#[derive(Debug, Clone)]
pub struct Netlink(Handle);

impl Netlink {
    /// Opens it. Must run inside a tokio runtime, which then serves the socket.
    ///
    /// # Errors
    /// If the kernel gives no socket.
    pub fn open() -> Result<Self> {
        let (connection, handle, _) =
            rtnetlink::new_connection().context("cannot open a netlink socket")?;
        tokio::spawn(connection);
        Ok(Self(handle))
    }

    /// Reads links, addresses and routes.
    ///
    /// # Errors
    /// If a dump fails.
    pub async fn read(&self) -> Result<Machine> {
        let links = self
            .links()
            .await
            .context("cannot list the network interfaces")?;
        Ok(Machine {
            clsact: self
                .clsact()
                .await
                .context("cannot list the queueing disciplines")?,
            addresses: dump::addresses().context("cannot list the addresses")?,
            routes: default_routes().context("cannot list the routes")?,
            redirect_targets: crate::netdev::redirect_targets(links.keys().copied()).await,
            links,
        })
    }

    /// Reads the links only.
    ///
    /// # Errors
    /// If the dump fails.
    pub async fn links(&self) -> Result<BTreeMap<u32, Link>> {
        self.0
            .link()
            .get()
            .execute()
            .try_filter_map(async |message| Ok(link(message).map(|link| (link.ifindex, link))))
            .try_collect()
            .await
            .map_err(Into::into)
    }

    async fn clsact(&self) -> Result<BTreeSet<u32>> {
        self.0
            .qdisc()
            .get()
            .execute()
            .try_filter_map(async |message| {
                let clsact = TcAttribute::Kind("clsact".to_owned());
                let index = u32::try_from(message.header.index).ok();
                Ok(index.filter(|_| message.attributes.contains(&clsact)))
            })
            .try_collect()
            .await
            .map_err(Into::into)
    }

    /// Sets a link up or down.
    ///
    /// # Errors
    /// What the kernel says.
    pub async fn set_up(&self, link: &Link, up: bool) -> Result<()> {
        let message = LinkUnspec::new_with_index(link.ifindex);
        let message = if up { message.up() } else { message.down() };
        self.0
            .link()
            .set(message.build())
            .execute()
            .await
            .with_context(|| {
                format!(
                    "cannot set {} {}",
                    link.name,
                    if up { "up" } else { "down" }
                )
            })
    }

    /// Adds addresses; one that is there already is no error.
    ///
    /// # Errors
    /// The first that the kernel refuses.
    pub fn add_addresses(&self, addresses: &[OnLink]) -> Result<()> {
        let requests = addresses
            .iter()
            .map(|on_link| RouteNetlinkMessage::NewAddress(on_link.message()))
            .collect();
        bulk::send(requests, NLM_F_CREATE | NLM_F_EXCL, nix::Error::EEXIST)?
            .map_err(|(index, errno)| anyhow!("cannot add {}: {}", addresses[index], errno.desc()))
    }

    /// Removes addresses; one that is gone already is no error.
    ///
    /// # Errors
    /// The first that the kernel refuses.
    pub fn remove_addresses(&self, addresses: &[OnLink]) -> Result<()> {
        let requests = addresses
            .iter()
            .map(|on_link| RouteNetlinkMessage::DelAddress(on_link.message()))
            .collect();
        bulk::send(requests, 0, nix::Error::EADDRNOTAVAIL)?.map_err(|(index, errno)| {
            anyhow!("cannot remove {}: {}", addresses[index], errno.desc())
        })
    }

    /// Adds a default route *before* any other with the same metric, which stays and comes into force again when ours is
    /// removed. `onlink` for a gateway outside the interface's subnets.
    ///
    /// # Errors
    /// What the kernel says; that the very route is there already is no error.
    pub async fn add_default_route(&self, route: &DefaultRoute, onlink: bool) -> Result<()> {
        let mut builder = RouteMessageBuilder::<Ipv4Addr>::new()
            .output_interface(route.ifindex)
            .gateway(route.gateway)
            .protocol(RouteProtocol::Static);
        if onlink {
            builder = builder.onlink();
        }
        let mut request = NetlinkMessage::from(RouteNetlinkMessage::NewRoute(builder.build()));
        // Neither EXCL nor REPLACE nor APPEND: `ip route prepend`. The library knows only the first two.
        request.header.flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE;
        let mut handle = self.0.clone();
        let mut answer = handle.request(request)?;
        while let Some(message) = answer.next().await {
            if let NetlinkPayload::Error(error) = message.payload {
                let result = if error.code.is_none() {
                    Ok(())
                } else {
                    Err(rtnetlink::Error::NetlinkError(error))
                };
                unless(result, nix::errno::Errno::EEXIST).with_context(|| {
                    format!("cannot add the default route by {}", route.gateway)
                })?;
            }
        }
        Ok(())
    }

    /// Removes a default route; one that is gone already is no error.
    ///
    /// # Errors
    /// What the kernel says.
    pub async fn remove_default_route(&self, route: &DefaultRoute) -> Result<()> {
        let message = RouteMessageBuilder::<Ipv4Addr>::new()
            .output_interface(route.ifindex)
            .gateway(route.gateway)
            .protocol(RouteProtocol::Static)
            .build();
        let result = self.0.route().del(message).execute().await;
        unless(result, nix::errno::Errno::ESRCH)
            .with_context(|| format!("cannot remove the default route by {}", route.gateway))
    }

    /// Makes an interface run the XDP program of this descriptor natively, or none. `first`: only if it runs none yet.
    ///
    /// # Errors
    /// The kernel's error number.
    pub async fn set_xdp(
        &self,
        ifindex: u32,
        program: Option<RawFd>,
        first: bool,
    ) -> Result<(), nix::Error> {
        /// `XDP_FLAGS_*` of linux/if_link.h.
        const UPDATE_IF_NOEXIST: u32 = 1;
        const DRV_MODE: u32 = 4;
        let flags = DRV_MODE | if first { UPDATE_IF_NOEXIST } else { 0 };
        let mut message = LinkUnspec::new_with_index(ifindex).build();
        message.attributes.push(LinkAttribute::Xdp(vec![
            LinkXdp::Fd(program.unwrap_or(-1)),
            LinkXdp::Flags(flags),
        ]));
        match self.0.link().set(message).execute().await {
            Ok(()) => Ok(()),
            Err(rtnetlink::Error::NetlinkError(error)) => {
                Err(nix::Error::from_raw(-error.raw_code()))
            }
            Err(_) => Err(nix::Error::EIO),
        }
    }

    /// The kernel's number of the BPF program that the classifier with this priority and handle runs, if there is one.
    ///
    /// # Errors
    /// If the kernel cannot be asked.
    pub async fn classifier(
        &self,
        ifindex: u32,
        side: Side,
        priority: u16,
        handle: u16,
    ) -> Result<Option<u32>> {
        let get = self
            .0
            .traffic_filter(i32::try_from(ifindex).context("no such interface")?)
            .get();
        let filters = match side {
            Side::Ingress => get.ingress(),
            Side::Egress => get.egress(),
        };
        let mut filters = filters.execute();
        loop {
            let filter = match filters.try_next().await {
                Ok(Some(filter)) => filter,
                // Without a clsact qdisc, or without the interface, there is none.
                Ok(None) | Err(rtnetlink::Error::NetlinkError(_)) => return Ok(None),
                Err(error) => return Err(error).context("cannot list the classifiers"),
            };
            let header = &filter.header;
            if header.info >> 16 != u32::from(priority) || header.handle.minor != handle {
                continue;
            }
            let options = filter
                .attributes
                .iter()
                .find_map(|attribute| match attribute {
                    TcAttribute::Options(options) => Some(options),
                    _ => None,
                });
            return Ok(options.and_then(|options| {
                options.iter().find_map(|option| match option {
                    TcOption::Bpf(TcFilterBpfOption::ProgId(id)) => Some(*id),
                    _ => None,
                })
            }));
        }
    }

    /// Removes the clsact qdisc of an interface unless somebody has put filters of theirs on it.
    ///
    /// # Errors
    /// What the kernel says.
    pub async fn remove_clsact_if_empty(&self, ifindex: u32) -> Result<()> {
        let Ok(index) = i32::try_from(ifindex) else {
            return Ok(());
        };
        for filters in [
            self.0.traffic_filter(index).get().ingress(),
            self.0.traffic_filter(index).get().egress(),
        ] {
            if filters
                .execute()
                .try_next()
                .await
                .is_ok_and(|filter| filter.is_some())
            {
                return Ok(());
            }
        }
        let mut request = self.0.qdisc().del(index);
        let message = request.message_mut();
        message.header.parent = TcHandle::CLSACT;
        message.header.handle = TcHandle {
            major: 0xffff,
            minor: 0,
        };
        // Gone already: which of the two the kernel says depends on what else is on the interface.
        let result = unless(request.execute().await, nix::errno::Errno::ENOENT);
        unless(result, nix::errno::Errno::EINVAL).context("cannot remove the clsact qdisc")
    }
}

impl OnLink {
    fn message(&self) -> AddressMessage {
        AddressMessageBuilder::<Ipv4Addr>::new()
            .index(self.ifindex)
            .address(self.address, self.prefix)
            .build()
    }
}

/// Takes one kind of error for success.
fn unless(
    result: Result<(), rtnetlink::Error>,
    fine: nix::errno::Errno,
) -> Result<(), rtnetlink::Error> {
    match result {
        Err(rtnetlink::Error::NetlinkError(error)) if error.raw_code() == -(fine as i32) => Ok(()),
        other => other,
    }
}

fn link(message: LinkMessage) -> Option<Link> {
    let flags = message.header.flags;
    if flags.contains(LinkFlags::Loopback) {
        return None;
    }
    let mut link = Link {
        ifindex: message.header.index,
        name: String::new(),
        mac: None,
        up: flags.contains(LinkFlags::Up),
        kind: None,
        master: None,
        lower: None,
        mtu: 0,
        xdp: None,
    };
    let ethernet = message.header.link_layer_type == LinkLayerType::Ether;
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name = name,
            LinkAttribute::Address(bytes) if ethernet => {
                link.mac = <[u8; 6]>::try_from(bytes).ok().map(MacAddr);
            }
            LinkAttribute::Mtu(mtu) => link.mtu = mtu,
            LinkAttribute::Xdp(xdp) => {
                let native = xdp.contains(&LinkXdp::Attached(XdpAttached::Driver));
                link.xdp = xdp.iter().find_map(|attribute| match attribute {
                    LinkXdp::ProgId(id) if native => Some(*id),
                    LinkXdp::DrvProgId(id) => Some(*id),
                    _ => None,
                });
            }
            LinkAttribute::Controller(master) => link.master = Some(master),
            LinkAttribute::Link(lower) => link.lower = Some(lower),
            LinkAttribute::LinkInfo(infos) => {
                link.kind = infos.into_iter().find_map(|info| match info {
                    LinkInfo::Kind(kind) => Some(kind.to_string()),
                    _ => None,
                });
            }
            _ => {}
        }
    }
    Some(link)
}

fn default_routes() -> Result<BTreeSet<DefaultRoute>> {
    let routes = dump::main_routes()?;
    let routes = routes.iter().filter_map(|message| match message {
        RouteNetlinkMessage::NewRoute(route) => default_route(route),
        _ => None,
    });
    Ok(routes.collect())
}

fn default_route(message: &RouteMessage) -> Option<DefaultRoute> {
    let header = &message.header;
    if header.destination_prefix_length != 0
        || header.table != RouteHeader::RT_TABLE_MAIN
        || header.kind != RouteType::Unicast
    {
        return None;
    }
    let (mut ifindex, mut gateway) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Oif(index) => ifindex = Some(*index),
            RouteAttribute::Gateway(RouteAddress::Inet(address)) => gateway = Some(*address),
            RouteAttribute::Priority(metric) if *metric != 0 => return None,
            _ => {}
        }
    }
    Some(DefaultRoute {
        ifindex: ifindex?,
        gateway: gateway?,
    })
}

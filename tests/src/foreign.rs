//! What others set up on an interface, and the router must leave alone: XDP programs, qdiscs and filters.

use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;

use anyhow::{Context, Result};
use futures::{StreamExt, TryStreamExt};
use rtnetlink::packet_core::{
    DefaultNla, Emitable, NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REQUEST, NetlinkMessage,
    NetlinkPayload,
};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::link::{LinkAttribute, LinkXdp};
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute};
use rtnetlink::packet_route::tc::{TcAttribute, TcHandle, TcMessage};
use rtnetlink::{Handle, LinkUnspec, LinkVlan, RouteMessageBuilder};

use crate::netns::Netns;
use crate::sys;

/// `XDP_FLAGS_DRV_MODE` of linux/if_link.h.
const DRV_MODE: u32 = 4;

/// The priority of [`Netns::add_filter`]'s filter.
pub const PRIORITY: u16 = 7;

impl Netns {
    /// Makes `interface` run an XDP program that passes every frame, natively.
    pub fn add_xdp(&self, interface: &str) -> Result<()> {
        let program = sys::load_bpf_pass(sys::XDP).context("cannot load an XDP program")?;
        self.set_xdp(interface, program.as_raw_fd())
    }

    /// Takes the XDP program off `interface`.
    pub fn remove_xdp(&self, interface: &str) -> Result<()> {
        self.set_xdp(interface, -1)
    }

    fn set_xdp(&self, interface: &str, fd: i32) -> Result<()> {
        let index = self.index(interface)?;
        self.netlink(async |handle| {
            let mut message = LinkUnspec::new_with_index(index).build();
            let xdp = vec![LinkXdp::Fd(fd), LinkXdp::Flags(DRV_MODE)];
            message.attributes.push(LinkAttribute::Xdp(xdp));
            let done = handle.link().set(message).execute().await;
            done.with_context(|| format!("cannot set the XDP program of {interface}"))
        })
    }

    /// Gives `interface` a clsact qdisc.
    pub fn add_clsact(&self, interface: &str) -> Result<()> {
        let mut message = self.tc_message(interface)?;
        message.header.parent = TcHandle::CLSACT;
        message.header.handle = handle_of(0);
        message
            .attributes
            .push(TcAttribute::Kind("clsact".to_string()));
        self.request(RouteNetlinkMessage::NewQueueDiscipline(message))
            .with_context(|| format!("cannot add a clsact qdisc to {interface}"))
    }

    /// Takes the clsact qdisc of `interface` away, with all filters on it.
    pub fn remove_clsact(&self, interface: &str) -> Result<()> {
        let mut message = self.tc_message(interface)?;
        message.header.parent = TcHandle::CLSACT;
        message.header.handle = handle_of(0);
        self.request(RouteNetlinkMessage::DelQueueDiscipline(message))
            .with_context(|| format!("cannot take the clsact qdisc of {interface} away"))
    }

    /// Adds a filter to the ingress of `interface`, which has a clsact qdisc: a BPF program that does nothing.
    pub fn add_filter(&self, interface: &str) -> Result<()> {
        /// `TCA_OPTIONS` and `TCA_BPF_*` of linux/pkt_cls.h.
        const OPTIONS: u16 = 2;
        const FD: u16 = 6;
        const NAME: u16 = 7;
        const FLAGS: u16 = 8;
        const DIRECT_ACTION: u32 = 1;
        const ALL_PROTOCOLS: u16 = 0x0003;
        let program = sys::load_bpf_pass(sys::CLASSIFIER).context("cannot load a classifier")?;
        let options = [
            DefaultNla::new(FD, program.as_raw_fd().to_ne_bytes().to_vec()),
            DefaultNla::new(NAME, b"theirs\0".to_vec()),
            DefaultNla::new(FLAGS, DIRECT_ACTION.to_ne_bytes().to_vec()),
        ];
        let mut bytes = vec![0; options.as_slice().buffer_len()];
        options.as_slice().emit(&mut bytes);
        let mut message = self.tc_message(interface)?;
        message.header.parent = handle_of(TcHandle::MIN_INGRESS);
        message.header.info = u32::from(PRIORITY) << 16 | u32::from(ALL_PROTOCOLS.to_be());
        message.attributes = vec![
            TcAttribute::Kind("bpf".to_string()),
            TcAttribute::Other(DefaultNla::new(OPTIONS, bytes)),
        ];
        self.request(RouteNetlinkMessage::NewTrafficFilter(message))
            .with_context(|| format!("cannot add a filter to {interface}"))
    }

    fn tc_message(&self, interface: &str) -> Result<TcMessage> {
        Ok(TcMessage::with_index(self.index(interface)? as i32))
    }

    /// Sends a request that makes something new, or takes something away.
    fn request(&self, message: RouteNetlinkMessage) -> Result<()> {
        let new = match message {
            RouteNetlinkMessage::DelQueueDiscipline(_) => 0,
            _ => NLM_F_CREATE | NLM_F_EXCL,
        };
        self.netlink(async |handle| {
            let mut request = NetlinkMessage::from(message);
            request.header.flags = NLM_F_REQUEST | NLM_F_ACK | new;
            let mut handle: Handle = handle.clone();
            let mut answers = handle.request(request)?;
            while let Some(answer) = answers.next().await {
                if let NetlinkPayload::Error(error) = answer.payload
                    && error.code.is_some()
                {
                    return Err(error.to_io().into());
                }
            }
            Ok(())
        })
    }

    /// Gives `interface` a sub-interface for a VLAN, and sets it up.
    pub fn add_vlan(&self, interface: &str, name: &str, vlan: u16) -> Result<()> {
        let index = self.index(interface)?;
        self.netlink(async |handle| {
            let message = LinkVlan::new(name, index, vlan).up().build();
            let done = handle.link().add(message).execute().await;
            done.with_context(|| format!("cannot add {name} to {interface}"))
        })
    }

    /// Gives an interface another name. It must be down.
    pub fn rename(&self, interface: &str, name: &str) -> Result<()> {
        let index = self.index(interface)?;
        self.netlink(async |handle| {
            let message = LinkUnspec::new_with_index(index).name(name).build();
            let done = handle.link().set(message).execute().await;
            done.with_context(|| format!("cannot rename {interface} to {name}"))
        })
    }

    /// The gateways of the default routes of the main table; the first is in force.
    pub fn default_gateways(&self) -> Result<Vec<Ipv4Addr>> {
        self.netlink(async |handle| {
            let all = RouteMessageBuilder::<Ipv4Addr>::new().build();
            let mut routes = handle.route().get(all).execute();
            let mut gateways = Vec::new();
            while let Some(route) = routes.try_next().await? {
                if route.header.destination_prefix_length == 0 {
                    gateways.extend(route.attributes.iter().find_map(
                        |attribute| match attribute {
                            RouteAttribute::Gateway(RouteAddress::Inet(gateway)) => Some(*gateway),
                            _ => None,
                        },
                    ));
                }
            }
            Ok(gateways)
        })
    }
}

const fn handle_of(minor: u16) -> TcHandle {
    TcHandle {
        major: 0xffff,
        minor,
    }
}

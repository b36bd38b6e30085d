//! What XDP can do with each interface, by the kernel's `netdev` generic netlink family (6.3).

use std::collections::BTreeSet;

use futures::TryStreamExt;
use genetlink::GenetlinkHandle;
use netlink_packet_core::{
    DecodeError, DefaultNla, Emitable, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload, NlasIterator,
    ParseableParametrized,
};
use netlink_packet_generic::{GenlFamily, GenlHeader, GenlMessage};

/// `NETDEV_CMD_DEV_GET`, `NETDEV_A_DEV_*` and `NETDEV_XDP_ACT_*` of linux/netdev.h.
const DEV_GET: u8 = 1;
const IFINDEX: u16 = 1;
const XDP_FEATURES: u16 = 3;
const NDO_XMIT: u64 = 1 << 2;

/// A `NETDEV_CMD_DEV_GET` message: with an index as a request, with features too as an answer.
#[derive(Debug, Clone, Default)]
struct Device {
    ifindex: u32,
    xdp_features: u64,
}

impl GenlFamily for Device {
    fn family_name() -> &'static str {
        "netdev"
    }
    fn command(&self) -> u8 {
        DEV_GET
    }
    fn version(&self) -> u8 {
        1
    }
}

impl Emitable for Device {
    fn buffer_len(&self) -> usize {
        self.request().as_slice().buffer_len()
    }
    fn emit(&self, buffer: &mut [u8]) {
        self.request().as_slice().emit(buffer);
    }
}

impl Device {
    fn request(&self) -> [DefaultNla; 1] {
        [DefaultNla::new(
            IFINDEX,
            self.ifindex.to_ne_bytes().to_vec(),
        )]
    }
}

impl ParseableParametrized<[u8], GenlHeader> for Device {
    fn parse_with_param(bytes: &[u8], _: GenlHeader) -> Result<Self, DecodeError> {
        let mut device = Self::default();
        for attribute in NlasIterator::new(bytes) {
            let attribute = attribute?;
            let value = attribute.value();
            match attribute.kind() {
                IFINDEX => {
                    device.ifindex = value
                        .first_chunk()
                        .map_or(0, |bytes| u32::from_ne_bytes(*bytes));
                }
                XDP_FEATURES => {
                    device.xdp_features = value
                        .first_chunk()
                        .map_or(0, |bytes| u64::from_ne_bytes(*bytes));
                }
                _ => {}
            }
        }
        Ok(device)
    }
}

/// Those of these interfaces that accept frames redirected by XDP; `None` on a kernel that does not tell.
///
/// For a veth this depends on its other end, and a frame redirected to one that is not ready is lost without a word.
pub async fn redirect_targets(interfaces: impl Iterator<Item = u32>) -> Option<BTreeSet<u32>> {
    if crate::features::without("netdev") {
        return None;
    }
    let (connection, mut handle, _) = genetlink::new_connection().ok()?;
    let task = tokio::spawn(connection);
    let mut targets = BTreeSet::new();
    // One by one: the kernel's answers to a dump lack NLM_F_MULTI, and the library takes the first for the last.
    for ifindex in interfaces {
        match xdp_features(&mut handle, ifindex).await {
            Some(features) => targets.extend((features & NDO_XMIT != 0).then_some(ifindex)),
            None => {
                task.abort();
                return None;
            }
        }
    }
    task.abort();
    Some(targets)
}

async fn xdp_features(handle: &mut GenetlinkHandle, ifindex: u32) -> Option<u64> {
    let mut request = NetlinkMessage::from(GenlMessage::from_payload(Device {
        ifindex,
        xdp_features: 0,
    }));
    request.header.flags = NLM_F_REQUEST;
    let mut answers = handle.request(request).await.ok()?;
    match answers.try_next().await.ok()??.payload {
        NetlinkPayload::InnerMessage(message) => Some(message.payload.xdp_features),
        _ => None,
    }
}

//! What XDP can do with each interface, by the kernel's `netdev` generic netlink family (6.3).

use std::collections::BTreeSet;

use futures::TryStreamExt;
use netlink_packet_core::{
    DecodeError, Emitable, NLM_F_DUMP, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload, NlasIterator, ParseableParametrized,
};
use netlink_packet_generic::{GenlFamily, GenlHeader, GenlMessage};

/// `NETDEV_CMD_DEV_GET`, `NETDEV_A_DEV_*` and `NETDEV_XDP_ACT_*` of linux/netdev.h.
const DEV_GET: u8 = 1;
const IFINDEX: u16 = 1;
const XDP_FEATURES: u16 = 3;
const NDO_XMIT: u64 = 1 << 2;

/// A `NETDEV_CMD_DEV_GET` message: without attributes as a request, with them as an answer.
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
        0
    }
    fn emit(&self, _: &mut [u8]) {}
}

impl ParseableParametrized<[u8], GenlHeader> for Device {
    fn parse_with_param(bytes: &[u8], _: GenlHeader) -> Result<Self, DecodeError> {
        let mut device = Self::default();
        for attribute in NlasIterator::new(bytes) {
            let attribute = attribute?;
            let value = attribute.value();
            match attribute.kind() {
                IFINDEX => device.ifindex = value.first_chunk().map_or(0, |bytes| u32::from_ne_bytes(*bytes)),
                XDP_FEATURES => device.xdp_features = value.first_chunk().map_or(0, |bytes| u64::from_ne_bytes(*bytes)),
                _ => {}
            }
        }
        Ok(device)
    }
}

/// The interfaces of this namespace that accept frames redirected by XDP; `None` on a kernel that does not tell.
///
/// For a veth this depends on its other end, and a frame redirected to one that is not ready is lost without a word.
pub async fn redirect_targets() -> Option<BTreeSet<u32>> {
    if crate::features::without("netdev") {
        return None;
    }
    let (connection, mut handle, _) = genetlink::new_connection().ok()?;
    let task = tokio::spawn(connection);
    let mut request = NetlinkMessage::from(GenlMessage::from_payload(Device::default()));
    request.header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    let mut targets = BTreeSet::new();
    let complete = async {
        let mut answers = handle.request(request).await.ok()?;
        while let Some(message) = answers.try_next().await.ok()? {
            match message.payload {
                NetlinkPayload::InnerMessage(message) if message.payload.xdp_features & NDO_XMIT != 0 => {
                    targets.insert(message.payload.ifindex);
                }
                NetlinkPayload::Error(_) => return None,
                _ => {}
            }
        }
        Some(())
    }
    .await;
    task.abort();
    complete.map(|()| targets)
}


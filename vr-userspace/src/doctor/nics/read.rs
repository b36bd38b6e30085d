//! What the kernel tells of the NICs of the file: links and filters by rtnetlink, features and queues by ethtool's netlink.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

use aya::programs::{SchedClassifier, TcAttachType};
use ethtool::{EthtoolAttr, EthtoolChannelAttr, EthtoolFeatureAttr, EthtoolHeader};
use futures::{StreamExt, TryStreamExt};
use netlink_packet_route::{
    link::{LinkAttribute, LinkMessage, LinkXdp},
    tc::{TcAttribute, TcMessage},
};
use vr_common::outcome::Hook;

use super::{Channels, Facts, Feature, Filter, Nic};
use crate::{
    desired::Port,
    doctor::{Situation, kernel},
    ebpf,
};

pub async fn facts(situation: &Situation) -> Facts {
    let links = links().await;
    let features = features().await;
    let channels = channels().await;
    let mut nics = Vec::new();
    for port in &situation.desired.ports {
        let link = &port.link;
        let message = links.get(&link.ifindex);
        nics.push(Nic {
            port: port.clone(),
            uplink: is_uplink(situation, port),
            driver: driver(&link.name, link.ifindex),
            carrier: message.and_then(carrier),
            programs: message.map_or_else(Vec::new, |message| programs(message, situation)),
            filters: filters(link.ifindex, &link.name).await,
            features: features.get(&link.ifindex).cloned().unwrap_or_default(),
            channels: channels.get(&link.ifindex).copied(),
            vlans: situation.machine.links.values().any(|other| {
                other.lower == Some(link.ifindex) && other.kind.as_deref() == Some("vlan")
            }),
            takes_redirect: situation
                .machine
                .redirect_targets
                .as_ref()
                .map(|targets| targets.contains(&link.ifindex)),
        });
    }
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    Facts {
        nics,
        cpus: std::thread::available_parallelism().map_or(1, |cpus| cpus.get() as u32),
        kernel: kernel::version(&release).unwrap_or((u32::MAX, 0)),
    }
}

fn is_uplink(situation: &Situation, port: &Port) -> bool {
    situation
        .config
        .uplink()
        .is_some_and(|uplink| Some(uplink.mac) == port.link.mac)
}

async fn links() -> BTreeMap<u32, LinkMessage> {
    let Ok((connection, handle, _)) = rtnetlink::new_connection() else {
        return BTreeMap::new();
    };
    tokio::spawn(connection);
    let dump = handle.link().get().execute();
    dump.map_ok(|message| (message.header.index, message))
        .try_collect()
        .await
        .unwrap_or_default()
}

fn carrier(message: &LinkMessage) -> Option<bool> {
    message
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            LinkAttribute::Carrier(carrier) => Some(*carrier != 0),
            _ => None,
        })
}

/// XDP programs that are not the router's own, however they are attached.
fn programs(message: &LinkMessage, situation: &Situation) -> Vec<u32> {
    let ours: BTreeSet<u32> = situation
        .state
        .generations
        .iter()
        .map(|generation| generation.program_id(Hook::Xdp))
        .collect();
    let all = message
        .attributes
        .iter()
        .filter_map(|attribute| match attribute {
            LinkAttribute::Xdp(xdp) => Some(xdp.iter()),
            _ => None,
        });
    let ids: BTreeSet<u32> = all
        .flatten()
        .filter_map(|attribute| match attribute {
            LinkXdp::ProgId(id)
            | LinkXdp::DrvProgId(id)
            | LinkXdp::SkbProgId(id)
            | LinkXdp::HwProgId(id) => Some(*id),
            _ => None,
        })
        .filter(|id| *id != 0 && !ours.contains(id) && !ebpf::is_our_xdp(*id))
        .collect();
    ids.into_iter().collect()
}

/// The driver's name. Without `ip netns exec`, /sys may show another namespace's interfaces: only what agrees is believed.
fn driver(name: &str, ifindex: u32) -> Option<String> {
    let folder = std::path::Path::new("/sys/class/net").join(name);
    let index: u32 = fs::read_to_string(folder.join("ifindex"))
        .ok()?
        .trim()
        .parse()
        .ok()?;
    let driver = fs::read_link(folder.join("device/driver")).ok()?;
    (index == ifindex).then(|| Some(driver.file_name()?.to_string_lossy().into_owned()))?
}

async fn filters(ifindex: u32, name: &str) -> Vec<Filter> {
    let mut found = Vec::new();
    for (direction, attach) in [
        ("ingress", TcAttachType::Ingress),
        ("egress", TcAttachType::Egress),
    ] {
        // TCX came with 6.6; before, and for others than root, there is nothing to ask.
        if let Ok((_, programs)) = SchedClassifier::query_tcx(name, attach) {
            found.extend(programs.iter().map(|program| Filter {
                direction,
                priority: None,
                what: format!(
                    "TCX program {} ({})",
                    program.id(),
                    program.name_as_str().unwrap_or("?")
                ),
            }));
        }
        found.extend(classifiers(ifindex, direction).await);
    }
    found
}

async fn classifiers(ifindex: u32, direction: &'static str) -> Vec<Filter> {
    let (Ok(index), Ok((connection, handle, _))) =
        (i32::try_from(ifindex), rtnetlink::new_connection())
    else {
        return Vec::new();
    };
    tokio::spawn(connection);
    let get = handle.traffic_filter(index).get();
    let get = if direction == "egress" {
        get.egress()
    } else {
        get.ingress()
    };
    let mut dump = get.execute();
    let mut found = BTreeMap::new();
    while let Ok(Some(message)) = dump.try_next().await {
        let priority = (message.header.info >> 16) as u16;
        if !is_ours(&message, priority) {
            let kind = kind(&message).unwrap_or("?").to_owned();
            // The kernel lists a classifier once, and each of its rules.
            found.insert(
                (priority, kind.clone()),
                Filter {
                    direction,
                    priority: Some(priority),
                    what: format!("{kind} filter"),
                },
            );
        }
    }
    found.into_values().collect()
}

fn kind(message: &TcMessage) -> Option<&str> {
    message
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            TcAttribute::Kind(kind) => Some(kind.as_str()),
            _ => None,
        })
}

fn is_ours(message: &TcMessage, priority: u16) -> bool {
    kind(message) == Some("bpf") && priority == ebpf::TC_PRIORITY
}

async fn features() -> BTreeMap<u32, BTreeMap<String, Feature>> {
    let Ok((connection, mut handle, _)) = ethtool::new_connection() else {
        return BTreeMap::new();
    };
    tokio::spawn(connection);
    let Ok(mut dump) = handle.feature().get(None).execute().await else {
        return BTreeMap::new();
    };
    let mut all = BTreeMap::new();
    while let Some(Ok(message)) = dump.next().await {
        let (mut index, mut features) = (None, BTreeMap::<String, Feature>::new());
        for attribute in message.payload.nlas {
            let EthtoolAttr::Feature(attribute) = attribute else {
                continue;
            };
            match attribute {
                EthtoolFeatureAttr::Header(header) => index = index_of(&header),
                EthtoolFeatureAttr::Active(bits) => {
                    for bit in bits.into_iter().filter(|bit| bit.value) {
                        features.entry(bit.name).or_default().on = true;
                    }
                }
                EthtoolFeatureAttr::Hw(bits) => {
                    for bit in bits.into_iter().filter(|bit| bit.value) {
                        features.entry(bit.name).or_default().changeable = true;
                    }
                }
                _ => {}
            }
        }
        all.extend(index.map(|index| (index, features)));
    }
    all
}

async fn channels() -> BTreeMap<u32, Channels> {
    let Ok((connection, mut handle, _)) = ethtool::new_connection() else {
        return BTreeMap::new();
    };
    tokio::spawn(connection);
    let Ok(mut dump) = handle.channel().get(None).execute().await else {
        return BTreeMap::new();
    };
    let mut all = BTreeMap::new();
    while let Some(Ok(message)) = dump.next().await {
        let (mut index, mut channels) = (None, Channels::default());
        for attribute in message.payload.nlas {
            let EthtoolAttr::Channel(attribute) = attribute else {
                continue;
            };
            match attribute {
                EthtoolChannelAttr::Header(header) => index = index_of(&header),
                EthtoolChannelAttr::CombinedCount(count) | EthtoolChannelAttr::TxCount(count) => {
                    channels.used = channels.used.max(count);
                }
                EthtoolChannelAttr::CombinedMax(most) | EthtoolChannelAttr::TxMax(most) => {
                    channels.most = channels.most.max(most);
                }
                _ => {}
            }
        }
        all.extend(index.map(|index| (index, channels)));
    }
    all
}

fn index_of(header: &[EthtoolHeader]) -> Option<u32> {
    header.iter().find_map(|part| match part {
        EthtoolHeader::DevIndex(index) => Some(*index),
        _ => None,
    })
}

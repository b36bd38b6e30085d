//! Who else sets addresses on the NICs of the file: hints, read from what such services leave in files.

use std::{fs, path::Path};

use super::{Finding, Findings, Situation};

/// An interface of the file, and the service that manages it too.
#[derive(Debug, PartialEq, Eq)]
struct Managed {
    interface: String,
    by: &'static str,
    remedy: String,
}

/// What was found.
#[derive(Debug, Default)]
pub struct Facts {
    managed: Vec<Managed>,
}

impl Facts {
    /// Looks under `root`, which is `/` but in a test.
    pub fn read(root: &Path, situation: &Situation) -> Self {
        let links = situation.desired.ports.iter();
        let links = links.map(|port| (port.link.ifindex, port.link.name.as_str()));
        Self::of(root, links)
    }

    fn of<'a>(root: &Path, links: impl Iterator<Item = (u32, &'a str)>) -> Self {
        let mut managed = Vec::new();
        for (ifindex, name) in links {
            let mut add = |by, remedy: String| {
                managed.push(Managed {
                    interface: name.to_owned(),
                    by,
                    remedy,
                });
            };
            if by_networkd(root, ifindex) {
                let remedy = format!(
                    "a .network file with [Match] Name={name} and [Link] Unmanaged=yes, then `networkctl reload`"
                );
                add("systemd-networkd", remedy);
            }
            if by_network_manager(root, ifindex) {
                add(
                    "NetworkManager",
                    format!(
                        "`nmcli device set {name} managed no`, and unmanaged-devices= in its configuration"
                    ),
                );
            }
            if by_ifcfg(root, name) {
                let file = format!("/etc/sysconfig/network-scripts/ifcfg-{name}");
                add(
                    "network-scripts",
                    format!("remove {file}, or set ONBOOT=no in it"),
                );
            }
            if by_ifupdown(root, name) {
                add(
                    "ifupdown",
                    format!("take {name} out of /etc/network/interfaces"),
                );
            }
        }
        Self { managed }
    }
}

fn text(root: &Path, path: &str) -> String {
    fs::read_to_string(root.join(path)).unwrap_or_default()
}

/// The value of `key=value` in a file of such lines.
fn value<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    text.lines()
        .filter_map(|line| line.trim().split_once('='))
        .find(|(name, _)| *name == key)
        .map(|(_, value)| value.trim_matches(['"', '\'']))
}

fn by_networkd(root: &Path, ifindex: u32) -> bool {
    let state = text(root, &format!("run/systemd/netif/links/{ifindex}"));
    value(&state, "ADMIN_STATE").is_some_and(|state| state != "unmanaged")
}

fn by_network_manager(root: &Path, ifindex: u32) -> bool {
    let state = text(root, &format!("run/NetworkManager/devices/{ifindex}"));
    value(&state, "managed").is_some_and(|managed| managed != "false" && managed != "unmanaged")
}

fn by_ifcfg(root: &Path, name: &str) -> bool {
    let path = format!("etc/sysconfig/network-scripts/ifcfg-{name}");
    value(&text(root, &path), "ONBOOT").is_some_and(|on| on.eq_ignore_ascii_case("yes"))
}

fn by_ifupdown(root: &Path, name: &str) -> bool {
    let text = text(root, "etc/network/interfaces");
    text.lines().any(|line| {
        let words: Vec<_> = line.split_whitespace().collect();
        matches!(words[..], ["iface", interface, "inet", how] if interface == name && how != "manual")
    })
}

pub fn judge(facts: &Facts) -> Vec<Finding> {
    let mut found = Findings::of("managers");
    for managed in &facts.managed {
        found.warning(
            &managed.interface,
            format!(
                "{} manages it too, and may take addresses and routes of the router away",
                managed.by
            ),
            managed.remedy.clone(),
        );
    }
    if facts.managed.is_empty() {
        found.ok("", "nobody else is seen to manage the NICs of the file");
    }
    found.all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_manager_is_known_by_its_files() {
        let dir = tempfile::tempdir().unwrap();
        let links = [(2, "eth0"), (3, "eth1")];
        let read = || {
            let facts = Facts::of(dir.path(), links.into_iter());
            let managed = facts.managed.into_iter();
            managed
                .map(|managed| (managed.interface, managed.by))
                .collect::<Vec<_>>()
        };
        assert_eq!(read(), []);
        let write = |path: &str, text: &str| {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        // What says that they leave it alone.
        write(
            "run/systemd/netif/links/2",
            "# private\nADMIN_STATE=unmanaged\n",
        );
        write("run/NetworkManager/devices/2", "[device]\nmanaged=false\n");
        write("etc/sysconfig/network-scripts/ifcfg-eth0", "ONBOOT=no\n");
        write(
            "etc/network/interfaces",
            "auto eth0\niface eth0 inet manual\n",
        );
        assert_eq!(read(), []);
        write("run/systemd/netif/links/3", "ADMIN_STATE=configured\n");
        write("run/NetworkManager/devices/3", "[device]\nmanaged=full\n");
        write(
            "etc/sysconfig/network-scripts/ifcfg-eth1",
            "DEVICE=eth1\nONBOOT=\"yes\"\n",
        );
        write("etc/network/interfaces", "iface eth1 inet dhcp\n");
        let managers = [
            "systemd-networkd",
            "NetworkManager",
            "network-scripts",
            "ifupdown",
        ];
        assert_eq!(read(), managers.map(|by| ("eth1".to_owned(), by)));
    }
}

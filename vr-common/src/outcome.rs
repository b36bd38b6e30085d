//! What became of a packet: every packet that a program sees ends in exactly one of these, and is counted there.

/// Declares the outcomes with their number, stable name and one line for people.
macro_rules! outcomes {
    ($($(#[$doc:meta])* $variant:ident = $number:literal, $name:literal;)*) => {
        /// What became of a packet. The numbers index the counter map and the names are an interface:
        /// neither is ever given to another meaning; a retired one leaves its place empty.
        #[repr(u32)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Outcome { $($(#[$doc])* $variant = $number,)* }

        impl Outcome {
            /// All outcomes, by number.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];
            /// The outcome of this number.
            #[must_use]
            pub const fn from_number(number: u32) -> Option<Self> {
                match number {
                    $($number => Some(Self::$variant),)*
                    _ => None,
                }
            }
            /// The stable name, as `status --json` prints it.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }
        }
    };
}

outcomes! {
    /// Forwarded; its destination was an EIP and is now the VM.
    EipIn = 0, "eip_in";
    /// Forwarded; its source was a VM and is now the VM's EIP.
    EipOut = 1, "eip_out";
    /// Forwarded, nothing to translate.
    Routed = 2, "routed";
    /// Destination translated, then handed to the kernel to forward: it has to resolve a neighbour, to
    /// fragment, to act on options, to answer for an expired TTL.
    EipInViaKernel = 3, "eip_in_via_kernel";
    /// Forwarded by the kernel, source translated as it left.
    EipOutViaKernel = 4, "eip_out_via_kernel";
    /// An ICMP error of the router's own, whose quote was translated back as it left.
    OwnErrorQuote = 5, "own_error_quote";

    /// To the kernel as it came: not IPv4 (ARP, IPv6, …).
    NotIpv4 = 8, "not_ipv4";
    /// To the kernel as it came: broadcast, multicast, or for another MAC.
    NotForUs = 9, "not_for_us";
    /// To the kernel as it came: the frame belongs to a VLAN, so to the VLAN's own interface.
    Vlan = 10, "vlan";
    /// To the kernel as it came: not a valid IPv4 header, or a frame shorter than the packet.
    Malformed = 11, "malformed";
    /// To the kernel as it came: an address that no router forwards (RFC 1812 §5.3.7).
    Martian = 12, "martian";
    /// To the kernel as it came: for the router itself, or no route.
    NotForwarded = 13, "not_forwarded";
    /// To the kernel as it came: TTL 1 or 0, the kernel owes the sender an answer.
    TtlExpired = 14, "ttl_expired";
    /// To the kernel as it came: the next hop's MAC is not known yet.
    NoNeighbour = 15, "no_neighbour";
    /// To the kernel as it came: larger than the next hop's MTU.
    TooBig = 16, "too_big";
    /// To the kernel as it came: IP options, which a router has to act on.
    Options = 17, "options";
    /// To the kernel as it came: leaves by an interface that no if_list entry names.
    UnmanagedEgress = 18, "unmanaged_egress";
    /// To the kernel as it came: the interface is not in the table (it is being set up or taken down).
    UnknownInterface = 20, "unknown_interface";
    /// XDP to TC as it came: a fragment.
    Fragment = 21, "fragment";
    /// XDP to TC as it came: an ICMP error, whose quote has to be translated.
    IcmpError = 22, "icmp_error";
    /// XDP to TC as it came: its checksum is still to be finished by the sender's kernel.
    UnfinishedChecksum = 23, "unfinished_checksum";
    /// XDP to TC as it came: leaves by an interface that takes no redirected frames.
    NoRedirect = 24, "no_redirect";
    /// As it came: a frame of this router's own forwarding, seen again as it leaves.
    AlreadyDone = 25, "already_done";
    /// As it came: the router's own packet, or one that the kernel forwards and that is not to be translated.
    Untranslated = 26, "untranslated";
    /// Dropped: the kernel had no memory to make the packet writable.
    NoMemory = 27, "no_memory";

    /// Forwarded; its source was a host inside and is now the uplink's address, or one of the pool.
    MasqueradeOut = 28, "masquerade_out";
    /// Forwarded; the answer to such a packet, to the host inside.
    MasqueradeIn = 29, "masquerade_in";
    /// Forwarded; it came to a forwarded port and goes to the VM's.
    ForwardIn = 30, "forward_in";
    /// Forwarded; the VM's answer to such a packet.
    ForwardOut = 31, "forward_out";
    /// Forwarded from inside to inside by an outside address, or the answer to such a packet.
    Hairpin = 32, "hairpin";
    /// Destination translated by its session, then handed to the kernel to forward.
    SessionInViaKernel = 33, "session_in_via_kernel";
    /// Forwarded by the kernel, source translated by its session as it left.
    SessionOutViaKernel = 34, "session_out_via_kernel";

    /// XDP to TC as it came: the first packet of a session, or a fragment of one.
    NewSession = 35, "new_session";
    /// Dropped: all places hold sessions that nothing but silence ends (`options: sessions`).
    TableFull = 36, "session_table_full";
    /// Dropped: the host inside has as many sessions as it may (`options: sessions_per_host`).
    HostLimit = 37, "host_session_limit";
    /// Dropped: the host inside has begun as many sessions without an answer as it may (`options: half_open_per_host`).
    HalfOpenLimit = 38, "host_half_open_limit";
    /// Dropped: no port is left by which the answers could be told apart.
    NoPort = 39, "no_port";
    /// Dropped: from inside to outside, its source has no EIP, and it has nothing to tell a session by (cut short, an ICMP
    /// message that neither asks nor answers, a RST that ends nothing). Its private address is not to be seen outside.
    Untranslatable = 40, "untranslatable";
    /// Dropped: a fragment whose datagram is not known, and that could not be kept for it.
    FragmentUnknown = 41, "fragment_unknown";
    /// Dropped: the kernel's advice to use another router, about a packet that is translated here.
    RedirectSuppressed = 42, "redirect_suppressed";
    /// Kept until its datagram's first fragment comes.
    FragmentHeld = 43, "fragment_held";
    /// XDP to TC as it came: a TCP SYN, whose MSS is to be looked at (`options: mss`).
    LimitsMss = 44, "limits_mss";
}

impl Outcome {
    /// Whether a packet that ends so is not to go on: as it is, it would get where it must not, or show what it must not.
    #[inline(always)]
    #[must_use]
    pub const fn is_refusal(self) -> bool {
        matches!(
            self,
            Self::TableFull
                | Self::HostLimit
                | Self::HalfOpenLimit
                | Self::NoPort
                | Self::Untranslatable
                | Self::FragmentUnknown
        )
    }
}

/// Places in the counter map for each program; above every number, with room to grow within one ABI.
pub const SLOTS: u32 = 64;

/// The programs, in the order of their counters.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Hook {
    /// Frames as the driver receives them.
    Xdp = 0,
    /// Packets on their way into the stack.
    TcIngress = 1,
    /// Packets on their way out.
    TcEgress = 2,
}

impl Hook {
    /// All programs.
    pub const ALL: [Self; 3] = [Self::Xdp, Self::TcIngress, Self::TcEgress];
    /// The stable name, as `status --json` prints it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Xdp => "xdp",
            Self::TcIngress => "tc_ingress",
            Self::TcEgress => "tc_egress",
        }
    }
    /// Index into the counter map.
    #[inline(always)]
    #[must_use]
    pub const fn slot(self, outcome: Outcome) -> u32 {
        self as u32 * SLOTS + outcome as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn every_outcome_has_a_place_and_a_name_of_its_own() {
        let slots: HashSet<u32> = Hook::ALL
            .iter()
            .flat_map(|hook| Outcome::ALL.iter().map(|o| hook.slot(*o)))
            .collect();
        assert_eq!(slots.len(), Hook::ALL.len() * Outcome::ALL.len());
        assert!(
            slots
                .iter()
                .all(|slot| *slot < SLOTS * Hook::ALL.len() as u32)
        );
        let names: HashSet<&str> = Outcome::ALL.iter().map(|o| o.name()).collect();
        assert_eq!(names.len(), Outcome::ALL.len());
    }
}

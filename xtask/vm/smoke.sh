#!/bin/sh
# The smoke test inside a machine: the program loads on this kernel, on virtio NICs, with each eBPF
# back end; a first packet comes through an EIP; doctor finds no problem; and unloading leaves nothing behind.
# Lines that begin with "smoke:" are shown by `cargo xtask vm`.

config=/kylin-vr.yaml

# The real ones: busybox's shell prefers its own programs of the same name, which know too little.
ip() { /bin/ip "$@"; }
tc() { /bin/tc "$@"; }

say() { echo "smoke: $*"; }

fail() {
    say "FAILED: $*"
    ip -d link
    vr-userspace status
    dmesg | tail -n 20
    exit 1
}

# The interface that has this MAC.
nic() {
    for path in /sys/class/net/*; do
        if [ "$(cat "$path/address")" = "$1" ]; then
            basename "$path"
            return
        fi
    done
    fail "no NIC has the MAC $1"
}

# Whether the back end $1 is on the interface $2, and natively.
attached() {
    case $1 in
    xdp) ip -d link show dev "$2" | grep -q 'prog/xdp' && ! ip -d link show dev "$2" | grep -q xdpgeneric ;;
    # clsact before 6.6, TCX since: the latter is shown by the program only.
    tc) tc filter show dev "$2" ingress | grep -q bpf || vr-userspace status --json | grep -q '"tc' ;;
    esac
}

uplink=$(nic 52:54:84:00:08:45)
inside=$(nic 52:54:84:11:00:03)
client=$(nic 52:54:84:00:00:0c)
vm=$(nic 52:54:84:11:00:0e)

# A client on the uplink's wire, and the VM of the first EIP on the other.
ip netns add client
ip link set "$client" netns client
ip -n client address add 10.90.3.1/24 dev "$client"
ip -n client link set "$client" up
ip -n client route add 10.90.2.0/24 via 10.90.3.37
ip netns add vm
ip link set "$vm" netns vm
ip -n vm address add 192.168.100.190/24 dev "$vm"
ip -n vm link set "$vm" up
ip -n vm route add default via 192.168.100.254

for backend in xdp tc; do
    vr-userspace load --backend "$backend" --config "$config" || fail "load --backend $backend: exit code $?"
    for interface in "$uplink" "$inside"; do
        attached "$backend" "$interface" || fail "$backend is not attached to $interface"
    done
    # The first packets may be lost while neighbours are looked up.
    ip netns exec client ping -c 5 -W 2 10.90.2.250 || fail "$backend: no answer from the EIP"
    doctor=$(vr-userspace doctor --config "$config") || fail "doctor: exit code $?: $doctor"
    vr-userspace unload || fail "unload: exit code $?"
    for interface in "$uplink" "$inside"; do
        ip -d link show dev "$interface" | grep -q 'prog/xdp' && fail "$backend: $interface has a program left"
        tc filter show dev "$interface" ingress | grep -q bpf && fail "$backend: $interface has a filter left"
    done
    ip address show dev "$uplink" | grep -q 10.90.2.250 && fail "$backend: the EIP is left on $uplink"
    say "$backend: loaded, attached natively, answered, unloaded; doctor: $(echo "$doctor" | tail -n 1)"
    echo "$doctor"
done
exit 0

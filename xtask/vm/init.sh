#!/bin/busybox sh
# The machine's first process: brings up what a system would have, runs the test, and says how it ended.
/bin/busybox --install -s /bin 2>/dev/null
export PATH=/bin:/sbin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /tmp
mount -t bpf bpf /sys/fs/bpf
for module in virtio_pci virtio_net; do modprobe "$module" 2>/dev/null; done
ip link set lo up

read -r uptime _ </proc/uptime
echo "KYLIN-VR-START $uptime $(uname -r)"
/bin/sh /test.sh 2>&1
code=$?
read -r uptime _ </proc/uptime
echo "KYLIN-VR-EXIT $code $uptime"
poweroff -f

# The package goes: what it set up on this machine goes first, in every network namespace that has a router.
if [ -d /run/systemd/system ]; then
    systemctl --quiet disable --now kylin-vr.service || true
fi
if ls /run/kylin-vr/*.json >/dev/null 2>&1; then
    /usr/sbin/vr-userspace unload ||
        echo "kylin-vr: what was loaded is still there, until the next boot; see above" >&2
    for namespace in /run/netns/*; do
        [ -e "$namespace" ] || continue
        ls /run/kylin-vr/netns-*.json >/dev/null 2>&1 || break
        nsenter --net="$namespace" /usr/sbin/vr-userspace unload >/dev/null || true
    done
fi

#!/bin/bash
# The first process of a node. It is started in fresh namespaces by the host as
# "node-init.sh enter", makes the node's root file system, moves into it, and
# runs there again as "init.sh main" to start the node's daemons.
#
# From the host: NODE, NODE_ADDRESS, HOST_ADDRESS, PREFIX_LENGTH, API_PORT, ROUTES
# ("range address" a line), STATE (the node's folder), LOWER, BIN, LOGS, VOLUMES, SHARE.
set -euo pipefail

bind() { # SOURCE TARGET [OPTIONS]
    mkdir -p "$2"
    mount --bind "$1" "$2"
    if [ -n "${3-}" ]; then mount -o "remount,bind,$3" "$2"; fi
}

enter() {
    local root=$STATE/root
    mkdir -p "$STATE"/{upper,work,root,containerd,kubelet,images}
    mount -t overlay overlay \
        -o "lowerdir=$LOWER,upperdir=$STATE/upper,workdir=$STATE/work" "$root"
    # The state of containerd and kubelet must not lie on overlay: containerd
    # stacks overlays of its own on it.
    bind "$STATE/containerd" "$root/var/lib/containerd"
    bind "$STATE/kubelet" "$root/var/lib/kubelet"
    bind "$STATE/etc" "$root/etc/devcluster" ro
    bind "$BIN" "$root/opt/devcluster" ro
    bind "$LOGS" "$root/var/log/devcluster"
    bind "$VOLUMES" "$root/srv/volumes"
    bind "$SHARE" "$root/share"
    rm -f "$root/etc/resolv.conf"
    cp "$STATE/etc/resolv.conf" "$root/etc/resolv.conf"
    cp "$STATE/etc/hosts" "$root/etc/hosts"
    echo "$NODE" >"$root/etc/hostname"
    echo "$NODE" | md5sum | cut -c1-32 >"$root/etc/machine-id"

    mkdir -p "$root/old"
    mount -t devtmpfs dev "$root/dev"
    mount -t devpts -o newinstance,ptmxmode=0666,mode=0620,gid=5 devpts "$root/dev/pts"
    mount -t tmpfs -o mode=1777 shm "$root/dev/shm"
    cd "$root"
    pivot_root . old
    # sysfs shows the network namespace it is mounted in; cgroups come from the host.
    mount -t sysfs sys /sys
    mount --rbind /old/sys/fs/cgroup /sys/fs/cgroup
    mount --make-rslave /old
    mount -t proc proc /proc
    umount --lazy /old
    mount --make-rshared /
    exec /bin/bash /etc/devcluster/init.sh main
}

# Run a daemon, again and again, as a service manager would.
keep() { # NAME PROGRAM ARGUMENT...
    local name=$1
    shift
    while :; do
        "$@" >>"/var/log/devcluster/$name.log" 2>&1 || true
        echo "$(date -Is) $name ended; starting it again" >>"/var/log/devcluster/$name.log"
        sleep 1
    done
}

main() {
    export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root
    mount -t tmpfs -o mode=0755 tmpfs /run
    mount -t tmpfs -o mode=1777 tmpfs /tmp
    mkdir -p /run/lock /opt/cni
    hostname "$NODE"

    # The host lays the cable once it knows this process.
    until ip link show dev eth0 >/dev/null 2>&1; do sleep 0.02; done
    ip link set lo up
    ip address add "$NODE_ADDRESS/$PREFIX_LENGTH" dev eth0
    ip link set eth0 up
    ip route add default via "$HOST_ADDRESS"
    while read -r range via; do
        ip route add "$range" via "$via"
    done <<<"$ROUTES"
    echo 1 >/proc/sys/net/ipv4/ip_forward
    # Bridged packets between pods of this node must pass the services' rules too.
    if [ -e /proc/sys/net/bridge/bridge-nf-call-iptables ]; then
        echo 1 >/proc/sys/net/bridge/bridge-nf-call-iptables
    fi

    keep containerd containerd --config /etc/devcluster/containerd.toml &
    until (: >"/dev/tcp/$HOST_ADDRESS/$API_PORT") 2>/dev/null; do sleep 0.1; done
    keep kube-proxy /opt/devcluster/kube-proxy --config /etc/devcluster/kube-proxy.json \
        --hostname-override "$NODE" &
    until [ -S /run/containerd/containerd.sock ]; do sleep 0.05; done
    keep kubelet /opt/devcluster/kubelet --config /etc/devcluster/kubelet.json \
        --kubeconfig /etc/devcluster/node.kubeconfig --hostname-override "$NODE" \
        --node-ip "$NODE_ADDRESS" --root-dir /var/lib/kubelet &
    # bash reaps every orphan that the kernel hands to this process.
    while :; do wait -n || true; done
}

"$1"

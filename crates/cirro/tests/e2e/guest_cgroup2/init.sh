#!/bin/busybox sh
# First process of the guest: leaves the initial file system, which no container can be pivoted from, for one in memory, and
# lets `commands` run there with nothing but version 2 of cgroups.
/bin/busybox mkdir -p /proc /sys /dev /tmp /newroot
/bin/busybox --install -s /bin
export PATH=/bin
if [ ! -e /on-disk ]; then
    mount -t tmpfs -o size=90% tmpfs /newroot
    busybox=/bin/busybox
    # Moved file by file, so that nothing is in memory twice.
    for entry in bin lib lib64 usr images commands etc; do
        [ -e "/$entry" ] || continue
        "$busybox" mv "/$entry" /newroot/ || :
        [ ! -e /newroot/bin/busybox ] || busybox=/newroot/bin/busybox
    done
    # It looks for this one in both.
    /newroot/bin/busybox cp /init /newroot/
    /newroot/bin/busybox touch /newroot/on-disk
    exec /newroot/bin/busybox switch_root /newroot /init
fi
mount -t proc proc /proc
# The kernel asks for the modules that it misses.
echo /bin/modprobe >/proc/sys/kernel/modprobe
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
exec </dev/null >/dev/ttyS0 2>&1
mkdir -p /dev/pts /dev/shm /run /var/lib
mount -t devpts -o gid=5,mode=620,ptmxmode=666 devpts /dev/pts
mount -t tmpfs shm /dev/shm
mount -t cgroup2 cgroup2 /sys/fs/cgroup
hostname guest
ip link set lo up
echo "guest: ready after $(cut -d ' ' -f 1 /proc/uptime) s"
sh /commands
echo "guest: over after $(cut -d ' ' -f 1 /proc/uptime) s"
sync
reboot -f

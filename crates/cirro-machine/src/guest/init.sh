#!/cirro/busybox sh
# First process of a machine made from a container image: loads modules, mounts the root disk, asks for an address,
# runs the image's command, and powers off when the command ends or the power button is pressed.
#
# The first process stays in the initial file system; the workload has a mount namespace whose root is the disk.
# Beside this file: settings (variables), run (the command), modules/ (in the order of modules/order).
export PATH=/bin
/cirro/busybox mkdir -p /bin /proc /sys /dev /disk
/cirro/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
exec </dev/console >/dev/console 2>&1
stty -opost

say() { echo "cirro: $*"; }
fail() {
    say "$*"
    sync
    poweroff -f
    sleep 60
}

workload=
stopping=
stop() {
    stopping=yes
    [ -z "$workload" ] || kill -TERM "$workload" 2>/dev/null
    # A workload that does not listen must not keep the machine.
    (sleep 15; kill -KILL -1) &
}
trap stop TERM

while read -r module; do
    insmod "/cirro/modules/$module" || say "module $module does not load"
done </cirro/modules/order

# The power button; the kernel gives 24 bytes for each press.
for device in /dev/input/event*; do
    [ -e "$device" ] && (dd if="$device" of=/dev/null bs=24 count=1 2>/dev/null; kill -TERM 1) &
done

. /cirro/settings
hostname "$HOSTNAME"
ulimit -Hn 1048576
ulimit -Sn 65536

tries=0
until [ -b /dev/vda ]; do
    tries=$((tries + 1))
    [ $tries -lt 600 ] || fail "no disk"
    sleep 0.05
done
mount -t ext4 -o rw,noatime /dev/vda /disk || fail "the root disk cannot be mounted"
cd /disk || fail "the root disk cannot be entered"
mkdir -p proc sys dev etc
mount -t proc proc proc
mount -t sysfs sys sys
mount -t devtmpfs dev dev
mkdir -p dev/pts dev/shm dev/.cirro
mount -t devpts -o gid=5,mode=620,ptmxmode=666 devpts dev/pts
mount -t tmpfs -o mode=1777,nosuid,nodev shm dev/shm
mount -t cgroup2 cgroup2 sys/fs/cgroup
ln -sf /proc/self/fd dev/fd
ln -sf /proc/self/fd/0 dev/stdin
ln -sf /proc/self/fd/1 dev/stdout
ln -sf /proc/self/fd/2 dev/stderr
# What `run` needs once its root is the disk.
mount --bind /cirro dev/.cirro
chmod 700 /cirro

# The image's own may be links to anywhere.
rm -f etc/hostname etc/hosts etc/resolv.conf
echo "$HOSTNAME" >etc/hostname
printf '127.0.0.1\tlocalhost\n::1\tlocalhost\n' >etc/hosts
if [ -f /cirro/user-data ]; then
    mkdir -p var/lib/cirro
    (umask 077; rm -f var/lib/cirro/user-data; cp /cirro/user-data var/lib/cirro/user-data)
fi

ip link set lo up
ip link set eth0 up
udhcpc -i eth0 -f -n -q -t 20 -T 1 -O mtu -s /cirro/dhcp >/dev/null || say "no address by DHCP"

[ -z "$stopping" ] || fail "stopped before the command ran"
unshare -m /cirro/busybox sh -c 'cd /disk && mount --move . / && exec chroot . /dev/.cirro/busybox sh /dev/.cirro/run' \
    </dev/console &
workload=$!
[ -z "$stopping" ] || kill -TERM "$workload"
code=0
# `wait` also reaps what the workload's processes leave behind; a signal ends it early.
while kill -0 "$workload" 2>/dev/null; do
    wait "$workload"
    code=$?
done
say "the command ended with exit code $code"

kill -TERM -1
sleep 0.2
kill -KILL -1
cd /
sync
umount /disk/dev/.cirro /disk/dev/shm /disk/dev/pts /disk/dev /disk/sys/fs/cgroup /disk/sys /disk/proc
umount /disk || mount -o remount,ro /disk
poweroff -f
sleep 60

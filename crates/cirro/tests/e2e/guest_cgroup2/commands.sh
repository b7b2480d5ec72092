# What is tried in the guest. Every line that starts with `PASS` or `FAIL` is read by the test.
export DOCKER_HOST=unix:///run/cirro/docker.sock HOME=/tmp

# check NAME WANTED GOT
check() {
    if [ "$2" = "$3" ]; then echo "PASS $1"; else echo "FAIL $1: wanted '$2', got '$3'"; fi
}
contains() {
    case "$3" in *"$2"*) echo "PASS $1" ;; *) echo "FAIL $1: no '$2' in '$3'" ;; esac
}

cirro up --detach --roles engine,faces --data-dir /var/lib/cirro --run-dir /run/cirro --docker-socket /run/cirro/docker.sock
check up 0 $?
docker load --quiet --input /images/busybox.tar
check load 0 $?
contains version-of-cgroups "Cgroup Version: 2" "$(docker info 2>&1)"
docker run --rm --network none busybox sh -c 'exit 7'
check exit-code 7 $?
check limits-at-creation "67108864 50000 100000 77" "$(docker run --rm --network none --memory 64m --cpus 0.5 --pids-limit 77 busybox \
    sh -c 'cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/cpu.max /sys/fs/cgroup/pids.max' | tr '\n' ' ' | sed 's/ $//')"
check cgroups-are-read-only 1 "$(docker run --rm --network none busybox sh -c 'echo 5 >/sys/fs/cgroup/pids.max' 2>/dev/null; echo $?)"

docker run --detach --name one --network none --memory 64m busybox \
    sh -c 'trap "exit 9" TERM; echo begun; while :; do sleep 0.2; done'
check exec "in" "$(docker exec one echo in)"
docker exec one sh -c 'exit 5'
check exec-code 5 $?
check logs begun "$(docker logs one)"
contains stats "64MiB" "$(docker stats --no-stream one)"
contains top "sleep" "$(docker top one)$(docker top one)$(docker top one)"
docker pause one
check paused paused "$(docker inspect --format '{{.State.Status}}' one)"
docker unpause one
check unpaused running "$(docker inspect --format '{{.State.Status}}' one)"
docker update --memory 96m --memory-swap 96m --pids-limit 55 one
check update "100663296 55" "$(docker exec one cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/pids.max | tr '\n' ' ' | sed 's/ $//')"
docker stop one
check stop 9 "$(docker inspect --format '{{.State.ExitCode}}' one)"
docker rm one
check removed "" "$(docker ps --all --quiet)"

docker run --name greedy --network none --memory 16m --memory-swap 16m busybox \
    sh -c 'dd if=/dev/zero of=/dev/null bs=64M count=1'
check out-of-memory true "$(docker inspect --format '{{.State.OOMKilled}}' greedy)"
docker rm greedy
check forks-are-limited 0 "$(docker run --rm --network none --pids-limit 10 busybox \
    sh -c 'for n in 1 2 3 4 5 6 7 8 9 10 11 12; do sleep 5 & done' >/dev/null 2>&1; [ $? -ne 0 ]; echo $?)"
# /dev/ttyS0 is none of the devices that a container has.
contains devices-are-refused "not permitted" "$(docker run --rm --network none busybox \
    sh -c 'mknod /serial c 4 64 && echo x >/serial' 2>&1)"
contains devices-are-given "0" "$(docker run --rm --network none --device /dev/ttyS0 busybox sh -c 'echo >/dev/ttyS0; echo $?')"

# The same through the runtime's own command line.
mkdir -p /tmp/bundle/rootfs/bin
cp /bin/busybox /tmp/bundle/rootfs/bin/
ln -s busybox /tmp/bundle/rootfs/bin/sh
cd /tmp/bundle && cirro runtime spec
sed -i 's/"terminal": true/"terminal": false/; s/"sh"/"sh", "-c", "echo from the runtime; exit 4"/' config.json
check runtime "from the runtime" "$(cirro runtime run two)"
cd /
cirro down --workloads --data-dir /var/lib/cirro --run-dir /run/cirro
check down 0 $?
check nothing-left "" "$(find /sys/fs/cgroup -mindepth 1 -type d)"

# Sizes of containers, on a file system with project quotas.
gunzip -c /images/quota.gz >/tmp/quota.img
mkdir -p /quota && mount -t ext4 -o loop,prjquota /tmp/quota.img /quota
check quota-disk 0 $?
cirro up --detach --roles engine,faces --data-dir /quota/data --run-dir /run/cirro --docker-socket /run/cirro/docker.sock
docker load --quiet --input /images/busybox.tar
check quota-up 0 $?
bounded="docker run --rm --network none --storage-opt size=8m busybox"
contains quota-holds "dd: error writing" "$($bounded dd if=/dev/zero of=/large bs=1M count=12 2>&1)"
check quota-is-shown 8 "$($bounded df -m / | awk 'END { print $2 }')"
check quota-leaves-room 0 "$($bounded sh -c 'dd if=/dev/zero of=/small bs=1M count=4 2>/dev/null; echo $?')"
check others-are-free 0 "$(docker run --rm --network none busybox sh -c 'dd if=/dev/zero of=/large bs=1M count=12 2>/dev/null; echo $?')"
cirro down --workloads --data-dir /quota/data --run-dir /run/cirro

#!/usr/bin/env bash
# The image `busybox`: Debian's static busybox under all its names.
. "$(dirname "$0")/lib.sh"

fill() {
    local root=$1 name
    mkdir -p "$root"/{bin,dev,etc,home,proc,root,sys,tmp,usr/bin,usr/sbin,var/www,sbin}
    chmod 1777 "$root/tmp"
    cp /bin/busybox "$root/bin/busybox"
    for name in $(/bin/busybox --list); do
        [ "$name" = busybox ] || ln -s busybox "$root/bin/$name"
    done
    printf 'root:x:0:0:root:/root:/bin/sh\ndaemon:x:1:1:daemon:/usr/sbin:/bin/false\nwww-data:x:33:33:www-data:/var/www:/bin/false\nnobody:x:65534:65534:nobody:/home:/bin/false\n' >"$root/etc/passwd"
    printf 'root:x:0:\ndaemon:x:1:\nwww-data:x:33:\nnogroup:x:65534:\n' >"$root/etc/group"
}

make_image busybox busybox:latest "{\"Env\":[$PATH_ENV],\"Cmd\":[\"sh\"]}"

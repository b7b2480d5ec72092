# Shared by the scripts that make base images from Debian packages.
#
# An image is kept as a docker archive (`docker load` reads it) below $CIRRO_IMAGE_CACHE
# (default: .cache/images in the checkout), under a key made from the scripts themselves, so a
# changed script makes a new image and an unchanged one costs nothing.
set -euo pipefail

IMAGES_DIR=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
CACHE=${CIRRO_IMAGE_CACHE:-$IMAGES_DIR/../.cache/images}
SUITE=bookworm

# archive_path NAME: where the archive of image NAME is or will be.
archive_path() {
    local key
    key=$(cat "$IMAGES_DIR/lib.sh" "$IMAGES_DIR/$1.sh" | sha256sum | cut -c1-16)
    mkdir -p "$CACHE"
    echo "$(cd "$CACHE" && pwd)/$1-$key.tar"
}

# debian_base DIR: a minimal Debian tree; made once and kept as a tar.
debian_base() {
    local root=$1 tar
    tar="$CACHE/debian-$SUITE-$(cksum <"$IMAGES_DIR/lib.sh" | cut -d' ' -f1).tar"
    if [ ! -e "$tar" ]; then
        debootstrap --variant=minbase --include=ca-certificates "$SUITE" "$root" \
            http://deb.debian.org/debian >"$root.log" 2>&1 || { tail -n 20 "$root.log" >&2; return 1; }
        rm -f "$root.log"
        find "$CACHE" -maxdepth 1 -name "debian-$SUITE-*.tar" -delete
        tar --numeric-owner --xattrs -C "$root" -cf "$tar.part" .
        mv "$tar.part" "$tar"
    else
        tar --numeric-owner --xattrs -C "$root" -xf "$tar"
    fi
}

# debian_root DIR PACKAGES...: a Debian tree with the packages and the host's certificates.
# (apt inside the tree, since debootstrap does not resolve virtual packages.)
debian_root() {
    local root=$1
    shift
    debian_base "$root"
    cp -L /etc/resolv.conf "$root/etc/resolv.conf"
    chroot "$root" /usr/bin/env DEBIAN_FRONTEND=noninteractive sh -ec '
        apt-get -q update
        apt-get -q -y --no-install-recommends -o Dpkg::Options::=--force-unsafe-io install "$@"
    ' sh "$@" >"$root.log" 2>&1 || { tail -n 20 "$root.log" >&2; return 1; }
    rm -rf "$root.log" "$root"/var/cache/apt/*.bin "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/* \
        "$root"/usr/share/doc/* "$root"/usr/share/man/* "$root"/usr/share/locale/*
    # The host may trust authorities of its own (a company's proxy, a mirror).
    cp -L /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/ca-certificates.crt"
    : >"$root/etc/resolv.conf"
}

# pack_image ROOT REFERENCE CONFIG_JSON ARCHIVE: ROOT as the only layer of a docker archive.
# CONFIG_JSON is the `config` member (Env, Cmd, ...) of the image's configuration.
pack_image() {
    local root=$1 reference=$2 config=$3 archive=$4 work diff id
    work=$(mktemp -d "${archive}.XXXXXX")
    tar --numeric-owner --sort=name --xattrs -C "$root" -cf "$work/layer.tar" .
    diff=$(sha256sum "$work/layer.tar" | cut -d' ' -f1)
    cat >"$work/config.json" <<JSON
{"architecture":"amd64","os":"linux","created":"$(date -u +%Y-%m-%dT%H:%M:%SZ)","config":$config,"rootfs":{"type":"layers","diff_ids":["sha256:$diff"]},"history":[{"created":"$(date -u +%Y-%m-%dT%H:%M:%SZ)","created_by":"images/${reference%%:*}.sh"}]}
JSON
    id=$(sha256sum "$work/config.json" | cut -d' ' -f1)
    mv "$work/config.json" "$work/$id.json"
    echo "[{\"Config\":\"$id.json\",\"RepoTags\":[\"$reference\"],\"Layers\":[\"layer.tar\"]}]" >"$work/manifest.json"
    tar -C "$work" -cf "$archive.part" manifest.json "$id.json" layer.tar
    rm -rf "$work"
    mv "$archive.part" "$archive"
}

# make_image NAME REFERENCE CONFIG_JSON: calls `fill ROOT` and packs what it made, unless it is there.
# Prints the archive's path.
make_image() {
    local archive root
    archive=$(archive_path "$1")
    if [ ! -e "$archive" ]; then
        root=$(mktemp -d "$CACHE/$1-root.XXXXXX")
        chmod 755 "$root"
        # shellcheck disable=SC2064 # the path as it is now
        trap "rm -rf '$root'" EXIT
        fill "$root" >&2
        pack_image "$root" "$2" "$3" "$archive"
        rm -rf "$root"
        trap - EXIT
        find "$CACHE" -maxdepth 1 -name "$1-????????????????.tar" ! -name "${archive##*/}" -delete
    fi
    echo "$archive"
}

PATH_ENV='"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"'

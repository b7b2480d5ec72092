#!/usr/bin/env bash
# The image `node`: Debian with Node.js and npm.
. "$(dirname "$0")/lib.sh"

fill() {
    debian_root "$1" nodejs npm
}

make_image node node:latest "{\"Env\":[$PATH_ENV,\"NODE_EXTRA_CA_CERTS=/etc/ssl/certs/ca-certificates.crt\"],\"Cmd\":[\"node\"]}"

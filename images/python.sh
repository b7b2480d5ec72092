#!/usr/bin/env bash
# The image `python`: Debian with Python 3 and pip, as the books expect it (`python`, `pip install`).
. "$(dirname "$0")/lib.sh"

fill() {
    debian_root "$1" python3 python3-pip python-is-python3
    # An image is one environment already: pip may install into it.
    rm -f "$1"/usr/lib/python3*/EXTERNALLY-MANAGED
}

make_image python python:latest "{\"Env\":[$PATH_ENV,\"LANG=C.UTF-8\",\"PIP_CERT=/etc/ssl/certs/ca-certificates.crt\",\"PIP_ROOT_USER_ACTION=ignore\"],\"Cmd\":[\"python3\"]}"

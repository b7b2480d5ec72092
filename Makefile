# Two commands do it all: `make demo` and `make test`. Both install what is missing
# (Debian packages by apt, Rust tools by cargo); both want root.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

NEXTEST_VERSION := 0.9.143
DENY_VERSION := 0.20.2
TARGET := x86_64-unknown-linux-gnu
RELEASE := target/$(TARGET)/release/cirro

# libseccomp-dev: the static library; the rest is what features need at run time or tests drive.
PACKAGES := libseccomp-dev pkg-config gcc libc6-dev ca-certificates nftables iproute2 busybox-static debootstrap e2fsprogs \
	qemu-system-x86 cpio kmod lz4 curl jq bsdutils conntrack skopeo docker-registry procps psmisc \
	python3-venv etcd-server etcd-client docker-compose bzip2 xz-utils \
	containerd docker.io podman conmon runc crun buildah git openssl

.PHONY: help
help: ## Show what there is
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

.PHONY: deps
deps: ## Install what the project needs and this machine lacks
	@scripts/install-packages $(PACKAGES)
	@command -v cargo-nextest >/dev/null || cargo install --locked --version $(NEXTEST_VERSION) cargo-nextest
	@command -v cargo-deny >/dev/null || cargo install --locked --no-default-features --version $(DENY_VERSION) cargo-deny

.PHONY: build
build: deps ## Build the release binary
	cargo build --release --package cirro

.PHONY: dist
dist: deps ## Build the binary that is shipped (thin link-time optimisation)
	cargo build --profile dist --package cirro

.PHONY: images
images: deps ## Make the base images (busybox, node, python) from Debian packages, fetch the guest kernel
	@for image in busybox node python; do images/$$image.sh; done
	@scripts/guest-kernel

.PHONY: demo
demo: build images ## Start a cloud and deploy the sample applications
	scripts/demo $(RELEASE)

.PHONY: check
check: deps ## Format, lints, docs, licences, unit and integration tests
	cargo xtask check

.PHONY: test
test: deps images ## Everything that continuous integration checks
	cargo xtask check --end-to-end

.PHONY: bench
bench: build images ## Measure what docs/SPECIFICATION.md promises, beside its peers
	cargo xtask bench all

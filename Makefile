# hyper2kvm: make help lists the targets.
SHELL := /bin/bash
.DEFAULT_GOAL := help
export PATH := $(PATH):/usr/sbin:/sbin
export CGO_ENABLED := 0

VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
LDFLAGS := -s -w -X main.version=$(VERSION)
GOBUILD := go build -trimpath -ldflags '$(LDFLAGS)'
LINT    := build/tools/golangci-lint
LINT_AT := github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0
GUESTS  := debian12-bios debian13-uefi
SUDO    := $(shell [ "$$(id -u)" = 0 ] || echo sudo)

# Debian packages, by what needs them.
RUN_PACKAGES   := qemu-system-x86 ovmf
IMAGE_PACKAGES := lvm2 cryptsetup-bin mdadm ntfs-3g e2fsprogs xfsprogs btrfs-progs dosfstools dpkg-dev
GUEST_PACKAGES := $(shell cat tests/recipes/packages.txt)
TEST_PACKAGES  := qemu-utils nbdkit libnbd-bin libhivex-bin kmod cpio zstd xz-utils lz4 bzip2 lzma fdisk gdisk \
	initramfs-tools-core libvirt-clients procps util-linux
BENCH_PACKAGES := virt-v2v libguestfs-tools

.PHONY: help build deps deps-bench appliance guests demo test test-fast bench lint man completion clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  %-12s %s\n", $$1, $$2}' Makefile

build: ## static binaries in bin/
	$(GOBUILD) -o bin/h2k ./remote/cmd/h2k
	$(GOBUILD) -o bin/h2k-agent ./agent/cmd/h2k-agent
	$(GOBUILD) -o bin/h2k-canary ./agent/cmd/h2k-canary
	$(GOBUILD) -o bin/h2k-image ./buildimage/cmd/h2k-image

# install asks apt only for what dpkg does not have, so that a second run is quick.
define install
	@missing=$$(for p in $(1); do dpkg-query -W -f '$${Status}' $$p 2>/dev/null | grep -q 'ok installed' || echo $$p; done); \
	if [ -n "$$missing" ]; then \
		echo "installing" $$missing; \
		$(SUDO) apt-get update -qq && \
		$(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing >/dev/null; \
	fi
endef

deps: ## install the Debian packages that building, running and testing need
	$(call install,$(RUN_PACKAGES) $(IMAGE_PACKAGES) $(GUEST_PACKAGES) $(TEST_PACKAGES))

deps-bench:
	$(call install,$(BENCH_PACKAGES))

appliance: build deps ## kernel and initramfs of the helper VM in build/image
	bin/h2k image build -o build/image

guests: deps ## the broken guests in build/guests, made from Debian packages
	@for g in $(GUESTS); do tests/recipes/build.sh $$g build/guests || exit 1; done

demo: appliance deps ## repair, convert and boot a small, real, broken guest
	@tests/recipes/build.sh debian12-bios build/guests
	bin/h2k demo -o demo

test: appliance guests ## all tests, virtual machines included
	H2K_REQUIRE_VM=1 go test -timeout 60m ./...

test-fast: ## tests that take no virtual machine
	go test -short ./...

bench: appliance guests deps-bench ## measure beside guestfish, virt-v2v and qemu-img
	go run ./tests/bench/cmd/h2k-bench -o tests/bench/RESULTS.md

$(LINT):
	GOBIN=$(CURDIR)/build/tools GOFLAGS= GOTOOLCHAIN=local go install $(LINT_AT)

lint: $(LINT) ## gofmt and golangci-lint
	@test -z "$$(gofmt -l . | tee /dev/stderr)"
	$(LINT) run ./...

man: build ## man pages in build/man
	bin/h2k man build/man

completion: build ## shell completion in build/completion
	@mkdir -p build/completion
	@for s in bash zsh fish; do bin/h2k completion $$s >build/completion/h2k.$$s; done

clean: ## remove what was built; guests and tools are kept in build/
	rm -rf bin demo build/image build/man build/completion

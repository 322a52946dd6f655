# hyper2kvm: make help lists the targets.
SHELL := /bin/bash
.DEFAULT_GOAL := help
export PATH := $(PATH):/usr/sbin:/sbin
export CGO_ENABLED := 0
# Finished guests are kept here, by what they are made of, for other checkouts.
export H2K_CACHE ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/hyper2kvm/guests

VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
LDFLAGS := -s -w -X main.version=$(VERSION)
GOBUILD := go build -trimpath -ldflags '$(LDFLAGS)'
# The guests of the tests, and those of test-guests alone.
GUESTS      := debian12-bios debian13-uefi trixie-sdboot bookworm-lvm bookworm-extlinux bullseye-bios
MORE_GUESTS := bookworm-md trixie-netplan
SUDO    := $(shell [ "$$(id -u)" = 0 ] || echo sudo)

LINT_VERSION := v2.15.0
LINT         := build/tools/golangci-lint-$(LINT_VERSION)

# Debian packages, by what needs them.
RUN_PACKAGES   := qemu-system-x86 ovmf
IMAGE_PACKAGES := lvm2 cryptsetup-bin mdadm ntfs-3g e2fsprogs xfsprogs btrfs-progs dosfstools dpkg-dev
GUEST_PACKAGES := $(shell cat tests/recipes/packages.txt)
TEST_PACKAGES  := netplan.io qemu-utils nbdkit libnbd-bin libhivex-bin kmod cpio zstd xz-utils lz4 lzop bzip2 lzma fdisk gdisk \
	initramfs-tools-core dracut-core busybox-static libvirt-clients libxml2-utils procps strace util-linux grub-common \
	binutils systemd-boot-efi grub-efi-amd64-signed openssh-client
# libguestfs makes its appliance from a kernel in /boot, which a container lacks.
BENCH_PACKAGES := virt-v2v libguestfs-tools $(if $(wildcard /boot/vmlinuz-*),,linux-image-cloud-amd64)

# What the helper image is built from; it is built again when one changes.
IMAGE_SOURCES := go.mod go.sum $(shell find agent buildimage fixes formats image initramfs -name '*.go' ! -name '*_test.go')
IMAGE         := build/image/SHA256SUMS

.PHONY: help build deps deps-bench appliance guests demo test test-fast test-guests test-vendors test-debroot fuzz bench lint man completions clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  %-12s %s\n", $$1, $$2}' Makefile

build: ## static binaries in bin/
	$(GOBUILD) -o bin/h2k ./remote/cmd/h2k
	$(GOBUILD) -o bin/h2k-agent ./agent/cmd/h2k-agent
	$(GOBUILD) -o bin/h2k-canary ./agent/cmd/h2k-canary
	$(GOBUILD) -o bin/h2k-image ./buildimage/cmd/h2k-image
	$(GOBUILD) -o bin/h2k-livefix ./livefix/cmd/h2k-livefix

# install asks apt for what dpkg does not have, so that a second run is quick,
# and for new lists only where those that are there do not do.
define install
	@missing=$$(for p in $(1); do dpkg-query -W -f '$${Status}' $$p 2>/dev/null | grep -q 'ok installed' || echo $$p; done); \
	if [ -n "$$missing" ]; then \
		echo "installing" $$missing; \
		get() { $(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing >/dev/null; }; \
		get 2>/dev/null || { $(SUDO) apt-get update -qq && get; }; \
	fi
endef

deps: ## install the Debian packages that building, running and testing need
	$(call install,$(RUN_PACKAGES) $(IMAGE_PACKAGES) $(GUEST_PACKAGES) $(TEST_PACKAGES))

deps-bench:
	$(call install,$(BENCH_PACKAGES))

appliance: $(IMAGE) ## kernel and initramfs of the helper VM in build/image

$(IMAGE): $(IMAGE_SOURCES) | build deps
	bin/h2k image build -o build/image
	@touch $@

guests: deps ## the broken guests in build/guests, made from Debian packages
	@printf '%s\n' $(GUESTS) | xargs -P 2 -I{} tests/recipes/build.sh {} build/guests

demo: build appliance ## repair, convert and boot a small, real, broken guest
	bin/h2k demo -o demo

test: build appliance guests ## all tests, virtual machines included
	@# Two packages at a time: more would have virtual machines wait for each other.
	H2K_REQUIRE_VM=1 go test -p 2 -timeout 60m ./...

test-fast: ## tests that take no virtual machine
	go test -short ./...

test-guests: build appliance ## each guest of the matrix, dead before, booted from both buses after; long
	@$(MAKE) --no-print-directory guests GUESTS='$(GUESTS) $(MORE_GUESTS)'
	H2K_GUESTS=all H2K_REQUIRE_VM=1 go test -count 1 -p 1 -parallel 1 -timeout 4h -v ./tests/e2e ./tests/oracle ./tests/recipes

test-vendors: ## images of and for the tools of VMware and VirtualBox, fetched from Debian unstable
	tests/vendors/fetch.sh $(dir $(H2K_CACHE))vendors
	H2K_VENDORS=$(dir $(H2K_CACHE))vendors go test -tags vendors -count 1 ./tests/vendors

test-debroot: ## repairs on the files of a real Debian system, as root; its own programs are the judges
	tests/debroot/make.sh $(dir $(H2K_CACHE))debroot
	H2K_DEBROOT=$(dir $(H2K_CACHE))debroot/debroot.tar go test -tags debroot -count 1 ./tests/debroot

# FUZZ are the packages, FUZZTIME the time of each target.
FUZZ     ?= ./formats/... ./image/...
FUZZTIME ?= 60s

fuzz: ## fuzz the parsers of disk images, FUZZTIME=60s each; once for each version of a parser
	tests/fuzz/run.sh $(dir $(H2K_CACHE))fuzz $(FUZZTIME) $(FUZZ)

bench: build appliance guests deps-bench ## measure beside guestfish, virt-v2v and qemu-img; ONLY='zstd, VDI to raw' measures those rows
	go run ./tests/bench/cmd/h2k-bench -o tests/bench/RESULTS.md -only '$(ONLY)'

# Once, and without a network too: the module cache serves as proxy.
$(LINT):
	GOBIN=$(CURDIR)/build/tools GOFLAGS= GOTOOLCHAIN=local \
		GOPROXY="$$(go env GOPROXY)|file://$$(go env GOMODCACHE)/cache/download" \
		go install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(LINT_VERSION)
	mv build/tools/golangci-lint $@

lint: $(LINT) ## gofmt and golangci-lint
	@test -z "$$(gofmt -l $$(git ls-files '*.go') | tee /dev/stderr)"
	$(LINT) run --allow-parallel-runners ./...

man: build ## man pages in build/man
	bin/h2k man build/man
	bin/h2k-livefix man build/man

completions: build ## shell completion in build/completions
	@mkdir -p build/completions
	@for p in h2k h2k-livefix; do for s in bash zsh fish; do bin/$$p completion $$s >build/completions/$$p.$$s || exit 1; done; done

clean: ## remove what was built; guests and tools are kept in build/
	rm -rf bin demo build/image build/man build/completions

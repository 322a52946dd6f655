#!/bin/sh
# make.sh DIR: a Debian system as DIR/debroot.tar, with the tools of two
# hypervisors and the policy of SELinux. Made once.
set -eu
dir=$1
[ -f "$dir/debroot.tar" ] && exit 0
mkdir -p "$dir"
mmdebstrap --variant=minbase --include=systemd-sysv,udev,kmod,open-vm-tools,hyperv-daemons,qemu-guest-agent,selinux-policy-default,selinux-utils,policycoreutils \
	bookworm "$dir/part.tar"
mv "$dir/part.tar" "$dir/debroot.tar"

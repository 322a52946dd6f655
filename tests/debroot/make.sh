#!/bin/sh
# make.sh DIR: a Debian system as DIR/debroot.tar, with the tools of two
# hypervisors, the policy of SELinux, and the guest agent's package in /root.
# Made once.
set -eu
dir=$1
[ -f "$dir/debroot.tar" ] && exit 0
mkdir -p "$dir"
# The agent is installed for what it depends on; a test removes it again.
mmdebstrap --variant=minbase --include=systemd-sysv,udev,kmod,open-vm-tools,hyperv-daemons,qemu-guest-agent,selinux-policy-default,selinux-utils,policycoreutils \
	--customize-hook='cd "$1/root" && APT_CONFIG="$MMDEBSTRAP_APT_CONFIG" apt-get download qemu-guest-agent' \
	bookworm "$dir/part.tar"
mv "$dir/part.tar" "$dir/debroot.tar"

#!/bin/bash
# Fetches the disk tools of VMware (vmdk-convert, package open-vmdk) and of
# VirtualBox (vbox-img) into a folder of their own, with the libraries they
# need. They come from Debian unstable; nothing is installed on this machine.
#
#   tests/vendors/fetch.sh OUTDIR
#
# H2K_MIRROR names another Debian mirror than http://deb.debian.org/debian.
set -euo pipefail

out=${1:?usage: fetch.sh OUTDIR}
if [ -x "$out/vbox-img" ] && [ -x "$out/vmdk-convert" ]; then
	exit 0
fi
work=$(mktemp -d "${TMPDIR:-/var/tmp}/h2k-vendors.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM

# The release file of a mirror that is behind is still signed.
mmdebstrap --quiet --variant=extract --include=open-vmdk,virtualbox --components="main contrib" \
	--aptopt='Acquire::Check-Valid-Until "false"' \
	sid "$work/root" "${H2K_MIRROR:-http://deb.debian.org/debian}"

r=$work/root
libs=$r/usr/lib/x86_64-linux-gnu
loader=$libs/ld-linux-x86-64.so.2
mkdir -p "$work/new/lib"
cp "$loader" "$work/new/lib/"
take() { # NAME PROGRAM: the program, its libraries, and a script that starts it with them
	cp "$2" "$work/new/lib/$1"
	LD_LIBRARY_PATH= LD_TRACE_LOADED_OBJECTS=1 "$loader" --library-path "$libs:$r/usr/lib/virtualbox" "$2" |
		awk '$3 ~ /^\// { print $3 }' | xargs -r cp -L -t "$work/new/lib"
	cat >"$work/new/$1" <<-EOF
		#!/bin/sh
		here=\$(dirname "\$(readlink -f "\$0")")
		exec "\$here/lib/ld-linux-x86-64.so.2" --library-path "\$here/lib" "\$here/lib/$1" "\$@"
	EOF
	chmod +x "$work/new/$1"
}
take vmdk-convert "$r/usr/bin/vmdk-convert"
take vbox-img "$r/usr/lib/virtualbox/vbox-img"
mkdir -p "$(dirname "$out")"
rm -rf "$out"
cp -r "$work/new" "$out.$$"
mv "$out.$$" "$out"

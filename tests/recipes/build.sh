#!/bin/bash
# Builds a guest of tests/recipes and prints the path of its VMDK, or of the
# folder of its disks where the recipe delivers them in other formats.
#
#   tests/recipes/build.sh NAME [OUTDIR]
#
# OUTDIR (default build/guests) gets NAME.vmdk or NAME/, and NAME.recipe, the
# hash of what the guest was built from: a second run with the same recipe
# builds nothing.
# With H2K_CACHE set, finished guests are also kept in that folder, by hash.
# H2K_MIRROR names another Debian mirror than http://deb.debian.org/debian.
#
# It takes root (or sudo), loop devices, and the packages of packages.txt.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
name=${1:?usage: build.sh NAME [OUTDIR]}
out=${2:-$here/../../build/guests}
recipe=$here/$name
[ -f "$recipe/assemble.sh" ] || { echo "build.sh: no recipe named $name" >&2; exit 2; }

# recipe_hash covers every file that can change what comes out.
recipe_hash() {
	(cd "$here" && find build.sh lib.sh guest.sh "$name" -type f -print0 | LC_ALL=C sort -z | xargs -0 sha256sum) |
		sha256sum | cut -c1-16
}

# place gives the guest, a file or a folder, its final name.
place() {
	rm -rf "$out/.$name.new"
	cp -r --reflink=auto --sparse=always "$1" "$out/.$name.new"
	rm -rf "${out:?}/$guest"
	mv "$out/.$name.new" "$out/$guest"
	echo "$hash" >"$out/$name.recipe"
}

hash=$(recipe_hash)
mkdir -p "$out"
out=$(cd "$out" && pwd)
exec 9>"$out/.$name.lock"
flock 9
# A recipe that delivers its disks itself makes a folder of them.
if grep -q '^deliver ' "$recipe/assemble.sh"; then guest=$name suffix=''; else guest=$name.vmdk suffix=.vmdk; fi
if [ -e "$out/$guest" ] && [ "$(cat "$out/$name.recipe" 2>/dev/null)" = "$hash" ]; then
	echo "$out/$guest"
	exit 0
fi
kept=${H2K_CACHE:+$H2K_CACHE/$name-$hash$suffix}
if [ -n "$kept" ] && [ -e "$kept" ]; then
	place "$kept"
	echo "$out/$guest"
	exit 0
fi

work=$(mktemp -d "${TMPDIR:-/var/tmp}/h2k-guest.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM
if [ "$(id -u)" = 0 ]; then asroot=(); else asroot=(sudo); fi
# In a mount namespace of its own: one that another process made meanwhile would
# keep what is mounted here, and a file system is read when it is unmounted.
"${asroot[@]}" env "H2K_MIRROR=${H2K_MIRROR:-http://deb.debian.org/debian}" \
	unshare --mount bash "$here/lib.sh" "$name" "$work" "$(id -u)" >&2
if [ -n "$kept" ]; then
	mkdir -p "$H2K_CACHE"
	cp -r --sparse=always "$work/guest$suffix" "$kept.$$"
	mv -fT "$kept.$$" "$kept"
fi
place "$work/guest$suffix"
echo "$out/$guest"

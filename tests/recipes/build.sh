#!/bin/bash
# Builds a guest of tests/recipes and prints the path of its VMDK.
#
#   tests/recipes/build.sh NAME [OUTDIR]
#
# OUTDIR (default build/guests) gets NAME.vmdk and NAME.recipe, the hash of what
# the guest was built from: a second run with the same recipe builds nothing.
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
	(cd "$here" && find build.sh lib.sh "$name" -type f -print0 | LC_ALL=C sort -z | xargs -0 sha256sum) |
		sha256sum | cut -c1-16
}

# place gives the guest its final name in one step.
place() {
	cp --reflink=auto --sparse=always "$1" "$out/.$name.vmdk.new"
	mv -f "$out/.$name.vmdk.new" "$out/$name.vmdk"
	echo "$hash" >"$out/$name.recipe"
}

hash=$(recipe_hash)
mkdir -p "$out"
out=$(cd "$out" && pwd)
exec 9>"$out/.$name.lock"
flock 9
if [ -f "$out/$name.vmdk" ] && [ "$(cat "$out/$name.recipe" 2>/dev/null)" = "$hash" ]; then
	echo "$out/$name.vmdk"
	exit 0
fi
kept=${H2K_CACHE:+$H2K_CACHE/$name-$hash.vmdk}
if [ -n "$kept" ] && [ -f "$kept" ]; then
	place "$kept"
	echo "$out/$name.vmdk"
	exit 0
fi

work=$(mktemp -d "${TMPDIR:-/var/tmp}/h2k-guest.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM
if [ "$(id -u)" = 0 ]; then asroot=(); else asroot=(sudo); fi
"${asroot[@]}" env "H2K_MIRROR=${H2K_MIRROR:-http://deb.debian.org/debian}" \
	bash "$here/lib.sh" "$name" "$work" "$(id -u)" >&2
if [ -n "$kept" ]; then
	mkdir -p "$H2K_CACHE"
	cp --sparse=always "$work/guest.vmdk" "$kept.$$"
	mv -f "$kept.$$" "$kept"
fi
place "$work/guest.vmdk"
echo "$out/$name.vmdk"

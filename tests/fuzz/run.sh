#!/bin/bash
# run.sh STAMPS TIME PACKAGE...: fuzzes each target of the packages for TIME, as
# many at once as there are cores. A package whose test program is the same, byte
# for byte, as one that was fuzzed as long before is passed over: the stamps of
# those are files in the folder STAMPS. Findings are in testdata/fuzz of their
# package; what else is interesting is kept in Go's build cache.
set -euo pipefail
stamps=$1 time=$2
shift 2
mkdir -p "$stamps"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# one PACKAGE FUNCTION STAMP
one() {
	if go test -run '^$' -fuzz "^$2\$" -fuzztime "$FUZZ_TIME" -parallel 1 -fuzzminimizetime 5s "$1" >"$FUZZ_WORK/$3" 2>&1; then
		echo "$1 $2: $(grep -o 'execs: [0-9]*' "$FUZZ_WORK/$3" | tail -1)"
		touch "$FUZZ_STAMPS/$3"
		return
	fi
	echo "$1 $2: FAILED"
	tail -40 "$FUZZ_WORK/$3"
	return 1
}
export -f one
export FUZZ_TIME=$time FUZZ_WORK=$work FUZZ_STAMPS=$stamps

for package in $(go list "$@"); do
	go test -c -trimpath -o "$work/program" "$package" >/dev/null
	[ -e "$work/program" ] || continue # it has no tests
	sum=$(sha256sum <"$work/program" | cut -c-32)
	for f in $("$work/program" -test.list '^Fuzz'); do
		stamp=$f-$time-$sum
		if [ -e "$stamps/$stamp" ]; then
			echo "$package $f: this program was fuzzed before" >&2
		else
			echo "$package $f $stamp"
		fi
	done
	rm -f "$work/program"
done >"$work/list"
xargs -r -L 1 -P "$(nproc)" bash -c 'one "$@"' bash <"$work/list"

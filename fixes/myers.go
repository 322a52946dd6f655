package fixes

import "slices"

// maxEdits bounds the work of compare: files that differ in more lines than
// this are shown as wholly replaced.
const maxEdits = 2000

// compare finds a shortest edit script from old to now (E. Myers, "An O(ND)
// Difference Algorithm and Its Variations", 1986, the greedy algorithm).
func compare(old, now []string) []edit {
	head := 0
	for head < len(old) && head < len(now) && old[head] == now[head] {
		head++
	}
	tail := 0
	for tail < len(old)-head && tail < len(now)-head && old[len(old)-1-tail] == now[len(now)-1-tail] {
		tail++
	}
	var out []edit
	for _, line := range old[:head] {
		out = append(out, edit{' ', line})
	}
	out = append(out, middle(old[head:len(old)-tail], now[head:len(now)-tail])...)
	for _, line := range old[len(old)-tail:] {
		out = append(out, edit{' ', line})
	}
	return out
}

func middle(old, now []string) []edit {
	trace := search(old, now)
	if trace == nil {
		var out []edit
		for _, line := range old {
			out = append(out, edit{'-', line})
		}
		for _, line := range now {
			out = append(out, edit{'+', line})
		}
		return out
	}
	return backtrack(trace, old, now)
}

// search returns the furthest reaching x of each diagonal, for each number of
// edits d: trace[d][d+k] is the x on diagonal k. It is nil past maxEdits.
func search(old, now []string) [][]int {
	var trace [][]int
	limit := min(len(old)+len(now), maxEdits)
	for d := 0; d <= limit; d++ {
		row := make([]int, 2*d+1)
		trace = append(trace, row)
		for k := -d; k <= d; k += 2 {
			x := 0
			if d > 0 {
				x = step(trace[d-1], d-1, k)
			}
			for x < len(old) && x-k < len(now) && x-k >= 0 && old[x] == now[x-k] {
				x++
			}
			row[d+k] = x
			if x >= len(old) && x-k >= len(now) {
				return trace
			}
		}
	}
	return nil
}

// step gives the start on diagonal k of one more edit after row, the row of d
// edits.
func step(row []int, d, k int) int {
	if down(row, d, k) {
		return row[d+k+1]
	}
	return row[d+k-1] + 1
}

// down reports whether diagonal k is reached by adding a line, not by removing
// one.
func down(row []int, d, k int) bool {
	switch {
	case k-1 < -d:
		return true
	case k+1 > d:
		return false
	}
	return row[d+k-1] < row[d+k+1]
}

func backtrack(trace [][]int, old, now []string) []edit {
	var out []edit
	x, y := len(old), len(now)
	for d := len(trace) - 1; d > 0; d-- {
		k := x - y
		row := trace[d-1]
		start := step(row, d-1, k)
		for x > start {
			x, y = x-1, y-1
			out = append(out, edit{' ', old[x]})
		}
		if down(row, d-1, k) {
			y--
			out = append(out, edit{'+', now[y]})
		} else {
			x--
			out = append(out, edit{'-', old[x]})
		}
	}
	for x > 0 {
		x--
		out = append(out, edit{' ', old[x]})
	}
	slices.Reverse(out)
	return out
}

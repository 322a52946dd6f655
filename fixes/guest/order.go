package guest

import (
	"cmp"
	"slices"
	"strconv"
	"strings"
)

// KernelName gives the number of a name that the kernel itself gives to a card
// in the order in which it finds them: 1 for "eth1".
func KernelName(name string) (number int, ok bool) {
	digits, ok := strings.CutPrefix(name, "eth")
	if !ok || digits == "" || len(digits) > 4 || strings.Trim(digits, "0123456789") != "" {
		return 0, false
	}
	number, err := strconv.Atoi(digits)
	return number, err == nil
}

// CardOrder gives the order in which the target machine has to have the cards,
// as places in nics. A card with one of the kernel's own names stands where the
// kernel gives it that: two cards cannot exchange such names once they have them.
// The others fill the places between in the order that they have.
func CardOrder(nics []NIC) []int {
	order := make([]int, len(nics))
	numbers := make([]int, len(nics))
	used := map[int]bool{}
	for i, n := range nics {
		order[i], numbers[i] = i, -1
		number, ok := KernelName(n.Name)
		if !ok {
			continue
		}
		if used[number] {
			return asTheyAre(len(nics))
		}
		numbers[i], used[number] = number, true
	}
	next := 0
	for i := range numbers {
		if numbers[i] >= 0 {
			continue
		}
		for used[next] {
			next++
		}
		numbers[i], used[next] = next, true
	}
	slices.SortStableFunc(order, func(a, b int) int { return numbers[a] - numbers[b] })
	return order
}

func asTheyAre(n int) []int {
	out := make([]int, n)
	for i := range out {
		out[i] = i
	}
	return out
}

// CompareNames orders names as the cards were ordered: by each number in them,
// and VMware's slots by function last. Its slot numbers are 160 + 32 × bridge +
// 1024 × function, and the kernel names the interface after bridge and function:
// ens160, ens192, ens224, ens256, ens161, ens193.
func CompareNames(a, b string) int {
	for a != "" && b != "" {
		at, an, ar := chunk(a)
		bt, bn, br := chunk(b)
		if at == "ens" && bt == "ens" && an >= 160 && bn >= 160 {
			an, bn = (an-160)%32*1024+(an-160)/32, (bn-160)%32*1024+(bn-160)/32
		}
		if c := cmp.Or(strings.Compare(at, bt), cmp.Compare(an, bn)); c != 0 {
			return c
		}
		a, b = ar, br
	}
	return cmp.Compare(len(a), len(b))
}

// chunk takes a text and the number behind it off the front of a name; -1 is no
// number.
func chunk(name string) (text string, number int, rest string) {
	const digits = "0123456789"
	i := strings.IndexAny(name, digits)
	if i < 0 {
		return name, -1, ""
	}
	text, rest = name[:i], strings.TrimLeft(name[i:], digits)
	for _, c := range name[i : len(name)-len(rest)] {
		if number < 1<<24 { // eno67109408 is the largest there is
			number = number*10 + int(c-'0')
		}
	}
	return text, number, rest
}

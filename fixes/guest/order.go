package guest

import (
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

package bootmenu

import "strings"

// CompareRPM orders versions as rpm does (rpmvercmp in rpm's
// rpmio/rpmvercmp.cc): runs of digits by value, runs of letters by their bytes,
// digits before letters, "~" before the end, "^" behind it.
func CompareRPM(a, b string) int {
	other := func(s string) string {
		return strings.TrimLeftFunc(s, func(r rune) bool { return !alnum(r) && r != '~' && r != '^' })
	}
	for a != "" || b != "" {
		a, b = other(a), other(b)
		if c, done := tilde(&a, &b); done {
			return c
		} else if c != 0 {
			continue
		}
		if a == "" || b == "" {
			break
		}
		number := isDigit(rune(a[0]))
		x, y := run(&a, number), run(&b, number)
		switch {
		case y == "" && number: // a number is newer than letters
			return 1
		case y == "":
			return -1
		}
		if c := compareRuns(x, y, number); c != 0 {
			return c
		}
	}
	return truth(a != "") - truth(b != "") // what goes on is newer
}

// tilde takes a "~" or "^" that both begin with off them, which c != 0 tells;
// where only one has it, the order is decided.
func tilde(a, b *string) (c int, done bool) {
	for _, mark := range []string{"~", "^"} {
		x, y := strings.HasPrefix(*a, mark), strings.HasPrefix(*b, mark)
		switch {
		case x && y:
			*a, *b = (*a)[1:], (*b)[1:]
			return 1, false
		case !x && !y:
			continue
		case mark == "~" && x:
			return -1, true
		case mark == "~":
			return 1, true
		case x && *b == "": // 1.0^ is newer than 1.0, older than 1.0.1
			return 1, true
		case x:
			return -1, true
		case *a == "":
			return -1, true
		default:
			return 1, true
		}
	}
	return 0, false
}

// run takes the digits, or the letters, off the beginning of s.
func run(s *string, number bool) string {
	n := 0
	for n < len(*s) && alnum(rune((*s)[n])) && isDigit(rune((*s)[n])) == number {
		n++
	}
	out := (*s)[:n]
	*s = (*s)[n:]
	return out
}

func compareRuns(x, y string, number bool) int {
	if number {
		x, y = strings.TrimLeft(x, "0"), strings.TrimLeft(y, "0")
		if len(x) != len(y) {
			return len(x) - len(y)
		}
	}
	return strings.Compare(x, y)
}

func isDigit(r rune) bool { return r >= '0' && r <= '9' }

func alnum(r rune) bool { return isDigit(r) || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' }

// CompareVersions orders versions as systemd-boot does ("Version Order
// Specification" of the UAPI group). It differs from rpm's in what stands
// between the parts: "-" begins a release, which "." does not.
func CompareVersions(a, b string) int {
	for {
		a, b = strings.TrimLeftFunc(a, ignored), strings.TrimLeftFunc(b, ignored)
		// Each of these ends or parts a version; what comes first is older.
		for _, mark := range []byte{'~', 0, '-', '^', '.'} {
			x, y := begins(a, mark), begins(b, mark)
			if x != y {
				return truth(y) - truth(x)
			}
			if x && mark == 0 {
				return 0
			}
			if x {
				a, b = a[1:], b[1:]
				break
			}
		}
		if number := a != "" && isDigit(rune(a[0])) || b != "" && isDigit(rune(b[0])); number || a != "" && b != "" && alnum(rune(a[0])) && alnum(rune(b[0])) {
			x, y := run(&a, number), run(&b, number)
			if number && (x == "") != (y == "") {
				return truth(x != "") - truth(y != "")
			}
			if c := compareRuns(x, y, number); c != 0 {
				return c
			}
		}
	}
}

func begins(s string, mark byte) bool {
	if mark == 0 {
		return s == ""
	}
	return s != "" && s[0] == mark
}

func ignored(r rune) bool { return !alnum(r) && !strings.ContainsRune("~-^.", r) }

package cli

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// byteRate is a flag in bytes a second, with K, M, G or T for powers of 1024.
type byteRate int64

// units of a rate, smallest first.
const rateUnits = "KMGT"

// String prints the largest unit that loses nothing.
func (r *byteRate) String() string {
	n, unit := int64(*r), ""
	if n == 0 {
		return ""
	}
	for i := 0; i < len(rateUnits) && n%1024 == 0; i++ {
		n, unit = n/1024, rateUnits[i:i+1]
	}
	return strconv.FormatInt(n, 10) + unit
}

// Set reads a number and its unit: 100M, 1.5G, 300000, 80MiB/s.
func (r *byteRate) Set(s string) error {
	number := strings.TrimSuffix(strings.ToUpper(s), "/S")
	number = strings.TrimSuffix(strings.TrimSuffix(number, "B"), "I")
	factor := 1.0
	if i := strings.IndexByte(rateUnits, lastByte(number)); i >= 0 {
		factor = math.Pow(1024, float64(i+1))
		number = number[:len(number)-1]
	}
	n, err := strconv.ParseFloat(number, 64)
	if bytes := n * factor; err != nil || !(bytes >= 1 && bytes < 1<<62) {
		return fmt.Errorf("%q is no rate: give bytes a second, as in 300000, 80M or 1.5G", s)
	}
	*r = byteRate(n * factor)
	return nil
}

func lastByte(s string) byte {
	if s == "" {
		return 0
	}
	return s[len(s)-1]
}

// Type names the value in help.
func (*byteRate) Type() string { return "rate" }

// byteSize is a flag in bytes, with the same units.
type byteSize int64

// String prints the largest unit that loses nothing.
func (s *byteSize) String() string { return (*byteRate)(s).String() }

// Set reads a number and its unit: 64M, 1.5G, 4096, 1GiB.
func (s *byteSize) Set(text string) error {
	if text == "0" {
		*s = 0
		return nil
	}
	if strings.ContainsRune(text, '/') || (*byteRate)(s).Set(text) != nil {
		return fmt.Errorf("%q is no size: give bytes, as in 4096, 64M or 1.5G", text)
	}
	return nil
}

// Type names the value in help.
func (*byteSize) Type() string { return "size" }

package ovf

import (
	"math/big"
	"strings"
)

// bytesIn gives quantity times unit in bytes; ok is false where either is not
// understood or the product is no size. Units are programmatic ones (DSP0004,
// annex C: "byte * 2^20") or words of the drafts ("MegaBytes"); none is the
// given one.
func bytesIn(quantity, unit, none string) (n int64, ok bool) {
	q, ok := new(big.Rat).SetString(strings.TrimSpace(quantity))
	if !ok || len(quantity) > maxNumber || strings.ContainsAny(quantity, "/eEpPxX_") {
		return 0, false
	}
	if strings.TrimSpace(unit) == "" {
		unit = none
	}
	factor, ok := unitBytes(unit)
	if !ok {
		return 0, false
	}
	q.Mul(q, new(big.Rat).SetInt(factor))
	whole := new(big.Int).Quo(q.Num(), q.Denom())
	if whole.Sign() < 0 || !whole.IsInt64() {
		return 0, false
	}
	return whole.Int64(), true
}

// maxNumber bounds how long a number may be, in characters: what is computed
// with it must stay cheap.
const maxNumber = 32

// maxExponent bounds the powers in a unit: 2^60 bytes is an exbibyte.
const maxExponent = 60

// unitBytes is how many bytes a unit is.
func unitBytes(unit string) (*big.Int, bool) {
	product := big.NewInt(1)
	parts := strings.Split(strings.ToLower(strings.ReplaceAll(unit, " ", "")), "*")
	if len(parts) > 8 {
		return nil, false
	}
	for i, part := range parts {
		factor, ok := unitFactor(part)
		if i == 0 {
			factor, ok = unitWord(part)
		}
		if !ok {
			return nil, false
		}
		product.Mul(product, factor)
	}
	return product, true
}

func unitWord(word string) (*big.Int, bool) {
	shift, ok := map[string]uint{
		"byte": 0, "bytes": 0, "b": 0,
		"kilobyte": 10, "kilobytes": 10, "kb": 10, "kib": 10,
		"megabyte": 20, "megabytes": 20, "mb": 20, "mib": 20,
		"gigabyte": 30, "gigabytes": 30, "gb": 30, "gib": 30,
		"terabyte": 40, "terabytes": 40, "tb": 40, "tib": 40,
	}[word]
	return new(big.Int).Lsh(big.NewInt(1), shift), ok
}

// unitFactor reads "2^20" and "1024".
func unitFactor(part string) (*big.Int, bool) {
	base, exponent, power := strings.Cut(part, "^")
	if len(part) > maxNumber {
		return nil, false
	}
	b, ok := new(big.Int).SetString(base, 10)
	if !ok || b.Sign() <= 0 {
		return nil, false
	}
	if !power {
		return b, true
	}
	e, ok := new(big.Int).SetString(exponent, 10)
	if !ok || e.Sign() < 0 || e.Cmp(big.NewInt(maxExponent)) > 0 {
		return nil, false
	}
	return b.Exp(b, e, nil), true
}

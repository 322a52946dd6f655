package cli

import "testing"

func TestRates(t *testing.T) {
	for text, want := range map[string]int64{
		"300000": 300000, "80M": 80 << 20, "80m": 80 << 20, "1.5G": 3 << 29, "2K": 2048, "1T": 1 << 40, "80MiB/s": 80 << 20, "5MB": 5 << 20, "100b/s": 100,
	} {
		var r byteRate
		if err := r.Set(text); err != nil || int64(r) != want {
			t.Errorf("Set(%q) = %d, %v; want %d", text, r, err, want)
		}
		var again byteRate
		if err := again.Set(r.String()); err != nil || again != r {
			t.Errorf("%q prints as %q, which is %d, %v", text, r.String(), again, err)
		}
	}
	for _, text := range []string{"", "0", "-5M", "fast", "M", "1e30", "NaN", "Inf", "5X", "0.5"} {
		var r byteRate
		if err := r.Set(text); err == nil {
			t.Errorf("Set(%q) = %d; want an error", text, r)
		}
	}
}

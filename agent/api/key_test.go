package api

import (
	"strings"
	"testing"
)

func TestParseKey(t *testing.T) {
	const uuid = "2f144f6e-9f3c-4b1a-8d5e-0c7d8e9fa0b1"
	for in, want := range map[string]Key{
		uuid + ":file:/root/k:e:y":                        {uuid, "file:/root/k:e:y"},
		"all:env:PASS":                                    {AllVolumes, "env:PASS"},
		"/dev/sda2:keyring:web01:file:x":                  {"/dev/sda2", "keyring:web01:file:x"},
		"/dev/disk/by-path/pci-0000:03:00.0-part2:prompt": {"/dev/disk/by-path/pci-0000:03:00.0-part2", "prompt"},
	} {
		got, err := ParseKey(in)
		if got != want || err != nil {
			t.Errorf("ParseKey(%q) = %+v, %v", in, got, err)
		}
		if got.String() != in {
			t.Errorf("%q prints as %q", in, got)
		}
	}
}

// TestASecretGivenByValueIsNotRepeated: who tries --key all:key:SECRET has it in
// the history of the shell, but not in a log of ours.
func TestASecretGivenByValueIsNotRepeated(t *testing.T) {
	for _, in := range []string{"all:key:hunter2", "hunter2", ":file:hunter2", "all:file:", "all:env:", "all:prompt:hunter2", "", ":prompt"} {
		k, err := ParseKey(in)
		if err == nil {
			t.Errorf("ParseKey(%q) = %+v, want an error", in, k)
			continue
		}
		if strings.Contains(err.Error(), "hunter2") {
			t.Errorf("the error repeats what was given: %v", err)
		}
	}
}

func FuzzParseKey(f *testing.F) {
	f.Add("all:file:/x")
	f.Add("a:b:prompt")
	f.Fuzz(func(t *testing.T, s string) {
		k, err := ParseKey(s)
		if err == nil && (k.String() != s || k.Check() != nil) {
			t.Errorf("%q is read as %+v", s, k)
		}
	})
}

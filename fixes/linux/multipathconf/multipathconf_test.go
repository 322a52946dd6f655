package multipathconf

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const sample = `# made by mpathconf
defaults {
	user_friendly_names yes
	find_multipaths "on"
}
blacklist { devnode "^sd[a-z]$" } # all "of them
multipaths {
	multipath {
		wwid	36000c29aa
		alias	data
	}
}
`

func TestSettings(t *testing.T) {
	f := Parse([]byte(sample))
	want := []Setting{
		{"defaults/user_friendly_names", "yes"}, {"defaults/find_multipaths", "on"}, {"blacklist/devnode", "^sd[a-z]$"},
		{"multipaths/multipath/wwid", "36000c29aa"}, {"multipaths/multipath/alias", "data"},
	}
	if d := cmp.Diff(want, f.Settings()); d != "" || !f.Sound() {
		t.Errorf("sound %v: %s", f.Sound(), d)
	}
}

func TestMistakesAreSeen(t *testing.T) {
	for _, bad := range []string{"a {", "}", "a \"b\n", "{ a b }", "a { b { }"} {
		if Parse([]byte(bad)).Sound() {
			t.Errorf("%q is taken for sound", bad)
		}
	}
}

// FuzzAppend: all that was there stays, in front, and reads as before.
func FuzzAppend(f *testing.F) {
	f.Add(sample)
	f.Add("a b")
	f.Add("!")
	f.Fuzz(func(t *testing.T, text string) {
		file := Parse([]byte(text))
		if !file.Sound() {
			return
		}
		before := file.Settings()
		file.Append("blacklist", `devnode "^vd"`)
		after := file.Settings()
		if !file.Sound() || !strings.HasPrefix(string(file.Bytes()), text) || len(after) != len(before)+1 ||
			cmp.Diff(before, after[:len(before)]) != "" && len(before) > 0 || after[len(before)] != (Setting{"blacklist/devnode", "^vd"}) {
			t.Errorf("%q becomes %q", text, file.Bytes())
		}
	})
}

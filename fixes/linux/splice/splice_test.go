package splice

import "testing"

func TestReplace(t *testing.T) {
	x := New([]byte("a=1 b=2 c=3\n"))
	if !x.Replace(6, 7, "two") || !x.Replace(2, 3, "one") || !x.Replace(12, 12, "d=4\n") {
		t.Fatal("a replacement beside others is refused")
	}
	for _, bad := range [][2]int{{2, 3}, {1, 4}, {5, 7}, {-1, 0}, {3, 2}, {12, 14}, {6, 6}} {
		if x.Replace(bad[0], bad[1], "no") {
			t.Errorf("%v is replaced", bad)
		}
	}
	if got := string(x.Bytes()); got != "a=one b=two c=3\nd=4\n" {
		t.Errorf("got %q", got)
	}
	if y := New([]byte("same")); string(y.Bytes()) != "same" {
		t.Error("nothing to replace changes the text")
	}
}

// FuzzReplace holds that what is outside the replaced bytes stays.
func FuzzReplace(f *testing.F) {
	f.Add("abc", 0, 1, "x", 2, 3)
	f.Add("", 0, 0, "y", 0, 0)
	f.Fuzz(func(t *testing.T, text string, a, b int, with string, c, d int) {
		x := New([]byte(text))
		want := text
		if x.Replace(a, b, with) {
			want = text[:a] + with + text[b:]
		}
		if got := string(x.Bytes()); got != want {
			t.Fatalf("got %q, want %q", got, want)
		}
		before := len(x.Bytes())
		if x.Replace(c, d, "") && len(x.Bytes()) != before-(d-c) {
			t.Fatal("an empty replacement adds bytes")
		}
	})
}

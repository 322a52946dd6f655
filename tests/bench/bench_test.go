package bench

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"
)

// A row that is measured again takes the place of the older one; all others,
// with what is noted of them, stay.
func TestResultsAreKept(t *testing.T) {
	side := func(context.Context, string) (Took, error) { return Took{Memory: 5 << 20}, nil }
	works := []Work{
		{Name: "one", Ours: side, Peer: side, PeerName: "theirs", Limit: 0.5, Note: func() string { return "a: note" }},
		{Name: "two", Ours: side, Memory: true, AtMost: 256, Note: func() string { return "another" }},
		{Name: "three", Ours: side, Floor: side, FloorName: "floor"},
	}
	row := func(i int, ours, peer float64) Row {
		return Row{Work: works[i], OurValue: Value{ours, ours}, PeerValue: Value{peer, peer}, FloorValue: Value{peer, peer}}
	}
	first := readResults("")
	first.add(row(0, 1, 4))
	first.add(row(1, 10, 0))
	then := readResults(first.text(works))
	then.add(row(1, 20, 0))
	then.add(row(2, 3, 1))
	got := then.text(works)
	for _, want := range []string{
		"| one | 1.00 s (CPU 1.00) | theirs 4.00 s (CPU 4.00) | 0.250 × | 0.250 × | ≤ 0.50 × | – |\n| two | 20.00 MiB | – | – | – | ≤ 256 MiB | – |\n| three |",
		"\none: a: note\n", "\ntwo: another\n",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in\n%s", want, got)
		}
	}
	if strings.Count(got, "| two |") != 1 {
		t.Errorf("two rows of one work:\n%s", got)
	}
}

// The floor that alone is above the figure is told as that.
func TestFloorAboveTheFigure(t *testing.T) {
	side := func(context.Context, string) (Took, error) { return Took{}, nil }
	r := Row{Work: Work{Peer: side, Floor: side, FloorName: "alone", Limit: 0.5}, PeerValue: Value{Main: 2}, FloorValue: Value{Main: 1.5}}
	if got := r.limit(); !strings.Contains(got, "0.75 × the peer, above") {
		t.Error(got)
	}
	r.FloorValue.Main = 0.9
	if got := r.limit(); strings.Contains(got, "above") {
		t.Error(got)
	}
}

// A work that fails does not keep the others from being measured.
func TestAFailureIsToldAtTheEnd(t *testing.T) {
	broken := errors.New("broken")
	side := func(err error) Side { return func(context.Context, string) (Took, error) { return Took{}, err } }
	works := []Work{{Name: "bad", Ours: side(broken)}, {Name: "good", Ours: side(nil)}, {Name: "other", Ours: side(nil)}}
	var done []string
	err := measureAll(t.Context(), io.Discard, works, "bad, GOOD", 1, func(r Row) error { done = append(done, r.Name); return nil })
	if !errors.Is(err, broken) || len(done) != 1 || done[0] != "good" {
		t.Errorf("%v, %v", done, err)
	}
	if err := measureAll(t.Context(), io.Discard, works, "nothing", 1, nil); err == nil {
		t.Error("no work is no error")
	}
}

// What virt-v2v spends before it copies is its repair.
func TestTimeUntilVirtV2VCopies(t *testing.T) {
	got, err := untilCopying([]byte("[   0.0] Setting up the source: -i disk x\n[  81.2] Mapping filesystem data\n[ 183.7] Copying disk 1/1\n[ 201.0] Finishing off\n"))
	if err != nil || got != 183.7 {
		t.Errorf("got %g, %v", got, err)
	}
	if _, err := untilCopying([]byte("virt-v2v: error")); err == nil {
		t.Error("no time is no error")
	}
}

package inspect_test

import (
	"testing"

	"hyper2kvm/fixes/guest"
	"hyper2kvm/fixes/guest/guesttest"
	"hyper2kvm/fixes/inspect"
)

func TestClock(t *testing.T) {
	for _, test := range []struct{ name, content, want string }{
		{"etc/adjtime", "0.0 0 0.0\n0\nUTC\n", ""},
		{"etc/adjtime", "0.000000 1700000000 0.000000\n1700000000\nLOCAL\n", "localtime"},
		{"etc/adjtime", "0.0 0 0.0\n", ""},
		{"etc/sysconfig/clock", "ZONE=\"Europe/Berlin\"\nUTC=false\n", "localtime"},
		{"etc/sysconfig/clock", "UTC=true\n", ""},
		{"etc/sysconfig/clock", "HWCLOCK=\"--localtime\"\n", "localtime"},
		{"etc/default/rcS", "# UTC=no\nUTC=yes\n", ""},
		{"etc/default/rcS", "UTC=no\n", "localtime"},
		{"etc/conf.d/hwclock", "clock=\"local\"\n", "localtime"},
		{"etc/x", "", ""},
	} {
		tree := guesttest.Empty()
		tree.Put(test.name, []byte(test.content))
		if got := inspect.Inspect(tree, guest.Facts{}).Clock; got != test.want {
			t.Errorf("%s %q: the clock is %q, want %q", test.name, test.content, got, test.want)
		}
	}
}

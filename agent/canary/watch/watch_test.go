package watch

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestReportSurvivesItsWay(t *testing.T) {
	sent := Report{Event: Up, State: "degraded", Failed: []string{"a.service"}, Kernel: "6.1.0-50-amd64", Root: "/dev/vda1",
		Interfaces: []Interface{{Name: "ens192", MAC: "00:50:56:00:00:01", Addresses: []string{"10.0.2.50/24"}}}}
	line, err := json.Marshal(sent)
	if err != nil {
		t.Fatal(err)
	}
	for _, prefix := range []string{"", Mark, "[  OK  ] noise " + Mark} {
		got, err := Parse(append([]byte(prefix), line...))
		if err != nil || got.Kernel != sent.Kernel || got.Interfaces[0].Addresses[0] != "10.0.2.50/24" {
			t.Errorf("Parse(%q…) = %+v, %v", prefix, got, err)
		}
	}
}

func TestWhatIsNoReport(t *testing.T) {
	for _, line := range []string{"", "{", `{"event":"rooted"}`, `[]`, "login:", `{"event":"up"}` + strings.Repeat(" ", maxLine)} {
		if r, err := Parse([]byte(line)); err == nil {
			t.Errorf("Parse(%.20q) = %+v", line, r)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(`{"event":"up","state":"running"}`))
	f.Add([]byte(Mark + `{"event":"down"}`))
	f.Fuzz(func(t *testing.T, line []byte) {
		r, err := Parse(line)
		if err == nil && r.Event != Alive && r.Event != Up && r.Event != Down {
			t.Errorf("Parse(%q) let %q through", line, r.Event)
		}
	})
}

func TestPortIsFoundByName(t *testing.T) {
	dir := t.TempDir()
	for port, name := range map[string]string{"vport1p1": "org.qemu.guest_agent.0", "vport2p1": Port} {
		if err := os.Mkdir(filepath.Join(dir, port), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, port, "name"), []byte(name+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if got := findPort(dir); got != "vport2p1" {
		t.Errorf("findPort = %q", got)
	}
	if got := findPort(filepath.Join(dir, "none")); got != "" {
		t.Errorf("findPort without ports = %q", got)
	}
}

func TestRootIsTheTopmost(t *testing.T) {
	const mountinfo = `1 1 0:2 / / rw - rootfs none rw
25 1 254:1 / / rw,relatime shared:1 - ext4 /dev/vda1 rw
26 25 0:5 / /dev rw - devtmpfs udev rw
broken line
`
	if dev, fs := rootOf(strings.NewReader(mountinfo)); dev != "/dev/vda1" || fs != "ext4" {
		t.Errorf("rootOf = %q, %q", dev, fs)
	}
}

func TestListings(t *testing.T) {
	jobs := "12 dev-sdb1.device start running\n13 data.mount start waiting\n\n"
	if got := running(jobs); !slices.Equal(got, []string{"dev-sdb1.device"}) {
		t.Errorf("running = %q", got)
	}
	if got := firstFields("networking.service loaded failed failed Raise network\n", 0); !slices.Equal(got, []string{"networking.service"}) {
		t.Errorf("firstFields = %q", got)
	}
}

// TestOwnMachine holds what is read from the kernel to what is there for sure.
func TestOwnMachine(t *testing.T) {
	r := describe(t.Context(), Alive, "")
	if r.Kernel == "" || r.Uptime <= 0 || r.Root == "" {
		t.Errorf("describe = %+v", r)
	}
	for _, i := range r.Interfaces {
		if i.Name == "lo" {
			t.Error("the loopback is reported")
		}
	}
}

func TestPatienceForAddresses(t *testing.T) {
	class := t.TempDir()
	for name, state := range map[string]string{"ens192": "up", "ens224": "down"} {
		if err := os.Mkdir(filepath.Join(class, name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(class, name, "operstate"), []byte(state+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	ready := Interface{Name: "ens192", Addresses: []string{"fe80::1/64", "10.0.2.50/24"}}
	for name, test := range map[string]struct {
		list []Interface
		want time.Duration
	}{
		"has its address":                  {[]Interface{ready}, 0},
		"the other is not used":            {[]Interface{ready, {Name: "ens224"}}, 0},
		"up, and no address yet":           {[]Interface{{Name: "ens192", Addresses: []string{"fe80::1/64"}}}, addressWait},
		"not even up, as NetworkManager's": {[]Interface{{Name: "ens224"}}, linkWait},
		"no card":                          {nil, 0},
	} {
		if got := patience(test.list, class); got != test.want {
			t.Errorf("%s: patience is %v, want %v", name, got, test.want)
		}
	}
}

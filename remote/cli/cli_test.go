package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"hyper2kvm/agent/api"
	"hyper2kvm/fixes/guest"
)

// recorder is an agent that keeps the plan it was given and answers as told.
type recorder struct {
	plan   *api.Plan
	job    string
	report *api.Report
	err    error
	during func()
}

func (r *recorder) Run(_ context.Context, p *api.Plan, job string, events api.Sink) (*api.Report, error) {
	r.plan, r.job = p, job
	events.Emit(api.Event{Stage: api.Convert, Level: api.Progress, Done: 5, Total: 10})
	events.Emit(api.Event{Stage: api.Fix, Level: api.Notice, Message: "looking\x1b[2J at it"})
	events.Emit(api.Event{Stage: api.Convert, Level: api.Progress, Done: 10, Total: 10})
	if r.during != nil {
		r.during()
	}
	if r.report == nil {
		r.report = &api.Report{Version: api.Version, Name: p.Name, Status: api.Done}
	}
	return r.report, r.err
}

type outcome struct {
	code        int
	out, errOut string
}

// h2k runs a command line in a terminal where tty is set.
func h2k(ctx context.Context, t *testing.T, agent *recorder, tty bool, env map[string]string, args ...string) outcome {
	t.Helper()
	var out, errOut bytes.Buffer
	code := Main(ctx, Env{
		Args: args, Stdout: &out, Stderr: &errOut, StdoutTerminal: tty, StderrTerminal: tty,
		Getenv:     func(name string) string { return env[name] },
		Version:    "v1", // what --version shows
		Executable: filepath.Join(t.TempDir(), "bin", "h2k"),
		Agent:      func(string) api.Agent { return agent },
		CheckHost: func(context.Context, string) []api.Check {
			return []api.Check{{Name: "QEMU", Needed: true, Detail: "none", Fix: "apt-get install it"}, {Name: "KVM", OK: true, Detail: "fine"}}
		},
	})
	return outcome{code, out.String(), errOut.String()}
}

func run(t *testing.T, agent *recorder, args ...string) outcome {
	t.Helper()
	return h2k(t.Context(), t, agent, false, nil, args...)
}

func TestConvertMakesThePlanOfItsFlags(t *testing.T) {
	t.Chdir(t.TempDir())
	wd, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	r := &recorder{}
	got := run(t, r, "convert", "web.vmdk", "-o", "web.qcow2", "--validate", "--bus", "sata", "--mac", "00:50:56:AB:00:01",
		"--network", "lan", "--memory", "1024", "--skip", "linux/console", "--compress", "zstd", "--force", "--verify",
		"--initramfs", "inject", "--root", "1234", "--firmware", "uefi", "--cpus", "4", "--devices", "partuuid", "--timeout", "60",
		"--remove-tools", "--agent-package", "qga.rpm")
	if got.code != 0 {
		t.Fatalf("exit %d\n%s", got.code, got.errOut)
	}
	want := &api.Plan{
		Version: 1, Name: "web",
		Sources: []api.Source{{Path: filepath.Join(wd, "web.vmdk")}},
		Stages:  []api.Stage{api.Inspect, api.Fix, api.Convert, api.Validate},
		Machine: api.Machine{Firmware: "uefi", Memory: 1 << 30, CPUs: 4, NICs: []api.MachineNIC{{MAC: "00:50:56:ab:00:01", Network: "lan"}}},
		Fix: api.FixOptions{Skip: []string{"linux/console"}, Devices: "partuuid", Initramfs: "inject", Root: "1234",
			RemoveTools: true, AgentPackages: []string{filepath.Join(wd, "qga.rpm")}},
		Target: api.Target{Path: filepath.Join(wd, "web.qcow2"), Format: "qcow2", Compress: "zstd", Force: true, Verify: true,
			Domain: true},
		Validate: api.ValidateOptions{Buses: []string{"sata"}, Timeout: 60},
	}
	if d := cmp.Diff(want, r.plan); d != "" {
		t.Error(d)
	}
}

func TestStagesOfEachVerb(t *testing.T) {
	for args, want := range map[string]string{
		"convert a -o b --no-fix":                    "convert",
		"convert a -o b --no-fix --validate":         "convert validate",
		"convert a --dry-run":                        "inspect fix",
		"convert a -o b --dry-run --validate":        "inspect fix",
		"inspect a":                                  "inspect fix",
		"fix a --dry-run":                            "inspect fix",
		"undo a":                                     "undo",
		"validate a":                                 "validate",
		"disk info a":                                "info",
		"disk compare a b":                           "compare",
		"disk convert a -o b --format raw":           "convert",
		"disk convert a -o b --source-format raw -q": "convert",
	} {
		r := &recorder{report: &api.Report{Compare: &api.Comparison{Equal: true}}}
		if got := run(t, r, strings.Fields(args)...); got.code != 0 {
			t.Errorf("%s: exit %d\n%s", args, got.code, got.errOut)
			continue
		}
		var stages []string
		for _, s := range r.plan.Stages {
			stages = append(stages, string(s))
		}
		if got := strings.Join(stages, " "); got != want {
			t.Errorf("%s: stages %q, want %q", args, got, want)
		}
		if strings.HasPrefix(args, "inspect") && !r.plan.Fix.DryRun {
			t.Error("inspect may change something")
		}
	}
}

func TestPlanFileBelowEnvironmentBelowFlags(t *testing.T) {
	file := filepath.Join(t.TempDir(), "web.yaml")
	text := "version: 1\nname: web\nsources: [{path: /src/a.vmdk}]\nstages: [inspect, fix, convert]\n" +
		"target: {path: /out/a.img, format: raw}\nfix: {devices: label}\nmachine: {nics: [{mac: '00:50:56:00:00:01'}, {mac: '00:50:56:00:00:02'}]}\n"
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	r := &recorder{}
	env := map[string]string{"H2K_DEVICES": "partuuid", "H2K_FORMAT": "vmdk"}
	if got := h2k(t.Context(), t, r, false, env, "convert", "--plan", file, "--format", "qcow2", "--validate", "--network", "lan"); got.code != 0 {
		t.Fatalf("exit %d\n%s", got.code, got.errOut)
	}
	p := r.plan
	if p.Target.Format != "qcow2" || p.Fix.Devices != "partuuid" || p.Fix.Initramfs != "auto" || p.Target.Path != "/out/a.img" {
		t.Errorf("format %s, devices %s, initramfs %s, path %s; want qcow2 of the flag, partuuid of the environment, auto by default, the path of the file",
			p.Target.Format, p.Fix.Devices, p.Fix.Initramfs, p.Target.Path)
	}
	if len(p.Machine.NICs) != 2 || p.Machine.NICs[1].Network != "lan" || p.Machine.NICs[1].MAC == "" {
		t.Errorf("NICs %+v: want those of the file on the network of the flag", p.Machine.NICs)
	}
	if !p.Has(api.Validate) || !p.Target.Domain {
		t.Errorf("stages %v, domain %v", p.Stages, p.Target.Domain)
	}
}

func TestUsageErrors(t *testing.T) {
	t.Chdir(t.TempDir())
	plans := map[string]string{
		"inplace.yaml": "version: 1\nfix: {in_place: true}\n", "typo.yaml": "version: 1\n\nformt: raw\n",
		"order.yaml": "version: 1\nstages: [convert, fix]\n", "old.yaml": "version: 7\n",
	}
	for name, text := range plans {
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for args, want := range map[string]string{
		"convert":                                     "give the disk image",
		"convert a":                                   "-o",
		"convert a -o b --format qed":                 "qcow2, raw, vmdk",
		"convert a -o b --memory lots":                "memory",
		"convert a -o b --cpus -3":                    "cpus",
		"convert a -o b --agent-package qga.zip":      ".deb, .rpm or .apk",
		"convert a -o b --bus ide":                    "virtio-blk",
		"convert a -o b --mac 1:2":                    "00:50:56:12:34:56",
		"convert a -o b --nonsense":                   "nonsense",
		"convert a -o b --format raw --compress zlib": "only qcow2",
		"convert a -o b --variant streamOptimized":    "no other format",
		"convert a -o b --plan typo.yaml":             `line 3: unknown key "formt"`,
		"convert a -o b --plan none.yaml":             "none.yaml",
		"convert a -o b --plan inplace.yaml":          "never writes to the source",
		"convert a -o b --plan order.yaml":            "out of order",
		"convert a -o b --plan old.yaml":              "version 7",
		"fix a":                                       "--dry-run or --in-place",
		"fix a --dry-run --in-place":                  "--dry-run or --in-place",
		"fix":                                         "give the disk image",
		"disk":                                        "check, compare, convert, digest, info, map, serve",
		"disk inf a":                                  `nearest is "info"`,
		"disk info":                                   "one disk image",
		"disk compare a":                              "two disk images",
		"konvert a":                                   "unknown command",
		"-x":                                          "unknown shorthand",
		"resume a b":                                  "one output",
		"version now":                                 "no arguments",
		"image build --profile tiny":                  "helper",
	} {
		r := &recorder{}
		got := run(t, r, strings.Fields(args)...)
		if got.code != exitUsage || !strings.Contains(got.errOut, want) || !strings.Contains(got.errOut, "code: H2K-USAGE\nnext: ") {
			t.Errorf("h2k %s: exit %d, want 2 and %q\n%s", args, got.code, want, got.errOut)
		}
		if r.plan != nil || got.out != "" {
			t.Errorf("h2k %s ran or printed a result: %s", args, got.out)
		}
	}
}

func TestEveryCodeHasItsAdvice(t *testing.T) {
	f, err := parser.ParseFile(token.NewFileSet(), "../../agent/api/error.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	table := map[api.Code]advice{}
	for _, a := range advices() {
		if _, twice := table[a.code]; twice || a.next == "" {
			t.Errorf("%s: twice in the table, or without a next step", a.code)
		}
		table[a.code] = a
	}
	codes := 0
	ast.Inspect(f, func(n ast.Node) bool {
		lit, ok := n.(*ast.BasicLit)
		if !ok || lit.Kind != token.STRING {
			return true
		}
		text, err := strconv.Unquote(lit.Value)
		if err != nil || !strings.HasPrefix(text, "H2K-") {
			return true
		}
		codes++
		a, ok := table[api.Code(text)]
		if !ok {
			t.Errorf("%s has no advice", text)
		}
		refused := api.Code(text).Status() == api.Refused
		if refused != (a.exit == exitRefused) {
			t.Errorf("%s: exit code %d, but its status is %s", text, a.exit, api.Code(text).Status())
		}
		return true
	})
	if codes < 20 || codes != len(table) {
		t.Errorf("%d codes, %d in the table", codes, len(table))
	}
}

func TestErrorsForPeopleAndPrograms(t *testing.T) {
	fail := api.Errorf(api.CodeTruncated, "open source", "a.vmdk", "grain table at 7 lies\x1b[31m beyond the end")
	fail.Detail = "chain:\n  a.vmdk"
	r := &recorder{err: fail}
	got := run(t, r, "convert", "a.vmdk", "-o", "b")
	want := "error: open source a.vmdk: grain table at 7 lies·[31m beyond the end\n  chain:\n    a.vmdk\n" +
		"code: H2K-FORMAT-TRUNCATED\nnext: the copy is not complete"
	if got.code != 1 || !strings.Contains(got.errOut, want) {
		t.Errorf("exit %d\n%s\nwant\n%s", got.code, got.errOut, want)
	}
	got = run(t, r, "convert", "a.vmdk", "-o", "b", "--json")
	var report api.Report
	if err := json.Unmarshal([]byte(got.out), &report); err != nil {
		t.Fatalf("%v\n%s", err, got.out)
	}
	if report.Error == nil || report.Error.Code != api.CodeTruncated || report.Status != api.Failed {
		t.Errorf("report %+v", report)
	}
	lines := strings.Split(strings.TrimSpace(got.errOut), "\n")
	var last struct {
		Code, Next string
		Exit       int
	}
	for _, l := range lines {
		if err := json.Unmarshal([]byte(l), &last); err != nil {
			t.Fatalf("stderr has a line that is not JSON: %q", l)
		}
	}
	if last.Code != "H2K-FORMAT-TRUNCATED" || last.Exit != 1 || last.Next == "" {
		t.Errorf("last line %+v", last)
	}
}

func TestUsageErrorAsJSON(t *testing.T) {
	got := run(t, &recorder{}, "convert", "--json", "--nonsense")
	var report api.Report
	if err := json.Unmarshal([]byte(got.out), &report); err != nil || report.Error.Code != api.CodeUsage || got.code != 2 {
		t.Errorf("exit %d, %v\n%s", got.code, err, got.out)
	}
}

func TestExitCodes(t *testing.T) {
	for _, c := range []struct {
		report *api.Report
		err    error
		want   int
	}{
		{&api.Report{Status: api.Done}, nil, 0},
		{&api.Report{Status: api.Unproven, Verdicts: []api.Verdict{{Bus: "virtio-blk", State: api.Panic}}}, nil, 4},
		{nil, api.Errorf(api.CodeEncrypted, "inspect", "a", "LUKS"), 3},
		{nil, errors.New("surprise"), 1},
		{nil, api.Errorf(api.CodeInterrupted, "convert", "a", "signal"), 130},
	} {
		r := &recorder{report: c.report, err: c.err}
		if got := run(t, r, "convert", "a", "-o", "b"); got.code != c.want {
			t.Errorf("%+v, %v: exit %d, want %d", c.report, c.err, got.code, c.want)
		}
	}
	r := &recorder{report: &api.Report{Compare: &api.Comparison{Offset: 9, Detail: "first difference at byte 9"}}}
	if got := run(t, r, "disk", "compare", "a", "b"); got.code != 1 || got.out != "different: first difference at byte 9\n" {
		t.Errorf("compare: %+v", got)
	}
	if got := run(t, r, "doctor"); got.code != 1 || !strings.Contains(got.out, "apt-get install it") {
		t.Errorf("doctor: %+v", got)
	}
}

func TestInterruptSaysHowToResume(t *testing.T) {
	t.Chdir(t.TempDir())
	ctx, cancel := context.WithCancelCause(t.Context())
	r := &recorder{err: errors.New("the helper VM went away"), during: func() {
		cancel(errors.New("interrupt signal received"))
		if err := os.Mkdir("my out.qcow2.h2k-job", 0o755); err != nil {
			t.Error(err)
		}
	}}
	got := h2k(ctx, t, r, false, nil, "convert", "a", "-o", "my out.qcow2")
	if got.code != 130 || !strings.Contains(got.errOut, "next: h2k resume 'my out.qcow2.h2k-job' goes on") || !strings.Contains(got.errOut, "H2K-INTERRUPTED") {
		t.Errorf("exit %d\n%s", got.code, got.errOut)
	}
	got = h2k(ctx, t, &recorder{}, false, nil, "inspect", "a") // ended before the signal came
	if got.code != 0 {
		t.Errorf("a run that ended well: exit %d\n%s", got.code, got.errOut)
	}
}

func TestResumeGoesOnWithTheJobsPlan(t *testing.T) {
	dir := t.TempDir()
	job := filepath.Join(dir, "out.qcow2.h2k-job")
	if err := os.Mkdir(job, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(job, "plan.yaml"), []byte("version: 1\nname: x\nsources: [{path: /a}]\nstages: [convert]\ntarget: {path: /b}\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	r := &recorder{}
	if got := run(t, r, "resume", filepath.Join(dir, "out.qcow2")); got.code != 0 || r.job != job || r.plan.Name != "x" || r.plan.Target.Domain {
		t.Errorf("exit %d, job %q, plan %+v\n%s", got.code, r.job, r.plan, got.errOut)
	}
	if got := run(t, r, "resume", filepath.Join(dir, "other")); got.code != 1 || !strings.Contains(got.errOut, "H2K-JOB") {
		t.Errorf("nothing to resume: %+v", got)
	}
}

// hostile is a report whose texts come from a guest that attacks terminals.
func hostile() *api.Report {
	const bad = "x\x1b]0;owned\x07\u202egnp\x9b2J\r"
	return &api.Report{
		Status: api.Done, Warnings: []string{bad}, Accel: bad,
		Guest: &api.GuestFacts{OS: guest.OS{Name: bad}, Hostname: bad, Kernels: []guest.Kernel{{Version: bad}}, Warnings: []string{bad},
			Filesystems: []guest.Filesystem{{Volume: bad, Type: bad}}, Mounts: []guest.Mount{{Point: bad, Spec: bad, UUID: "u"}},
			NICs: []guest.NIC{{Name: bad, From: bad}}, Tools: []string{bad}, Network: []string{bad}},
		Fixes:    []api.FixReport{{ID: "linux/fstab", Why: bad, State: "planned", Diff: "-" + bad + "\n+\tgood\n", Notes: []string{bad}}},
		Verdicts: []api.Verdict{{Bus: "sata", State: api.Booted, Why: bad, FailedUnits: []string{bad}, Interfaces: []api.Interface{{Name: bad, Addresses: []string{bad}}}}},
		Disks:    []api.DiskReport{{Source: bad, Format: bad, Variant: bad, Output: bad, Info: map[string]string{"comment": bad}}},
		Outputs:  []string{bad}, Target: &api.TargetReport{Domain: bad},
	}
}

func TestGuestsTextNeverControlsTheTerminal(t *testing.T) {
	for _, args := range []string{"inspect a", "convert a -o b", "fix a --dry-run", "undo a", "validate a", "disk info a", "disk convert a -o b"} {
		for _, tty := range []bool{false, true} {
			got := h2k(t.Context(), t, &recorder{report: hostile()}, tty, map[string]string{"NO_COLOR": "1"}, strings.Fields(args)...)
			for _, bad := range []string{"\x1b]", "\x07", "\u202e", "\x9b", "\u009b", "\r"} {
				if strings.Contains(got.out, bad) {
					t.Errorf("h2k %s prints %q", args, bad)
				}
			}
			if !tty && strings.Contains(got.errOut, "\x1b") {
				t.Errorf("h2k %s prints an escape on stderr: %q", args, got.errOut)
			}
		}
	}
}

func TestDiffIsColouredForPeopleOnly(t *testing.T) {
	report := &api.Report{Status: api.Done, Fixes: []api.FixReport{{ID: "linux/fstab", State: "planned", Diff: "@@ -1 +1 @@\n-\told\n+\tnew\n"}}}
	for _, c := range []struct {
		tty    bool
		env    map[string]string
		colour bool
	}{{true, nil, true}, {true, map[string]string{"NO_COLOR": "1"}, false}, {false, nil, false}} {
		got := h2k(t.Context(), t, &recorder{report: report}, c.tty, c.env, "fix", "a", "--dry-run")
		if strings.Contains(got.out, "\x1b[32m+\tnew\x1b[0m") != c.colour {
			t.Errorf("terminal %v, %v: %q", c.tty, c.env, got.out)
		}
		if !c.colour && !strings.Contains(got.out, "  -\told\n  +\tnew\n") {
			t.Errorf("the diff lost something: %q", got.out)
		}
	}
}

type fullDisk struct{}

func (fullDisk) Write([]byte) (int, error) { return 0, errors.New("no space left on device") }

func TestResultThatCannotBePrintedIsAnError(t *testing.T) {
	var errOut bytes.Buffer
	code := Main(t.Context(), Env{
		Args: []string{"inspect", "a"}, Stdout: fullDisk{}, Stderr: &errOut, Getenv: func(string) string { return "" },
		Agent: func(string) api.Agent { return &recorder{report: hostile()} },
	})
	if code != 1 || !strings.Contains(errOut.String(), "H2K-OUTPUT") {
		t.Errorf("exit %d\n%s", code, errOut.String())
	}
}

func TestEventsFile(t *testing.T) {
	dir := t.TempDir()
	events, src := filepath.Join(dir, "e.jsonl"), filepath.Join(dir, "disk.raw")
	if err := os.WriteFile(src, []byte("precious"), 0o644); err != nil {
		t.Fatal(err)
	}
	if got := run(t, &recorder{}, "convert", src, "-o", "b", "--events", events, "--json"); got.code != 0 || got.errOut != "" {
		t.Errorf("%+v: want no events on stderr when they go to a file", got)
	}
	data, err := os.ReadFile(events)
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(string(data), "\n"); n != 3 {
		t.Errorf("%d events in the file, want 3: %s", n, data)
	}
	if got := run(t, &recorder{}, "convert", src, "-o", "b", "--events", src); got.code != 2 {
		t.Errorf("events over the source: %+v", got)
	}
	if data, _ := os.ReadFile(src); string(data) != "precious" {
		t.Error("the source was overwritten with events")
	}
	// A machine's description names disks that the command line does not.
	if got := run(t, &recorder{}, "convert", "web01.ovf", "-o", "b", "--events", src); got.code != 2 || !strings.Contains(got.errOut, "holds no events") {
		t.Errorf("events over a file that is none of events: %+v", got)
	}
	if data, _ := os.ReadFile(src); string(data) != "precious" {
		t.Error("a file that holds no events was overwritten with them")
	}
	if got := run(t, &recorder{}, "convert", src, "-o", "b", "--events", events); got.code != 0 {
		t.Errorf("events over those of the last run: %+v", got)
	}
}

func TestManPagesAndCompletion(t *testing.T) {
	dir := t.TempDir()
	if got := run(t, &recorder{}, "man", dir); got.code != 0 {
		t.Fatalf("%+v", got)
	}
	page, err := os.ReadFile(filepath.Join(dir, "h2k-disk-convert.1"))
	if err != nil || !strings.Contains(string(page), "source-format") {
		t.Errorf("no man page of h2k disk convert: %v", err)
	}
	for _, shell := range []string{"bash", "zsh", "fish"} {
		if got := run(t, &recorder{}, "completion", shell); got.code != 0 || !strings.Contains(got.out, "h2k") {
			t.Errorf("completion of %s: %+v", shell, got)
		}
	}
	if got := run(t, &recorder{}, "__complete", "convert", "a", "--compress", ""); !strings.Contains(got.out, "zstd") {
		t.Errorf("--compress is not completed: %s", got.out)
	}
}

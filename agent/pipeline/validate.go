package pipeline

import (
	"cmp"
	"context"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"hyper2kvm/agent/api"
	"hyper2kvm/agent/host"
	"hyper2kvm/agent/validate"
	"hyper2kvm/image/chain"
	"hyper2kvm/image/overlay"
)

// buses are those that a result must boot from where the plan names none: what a
// domain can have, as far as the guest's kernel has drivers.
func (r *run) buses() []string {
	both := []string{validate.VirtioBlk, validate.VirtioSCSI}
	if r.report.Guest == nil || len(r.report.Guest.BootBuses()) == 0 {
		return both
	}
	can := r.report.Guest.BootBuses()
	var out []string
	for i, bus := range []string{"virtio", "scsi"} {
		if slices.Contains(can, bus) {
			out = append(out, both[i])
		}
	}
	if len(out) == 0 {
		return []string{validate.SATA}
	}
	return out
}

const defaultBootTimeout = 10 * time.Minute

// validate boots the result once per bus, each time on an overlay that is
// thrown away. Only these overlays ever hold the canary.
func (r *run) validate(ctx context.Context) error {
	results := r.sources
	if r.plan.Has(api.Convert) {
		var err error
		if results, err = r.openOutputs(); err != nil {
			return err
		}
		defer closeAll(results)
	}
	canaries, err := r.plantCanary(ctx, results)
	defer discard(canaries)
	if err != nil {
		return err
	}
	buses := r.plan.Validate.Buses
	if len(buses) == 0 {
		buses = r.buses()
	}
	return r.bootAll(ctx, buses, canaries)
}

// bootAll boots on every bus, as many at a time as the host has room for: a
// booting guest is busy with one processor, or only waits.
func (r *run) bootAll(ctx context.Context, buses []string, canaries []*overlay.Overlay) error {
	verdicts := make([]*api.Verdict, len(buses))
	boots, ctx := errgroup.WithContext(ctx)
	boots.SetLimit(r.bootsAtATime())
	for i, bus := range buses {
		boots.Go(func() (err error) {
			verdicts[i], err = r.bootOn(ctx, bus, canaries)
			return err
		})
	}
	err := boots.Wait()
	for _, v := range verdicts {
		if v != nil {
			r.report.Verdicts = append(r.report.Verdicts, *v)
		}
	}
	return err
}

// bootsAtATime is how many guests may run side by side: one a processor, and
// only what the memory holds.
func (r *run) bootsAtATime() int {
	memory, err := host.AvailableMemory()
	if err != nil {
		return 1
	}
	return max(1, min(runtime.NumCPU(), int(memory/(r.bootMemory()+machineOverhead))))
}

// bootMemory is what a guest gets to boot with: what the machine has, but no
// more than the host has to give. A boot needs little of a large machine's.
func (r *run) bootMemory() int64 {
	want := r.plan.Machine.Memory
	if want <= validate.DefaultMemory {
		return cmp.Or(want, validate.DefaultMemory)
	}
	free, err := host.AvailableMemory()
	if err != nil {
		return validate.DefaultMemory
	}
	return max(validate.DefaultMemory, min(want, free/2))
}

// machineOverhead is what QEMU takes beside the guest's memory: translated
// code, firmware, screen.
const machineOverhead = 512 << 20

// openOutputs opens what was written, to be proven; a plan that converts nothing
// proves its sources.
func (r *run) openOutputs() ([]*chain.Chain, error) {
	var results []*chain.Chain
	for _, p := range r.outputs() {
		c, err := chain.Open(p, chain.Policy{})
		if err != nil {
			closeAll(results)
			return nil, sourceError("open", p, err)
		}
		results = append(results, c)
	}
	return results, nil
}

func closeAll(chains []*chain.Chain) {
	for _, c := range chains {
		if c != nil {
			_ = c.Close() // opened for reading only
		}
	}
}

// discard closes overlays that are about to be thrown away.
func discard(list []*overlay.Overlay) {
	for _, o := range list {
		_ = o.Close()
	}
}

// plantCanary lays an overlay over each result and has the helper VM put the
// canary there. A guest that cannot take one is judged by its console.
func (r *run) plantCanary(ctx context.Context, results []*chain.Chain) ([]*overlay.Overlay, error) {
	layers, err := layOver(r, "canary", results)
	if err != nil {
		return layers, err
	}
	sub := *r.plan
	sub.Stages = []api.Stage{api.Inspect, api.Fix}
	sub.Fix = api.FixOptions{Canary: true, Root: r.plan.Fix.Root}
	got, err := r.inHelper(ctx, layers, &sub)
	if err != nil && ctx.Err() == nil && api.AsError(err).Code.Status() == api.Refused {
		r.warn(api.Validate, "no canary in the guest, so its console decides: %v", err)
		err = nil
	}
	if got != nil && r.report.Guest == nil {
		r.report.Guest = got.Guest
	}
	return layers, err
}

// bootOn boots once.
func (r *run) bootOn(ctx context.Context, bus string, canaries []*overlay.Overlay) (*api.Verdict, error) {
	work := r.job.Path("validate", bus)
	if err := os.MkdirAll(work, 0o700); err != nil {
		return nil, api.NewError(api.CodeJob, "make folder", work, err)
	}
	layers, err := layOver(r, bus, canaries)
	defer discard(layers)
	if err != nil {
		return nil, err
	}
	r.notice(api.Validate, "booting on %s", bus)
	v, err := r.boot(ctx, bus, work, layers)
	if err != nil {
		return nil, helperError("boot on "+bus, err)
	}
	if err := r.keepEvidence(&v); err != nil {
		return nil, err
	}
	r.notice(api.Validate, "%s: %s: %s", bus, v.State, v.Why)
	return &v, nil
}

func (r *run) boot(ctx context.Context, bus, work string, layers []*overlay.Overlay) (api.Verdict, error) {
	served, err := r.serve(ctx, layers)
	if err != nil {
		return api.Verdict{}, err
	}
	cfg := r.bootConfig(bus, work)
	for i, socket := range served.sockets {
		cfg.Disks = append(cfg.Disks, validate.Disk{Socket: socket, Sector: r.sources[i].SectorSize()})
	}
	v, err := validate.Boot(ctx, cfg)
	// A disk that failed under the guest says nothing about the guest.
	if e := served.stop(); e != nil {
		return v, outputError("boot on "+bus, r.plan.Sources[0].Path, e)
	}
	return v, err
}

func (r *run) bootConfig(bus, work string) validate.Config {
	cfg := validate.Config{
		Bus: bus, WorkDir: work, Firmware: r.firmware(), NICs: r.macs(),
		Memory: r.bootMemory(), CPUs: min(r.plan.Machine.CPUs, max(2, runtime.NumCPU())), BootDisk: r.bootDisk(),
		Timeout:  time.Duration(r.plan.Validate.Timeout) * time.Second,
		Progress: func(line string) { r.notice(api.Validate, "%s: %s", bus, line) },
	}
	if g := r.report.Guest; g != nil {
		cfg.Machine, cfg.NICModel = g.Needs.Machine, validateNIC(g.Needs.NIC)
	}
	for _, k := range r.keys {
		cfg.Keys = append(cfg.Keys, k.Value)
	}
	if cfg.Timeout == 0 {
		cfg.Timeout = defaultBootTimeout
	}
	return cfg
}

// firmware is what the plan says, else what inspection found.
func (r *run) firmware() string {
	if f := r.plan.Machine.Firmware; f != "" {
		return f
	}
	if r.report.Guest != nil && r.report.Guest.Firmware != "" {
		return r.report.Guest.Firmware
	}
	return "bios"
}

// macs are the MAC addresses of the target machine's NICs that are known.
func (r *run) macs() []string {
	var out []string
	for _, n := range r.nics() {
		if n.MAC != "" {
			out = append(out, n.MAC)
		}
	}
	return out
}

// keepEvidence moves console text and screenshot out of the job folder.
func (r *run) keepEvidence(v *api.Verdict) error {
	var err error
	if v.Console, err = r.keepFile(v.Console, v.Bus+".console.txt"); err != nil {
		return err
	}
	v.Screenshot, err = r.keepFile(v.Screenshot, v.Bus+".png")
	return err
}

func (r *run) keepFile(from, suffix string) (string, error) {
	to := ""
	switch {
	case from == "":
		return "", nil
	case r.plan.Validate.Evidence != "":
		to = filepath.Join(r.plan.Validate.Evidence, baseName(r.plan.Sources[0].Path)+"."+suffix)
	case r.plan.Has(api.Convert):
		to = r.beside("." + suffix)
	default:
		return "", nil
	}
	data, err := os.ReadFile(from)
	if err == nil {
		err = os.WriteFile(to, data, 0o644)
	}
	if err != nil {
		return "", api.NewError(api.CodeOutput, "keep evidence in", to, err)
	}
	return to, nil
}

// Package helper runs the helper VM: QEMU without any network, with the disks
// of a guest attached, and our agent in it, reached by SSH over a virtio-serial
// port. A guest's file systems and programs are touched in there only.
package helper

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"hyper2kvm/agent/api"
	"hyper2kvm/agent/qemu"
	"hyper2kvm/agent/secret"
	"hyper2kvm/agent/server"
	"hyper2kvm/initramfs"
)

// Disk is a disk to attach: an export of an NBD server on a unix socket.
type Disk struct {
	Socket, Export string
	ReadOnly       bool
	Sector         int64 // logical sector size in bytes, 0 is 512
}

// Config says what to run.
type Config struct {
	// ImageDir holds what buildimage made.
	ImageDir string
	Disks    []Disk
	// Memory is in bytes, 0 is DefaultMemory, or SmallMemory without KVM.
	Memory int64
	// Unlocks says that encrypted volumes will be opened, which takes memory.
	Unlocks bool
	// CPUs is the number of processors, 0 is DefaultCPUs.
	CPUs int
	// Accel is the accelerator, nil lets qemu.Accelerator choose.
	Accel *qemu.Accel
	// Console gets all that the machine writes on its console, nil drops it.
	Console io.Writer
	// StartTimeout bounds the time until the agent answers, 0 is
	// DefaultStartTimeout.
	StartTimeout time.Duration
	// Debug has the agent log on the console.
	Debug bool
}

// Defaults of Config. Memory leaves room for a checker of a large file system
// and for the programs of a guest. Without KVM the kernel takes 0.2 s for each
// half GiB before its first line, so there it is less.
const (
	DefaultMemory = 1 << 30
	SmallMemory   = 512 << 20
	// UnlockMemory comes on top: Argon2, which protects the keys of LUKS2, is
	// given up to 1 GiB when a volume is made (cryptsetup's default,
	// --pbkdf-memory) and takes as much to open it. It is touched only then.
	UnlockMemory        = 1 << 30
	DefaultCPUs         = 1
	DefaultStartTimeout = 3 * time.Minute
)

const (
	// stopTimeout is how long the agent may take to write everything to the
	// disks and to power off.
	stopTimeout = time.Minute
	// pingInterval and pingTimeout say how often a run asks whether the machine
	// still answers, and how long it may stay silent. A busy host without KVM
	// is slow, but not that slow.
	pingInterval = 20 * time.Second
	pingTimeout  = 3 * time.Minute
)

// VM is a running helper VM.
type VM struct {
	cfg    Config
	accel  qemu.Accel
	qemu   *qemu.VM
	client *server.Client
}

// Start starts the machine and returns when its agent answers. Nothing is left
// of it when that fails, when Close has returned, or when this process ends.
func Start(ctx context.Context, cfg Config) (*VM, error) {
	if cfg.StartTimeout == 0 {
		cfg.StartTimeout = DefaultStartTimeout
	}
	files, err := findImage(cfg.ImageDir)
	if err != nil {
		return nil, err
	}
	keys, err := newKeys()
	if err != nil {
		return nil, api.NewError(api.CodeHelper, "make keys for", "helper VM", err)
	}
	v := &VM{cfg: cfg}
	if cfg.Accel != nil {
		v.accel = *cfg.Accel
	} else if v.accel, err = qemu.Accelerator(ctx); err != nil {
		return nil, api.NewError(api.CodeHost, "choose accelerator for", "helper VM", err)
	}
	v.qemu, err = qemu.Start(ctx, machine(cfg, v.accel, files, keys))
	if err != nil {
		return nil, failure("start", err)
	}
	if err := v.greet(ctx, keys); err != nil {
		return nil, errors.Join(err, v.qemu.Close())
	}
	return v, nil
}

// greet waits for the agent. It answers, or the machine ends, or the time does.
func (v *VM) greet(ctx context.Context, k *keys) error {
	ctx, cancel := context.WithTimeoutCause(ctx, v.cfg.StartTimeout,
		fmt.Errorf("the agent does not answer within %v", v.cfg.StartTimeout))
	defer cancel()
	port := v.qemu.Channel(initramfs.Port)
	stop := context.AfterFunc(ctx, func() { port.Close() })
	defer stop()
	client, err := server.Dial(port, k.host.PublicKey(), k.client)
	if err == nil {
		v.client = client
		return nil
	}
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return v.failure("start", err)
}

// failure describes what went wrong with the machine's last words.
func (v *VM) failure(action string, cause error) *api.Error {
	return failure(action, v.qemu.Failure("helper VM", v.because(cause)))
}

// because puts the agent's own reason, where it gave one, before the cause.
func (v *VM) because(cause error) error {
	_, reason, found := strings.Cut(v.qemu.Console(), initramfs.LineFailed)
	if !found {
		return cause
	}
	line, _, _ := strings.Cut(reason, "\n")
	return fmt.Errorf("agent: %s: %w", strings.TrimSpace(line), cause)
}

func failure(action string, err error) *api.Error {
	e, ok := errors.AsType[*qemu.Error](err)
	if !ok {
		return api.NewError(api.CodeHelper, action, "helper VM", err)
	}
	out := api.NewError(api.CodeHelper, action, "helper VM", e.Cause)
	out.Detail = e.Detail()
	return out
}

// Accel is the accelerator in use, and why.
func (v *VM) Accel() qemu.Accel { return v.accel }

// Device is the path of disk number i inside the machine, for plans.
func (v *VM) Device(i int) string { return initramfs.DiskPath(i) }

// Console is what the machine wrote last on its console.
func (v *VM) Console() string { return v.qemu.Console() }

// PID is the process id of QEMU.
func (v *VM) PID() int { return v.qemu.PID() }

// GiveKeys hands the keys of encrypted volumes to the agent, for the runs that
// follow.
func (v *VM) GiveKeys(ctx context.Context, keys []secret.Key) error {
	if err := v.client.GiveKeys(ctx, keys); err != nil {
		return v.failure("give keys to", err)
	}
	return nil
}

// Agent runs plans in the machine, on the devices that Device names.
func (v *VM) Agent() api.Agent { return agent{v} }

type agent struct{ vm *VM }

// Run implements api.Agent. A machine that dies or falls silent ends the run.
func (a agent) Run(ctx context.Context, plan *api.Plan, job string, events api.Sink) (*api.Report, error) {
	v := a.vm
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		v.watch(ctx, cancel)
	}()
	report, err := v.client.Run(ctx, plan, job, events)
	if err != nil && ctx.Err() != nil {
		err = fmt.Errorf("%w: %w", context.Cause(ctx), err)
	}
	cancel(nil)
	<-watched
	if err == nil {
		return report, nil
	}
	if e, ok := errors.AsType[*api.Error](err); ok {
		return report, e // the agent's own
	}
	return report, v.failure("run plan in", err)
}

// watch ends a run when the machine ends or does not answer any more.
func (v *VM) watch(ctx context.Context, end context.CancelCauseFunc) {
	tick := time.NewTicker(pingInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-v.qemu.Done():
			end(qemu.ErrExited)
			return
		case <-tick.C:
			ping, cancel := context.WithTimeout(ctx, pingTimeout)
			_, err := v.client.Version(ping)
			cancel()
			if err != nil && ctx.Err() == nil {
				end(fmt.Errorf("the agent does not answer any more: %w", err))
				return
			}
		}
	}
}

// Close asks the agent to write everything to the disks and to power off, waits
// for that, and kills the machine if it does not within a minute.
func (v *VM) Close() error {
	// Cleanup goes on after the caller's context has ended; the machine itself
	// is killed then.
	ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
	defer cancel()
	var err error
	if e := v.client.PowerOff(ctx); e != nil {
		err = v.failure("power off", e)
	}
	// The agent ends the machine when we have left. What leaving says, where
	// the machine is gone already, is no news.
	_ = v.client.Close()
	if err == nil {
		select {
		case <-v.qemu.Done():
		case <-ctx.Done():
			err = v.failure("power off", fmt.Errorf("it goes on for %v", stopTimeout))
		}
	}
	if e := v.qemu.Close(); e != nil {
		err = errors.Join(err, failure("close", e))
	}
	return err
}

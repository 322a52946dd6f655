// Package helper runs the helper VM: a machine without network in which a
// guest's disks are inspected and repaired, so that this host never mounts a
// guest's file system nor runs a guest's program.
//
// Disks come in over NBD on unix sockets, SSH over a virtio-serial port; the
// keys of both sides are made for the run and handed in through fw_cfg.
package helper

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"hyper2kvm/agent/api"
	"hyper2kvm/agent/qemu"
	"hyper2kvm/agent/server"
	"hyper2kvm/initramfs"
)

// The limits of a run.
const (
	// defaultMemory leaves room for a file system check and a chroot.
	defaultMemory = 512 << 20
	// readyTimeout bounds the time from QEMU's start to the agent's greeting.
	// Under TCG on a busy host it is some 5 s.
	readyTimeout = 90 * time.Second
	// closeTimeout bounds how long the agent may take to sync and power off.
	closeTimeout = 20 * time.Second
)

// Disk is a disk to attach: an export of an NBD server on a unix socket.
type Disk struct {
	Socket, Export string
	ReadOnly       bool
}

// Config says which machine to start.
type Config struct {
	// ImageDir holds vmlinuz, initramfs.img and tools.img.
	ImageDir string
	Disks    []Disk
	Memory   int64 // bytes; 0 is 512 MiB
	// Accel is the accelerator; the zero value chooses one.
	Accel qemu.Accel
	// Console gets what the machine says, nil drops it.
	Console io.Writer
}

// VM is a helper VM whose agent answers.
type VM struct {
	machine *qemu.VM
	client  *server.Client
	accel   qemu.Accel
	// after is the context of taking the machine down, which goes on when the
	// run it belongs to was cancelled.
	after context.Context
}

// image names the files of the helper image.
func image() []string { return []string{"vmlinuz", "initramfs.img", "tools.img"} }

// Start starts the VM and returns when its agent answers. On an error nothing
// is left running and no file is left.
func Start(ctx context.Context, cfg Config) (*VM, error) {
	if err := checkImage(cfg.ImageDir); err != nil {
		return nil, err
	}
	if cfg.Accel.Name == "" {
		accel, err := qemu.Accelerator(ctx)
		if err != nil {
			return nil, api.NewError(api.CodeHost, "choose accelerator", "", err)
		}
		cfg.Accel = accel
	}
	keys, err := newKeys()
	if err != nil {
		return nil, api.NewError(api.CodeHelper, "make keys for helper VM", "", err)
	}
	dir, err := keys.write(len(cfg.Disks))
	if err != nil {
		return nil, api.NewError(api.CodeHelper, "hand keys to helper VM", "", err)
	}
	// QEMU has read the keys when its monitor answers.
	defer os.RemoveAll(dir)
	machine, err := qemu.Start(ctx, qemu.Config{
		Accel: cfg.Accel, Args: cfg.args(dir), Console: cfg.Console, Channels: []string{portID},
	})
	if err != nil {
		return nil, vmError("start", err)
	}
	vm := &VM{machine: machine, accel: cfg.Accel, after: context.WithoutCancel(ctx)}
	if err := vm.greet(ctx, keys); err != nil {
		return nil, errors.Join(err, machine.Close())
	}
	return vm, nil
}

func checkImage(dir string) error {
	for _, name := range image() {
		if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
			return api.NewError(api.CodeHelperImage, "find helper image", dir, err)
		}
	}
	return nil
}

// greet waits for the agent and makes sure that it is ours.
func (v *VM) greet(ctx context.Context, keys *keys) error {
	ctx, cancel := context.WithTimeoutCause(ctx, readyTimeout, fmt.Errorf("no answer within %v", readyTimeout))
	defer cancel()
	type answer struct {
		client *server.Client
		err    error
	}
	port := v.machine.Channel(portID)
	answers := make(chan answer, 1)
	go func() {
		c, err := server.Dial(port, keys.host.PublicKey(), keys.client)
		answers <- answer{c, err}
	}()
	var err error
	select {
	case a := <-answers:
		if a.err == nil {
			v.client = a.client
			return nil
		}
		err = a.err
	case <-v.machine.Done():
		err = errors.New("the machine ended")
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	port.Close() // ends the goroutine
	return vmError("talk to the agent of", v.machine.Failure("greet the agent", err))
}

// vmError gives a failure of the machine its code and its last words.
func vmError(action string, err error) error {
	e := api.NewError(api.CodeHelper, action, "the helper VM", err)
	if f, ok := errors.AsType[*qemu.Error](err); ok {
		e.Detail = f.Detail()
	}
	return e
}

// Accel is the accelerator that the VM runs with, and why.
func (v *VM) Accel() qemu.Accel { return v.accel }

// Device is the path in the VM of disk i.
func (v *VM) Device(i int) string { return initramfs.DiskPath(i) }

// Agent is the agent in the VM.
func (v *VM) Agent() api.Agent { return agent{v} }

// agent is the client that explains a broken connection by what the machine
// said last.
type agent struct{ vm *VM }

// Run implements api.Agent.
func (a agent) Run(ctx context.Context, plan *api.Plan, job string, events api.Sink) (*api.Report, error) {
	type answer struct {
		report *api.Report
		err    error
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	answers := make(chan answer, 1)
	go func() {
		r, err := a.vm.client.Run(ctx, plan, job, events)
		answers <- answer{r, err}
	}()
	var got answer
	select {
	case got = <-answers:
	case <-a.vm.machine.Done():
		a.vm.client.Close()
		got = <-answers
	}
	if _, coded := errors.AsType[*api.Error](got.err); got.err == nil || coded || ctx.Err() != nil {
		return got.report, got.err
	}
	return got.report, vmError("work in", a.vm.machine.Failure("run the plan", got.err))
}

// Close has the agent write everything out and power off, and makes sure that
// the machine ends.
func (v *VM) Close() error {
	ctx, cancel := context.WithTimeout(v.after, closeTimeout)
	defer cancel()
	err := v.client.PowerOff(ctx)
	if err == nil {
		select {
		case <-v.machine.Done():
		case <-ctx.Done():
			err = v.machine.Failure("power off", context.Cause(ctx))
		}
	}
	_ = v.client.Close() // it ended with the machine
	if e := v.machine.Close(); err == nil {
		err = e
	}
	if err != nil {
		return vmError("end", err)
	}
	return nil
}

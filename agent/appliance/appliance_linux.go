// Package appliance is the agent as the helper VM's process 1: it brings the
// machine up, serves the API to the host, and ends the machine when the host leaves.
package appliance

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/ssh"

	"hyper2kvm/agent/api"
	"hyper2kvm/agent/repair"
	"hyper2kvm/agent/secret"
	"hyper2kvm/agent/server"
	"hyper2kvm/initramfs"
)

// debugWord on the kernel's command line has the agent log on the console.
const debugWord = "h2k.debug"

// Main is the program. As modprobe it serves the kernel; as process 1 it ends
// only with the machine.
func Main(ctx context.Context, args []string) error {
	if filepath.Base(args[0]) == filepath.Base(initramfs.Modprobe) {
		return initramfs.ServeModprobe(args[1:])
	}
	if os.Getpid() != 1 {
		return errors.New("h2k-agent is process 1 of the helper VM; it does not run elsewhere yet")
	}
	if err := serve(ctx); err != nil {
		initramfs.Say(initramfs.LineFailed + err.Error())
	}
	return initramfs.End()
}

// serve serves one connection on the port to the host.
func serve(ctx context.Context) error {
	machine, err := initramfs.BringUp()
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	var reaper sync.WaitGroup
	reaper.Go(func() { initramfs.Reap(ctx) })
	defer reaper.Wait()
	defer stop()

	hostKey, err := ssh.ParsePrivateKey(machine.HostKey)
	if err != nil {
		return fmt.Errorf("read host key: %w", err)
	}
	client, _, _, _, err := ssh.ParseAuthorizedKey(machine.ClientKey)
	if err != nil {
		return fmt.Errorf("read client key: %w", err)
	}
	runs := &agent{disks: sync.OnceValue(machine.Disks), log: logger()}
	var asked atomic.Bool
	initramfs.Say(initramfs.LineReady)
	err = server.Serve(ctx, machine.Port, server.Config{
		HostKey: hostKey, Clients: []ssh.PublicKey{client},
		Agent: runs, Keys: runs.take,
		PowerOff: func() {
			initramfs.Sync()
			asked.Store(true)
			time.AfterFunc(leaveTimeout, stop)
		},
	})
	if asked.Load() {
		return nil // the client has left, as it should
	}
	return err
}

// leaveTimeout is how long a client that asked for the end may take to leave:
// were the machine gone at once, the answer might never reach it.
const leaveTimeout = 3 * time.Second

func logger() *slog.Logger {
	words, err := os.ReadFile("/proc/cmdline")
	if err != nil || !strings.Contains(string(words), debugWord) {
		return nil
	}
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// agent runs plans with what this machine carries.
type agent struct {
	disks func() error
	log   *slog.Logger

	mu   sync.Mutex
	keys []secret.Key
}

// take keeps keys for the runs that follow.
func (a *agent) take(keys []secret.Key) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.keys = keys
}

func (a *agent) given() []secret.Key {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.keys
}

// Run implements api.Agent.
func (a *agent) Run(ctx context.Context, plan *api.Plan, job string, events api.Sink) (*api.Report, error) {
	if err := a.disks(); err != nil {
		return nil, api.NewError(api.CodeHelper, "attach disks", "", err)
	}
	here := *plan
	here.Sources = nil
	for _, s := range plan.Sources {
		// Names of partitions are made from the kernel's own name of a disk.
		node, err := filepath.EvalSymlinks(s.Path)
		if err != nil {
			return nil, api.NewError(api.CodeSourceMissing, "find disk", s.Path, err)
		}
		s.Path = node
		here.Sources = append(here.Sources, s)
	}
	tools, err := initramfs.OpenTools()
	if err != nil {
		return nil, api.NewError(api.CodeHelperImage, "open", "tools.img", err)
	}
	defer tools.Close()
	if plan.Fix.Canary {
		if err := tools.Need(filepath.Base(initramfs.CanaryPath)); err != nil {
			return nil, api.NewError(api.CodeHelperImage, "unpack", initramfs.CanaryPath, err)
		}
	}
	return repair.New(repair.Config{
		Need: tools.Need, Canary: "/" + initramfs.CanaryPath, Keys: a.given(), Log: a.log,
	}).Run(ctx, &here, job, events)
}

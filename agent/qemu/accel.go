package qemu

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// AccelEnv is the environment variable that forces an accelerator.
const AccelEnv = "H2K_ACCEL"

// The accelerators.
const (
	KVM = "kvm"
	TCG = "tcg"
)

// Accel is the accelerator to use, and why that one.
type Accel struct {
	Name string // KVM or TCG
	Why  string
}

// String is one line for the user.
func (a Accel) String() string { return fmt.Sprintf("%s (%s)", a.Name, a.Why) }

// CPU is QEMU's -cpu for this accelerator: all that it can give.
func (a Accel) CPU() string {
	if a.Name == KVM {
		return "host"
	}
	return "max"
}

func (a Accel) arg() string {
	if a.Name == KVM {
		return KVM
	}
	// Two threads' worth of translated code at most: QEMU's default is a
	// quarter of the host's memory.
	return "tcg,tb-size=256"
}

const (
	kvmDevice = "/dev/kvm"
	// probeTimeout is how long the proof may take. A working KVM needs about
	// 0.1 s, nearly all of it QEMU's own start.
	probeTimeout = 3 * time.Second
	// probeBurnt is the processor time, in seconds, after which a guest that has
	// not answered is too slow to use, and not just waiting for its turn on a
	// busy host.
	probeBurnt = 1.0
	// probeExit is QEMU's exit status when the probe guest writes 0x15 to the
	// isa-debug-exit device: (0x15 << 1) | 1.
	probeExit = 43
)

// Accelerator chooses the accelerator: the one that H2K_ACCEL names, else KVM
// if a small guest proves it here and now, else TCG.
func Accelerator(ctx context.Context) (Accel, error) {
	forced := os.Getenv(AccelEnv)
	switch forced {
	case KVM, TCG:
		return Accel{forced, AccelEnv + " says so"}, nil
	case "":
	default:
		return Accel{}, fmt.Errorf("%s=%s: neither %s nor %s", AccelEnv, forced, KVM, TCG)
	}
	path, err := exec.LookPath(DefaultProgram)
	if err != nil {
		return Accel{}, fmt.Errorf("find QEMU: %w", err)
	}
	return newVerdictStore(path).accelerator(ctx, path)
}

func (s verdictStore) accelerator(ctx context.Context, program string) (Accel, error) {
	f, err := os.OpenFile(kvmDevice, os.O_RDWR, 0)
	if err != nil {
		return Accel{TCG, reason(err)}, nil
	}
	if err := f.Close(); err != nil {
		return Accel{TCG, reason(err)}, nil
	}
	if why := s.recall(); why != "" {
		return Accel{TCG, why}, nil
	}
	why, lasting, err := disproveKVM(ctx, program, KVM)
	if err != nil {
		return Accel{}, err
	}
	if why == "" {
		return Accel{KVM, "a test guest ran"}, nil
	}
	if lasting {
		s.remember(why)
	}
	return Accel{TCG, why}, nil
}

func reason(err error) string {
	if errors.Is(err, os.ErrNotExist) {
		return "there is no " + kvmDevice
	}
	return err.Error()
}

// disproveKVM runs the probe guest. why is "" when it ran to its end; lasting
// says that another try would end the same way.
func disproveKVM(ctx context.Context, program, accel string) (why string, lasting bool, err error) {
	firmware, err := memoryFile("probe")
	if err != nil {
		return "", false, err
	}
	defer firmware.Close()
	if _, err := firmware.Write(probeFirmware()); err != nil {
		return "", false, fmt.Errorf("write probe guest: %w", err)
	}
	said := newTail(tailBytes)
	cmd := exec.Command(program, "-nodefaults", "-no-user-config", "-display", "none", "-M", "pc", "-m", "16",
		"-accel", accel, "-bios", fmt.Sprintf("/proc/self/fd/%d", firstFD),
		"-device", "isa-debug-exit,iobase=0xf4,iosize=0x04")
	cmd.ExtraFiles, cmd.Stderr = []*os.File{firmware}, said
	c, err := spawn(cmd)
	if err != nil {
		return "", false, fmt.Errorf("start probe guest: %w", err)
	}
	select {
	case <-c.done:
	case <-ctx.Done():
	case <-time.After(probeTimeout):
	}
	running := true
	select {
	case <-c.done:
		running = false
	default:
	}
	c.kill()
	<-c.done
	switch {
	case ctx.Err() != nil:
		return "", false, fmt.Errorf("probe KVM: %w", ctx.Err())
	case running:
		return fmt.Sprintf("%s opens but a test guest does not finish within %v", kvmDevice, probeTimeout),
			c.cpuSeconds() >= probeBurnt, nil
	case cmd.ProcessState.ExitCode() == probeExit:
		return "", false, nil
	}
	return fmt.Sprintf("%s opens but QEMU cannot use it: %s", kvmDevice, lastLine(said.String())), false, nil
}

// probeFirmware is a machine's whole firmware: it enters protected mode, counts
// to 20 million and ends QEMU. KVM does that in some 10 ms; where the host's
// own hypervisor only emulates nested guests, instruction by instruction, real
// mode seems to work but this takes minutes, and a kernel would never start.
func probeFirmware() []byte {
	// The last 64 KiB below 4 GiB, where x86 starts at offset 0xfff0 (Intel
	// SDM volume 3, "First Instruction Executed").
	image := make([]byte, 64<<10)
	copy(image, []byte{
		0xfa,                                     // 00 cli
		0x2e, 0x66, 0x0f, 0x01, 0x16, 0x38, 0x00, // 01 lgdtl %cs:0x38
		0x0f, 0x20, 0xc0, // 08 mov %cr0, %eax
		0x0c, 0x01, // 0b or $1, %al: protection enable
		0x0f, 0x22, 0xc0, // 0d mov %eax, %cr0
		0x66, 0xea, 0x18, 0x00, 0xff, 0xff, 0x08, 0x00, // 10 ljmpl $8, $0xffff0018
		0xb9, 0x00, 0x2d, 0x31, 0x01, // 18 mov $20000000, %ecx
		0x49,       // 1d dec %ecx
		0x75, 0xfd, // 1e jnz 1d
		0xb0, 0x15, // 20 mov $0x15, %al
		0xe6, 0xf4, // 22 out %al, $0xf4
		0xf4,       // 24 hlt
		0xeb, 0xfd, // 25 jmp 24
	})
	// 28: the descriptor table: none, and flat 32-bit code.
	copy(image[0x30:], []byte{0xff, 0xff, 0x00, 0x00, 0x00, 0x9b, 0xcf, 0x00})
	// 38: its limit and address.
	copy(image[0x38:], []byte{0x0f, 0x00, 0x28, 0x00, 0xff, 0xff})
	copy(image[0xfff0:], []byte{0xe9, 0x0d, 0x00}) // jmp to offset 0
	return image
}

// verdictStore remembers, until the next boot, that KVM does not work: finding
// out takes seconds. That it works is proven anew each time.
type verdictStore struct {
	path string // "" remembers nothing
	key  string // what the verdict depends on
}

func newVerdictStore(program string) verdictStore {
	dir, err := os.UserCacheDir()
	if err != nil {
		return verdictStore{}
	}
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return verdictStore{}
	}
	kernel, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		return verdictStore{}
	}
	fi, err := os.Stat(program)
	if err != nil {
		return verdictStore{}
	}
	key := strings.Join([]string{
		strings.TrimSpace(string(boot)), strings.TrimSpace(string(kernel)),
		program, fmt.Sprint(fi.Size(), fi.ModTime().UnixNano()),
	}, " ")
	return verdictStore{path: filepath.Join(dir, "hyper2kvm", "kvm-verdict"), key: key}
}

func (s verdictStore) recall() string {
	if s.path == "" {
		return ""
	}
	text, err := os.ReadFile(s.path)
	if err != nil {
		return ""
	}
	key, why, ok := strings.Cut(string(text), "\n")
	if !ok || key != s.key {
		return ""
	}
	return strings.TrimSpace(why)
}

// remember is a convenience: where it cannot write, the next run probes again.
func (s verdictStore) remember(why string) {
	if s.path == "" || os.MkdirAll(filepath.Dir(s.path), 0o755) != nil {
		return
	}
	temp := fmt.Sprintf("%s.%d", s.path, os.Getpid())
	if os.WriteFile(temp, []byte(s.key+"\n"+why+"\n"), 0o644) != nil || os.Rename(temp, s.path) != nil {
		_ = os.Remove(temp)
	}
}

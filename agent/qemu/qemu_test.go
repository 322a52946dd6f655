package qemu

import (
	"bytes"
	"context"
	"errors"
	"image/png"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// orphanEnv makes the test binary start a machine, print its process id and
// wait to be killed.
const orphanEnv = "H2K_TEST_ORPHAN_FIRMWARE"

func TestMain(m *testing.M) {
	if firmware := os.Getenv(orphanEnv); firmware != "" {
		vm, err := Start(context.Background(), talker(firmware))
		if err != nil {
			panic(err)
		}
		os.Stdout.WriteString(strconv.Itoa(vm.PID()) + "\n")
		select {}
	}
	os.Exit(m.Run())
}

// speaker is firmware that prints "hello" on the first serial port and halts.
func speaker(t *testing.T) string {
	t.Helper()
	image := make([]byte, 64<<10)
	copy(image, []byte{
		0xba, 0xf8, 0x03, // 00 mov $0x3f8, %dx
		0xbe, 0x20, 0x00, // 03 mov $0x20, %si
		0x2e, 0xac, // 06 lodsb %cs:(%si)
		0x84, 0xc0, // 08 test %al, %al
		0x74, 0x03, // 0a jz 0f
		0xee,       // 0c out %al, %dx
		0xeb, 0xf7, // 0d jmp 06
		0xf4,       // 0f hlt
		0xeb, 0xfd, // 10 jmp 0f
	})
	copy(image[0x20:], "hello\n\x00")
	copy(image[0xfff0:], []byte{0xe9, 0x0d, 0x00})
	path := filepath.Join(t.TempDir(), "firmware")
	if err := os.WriteFile(path, image, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func talker(firmware string) Config {
	return Config{Args: []string{"-M", "pc", "-m", "16", "-bios", firmware, "-serial", "chardev:" + ConsoleID}}
}

func needQEMU(t *testing.T) {
	t.Helper()
	if _, err := exec.LookPath(DefaultProgram); err != nil {
		t.Skip("install qemu-system-x86:", err)
	}
}

// syncBuffer is a buffer that a machine's goroutines may write to.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

func waitFor(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s: not within 20 s", what)
		}
	}
}

func gone(pid int) bool { return errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) }

func TestConsoleEventsAndClose(t *testing.T) {
	needQEMU(t)
	var console, events syncBuffer
	cfg := talker(speaker(t))
	cfg.Console = &console
	cfg.Event = func(e Event) { _, _ = io.WriteString(&events, e.Name+"\n") }
	cfg.Channels = []string{"port"}
	vm, err := Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	waitFor(t, "greeting of the guest", func() bool { return console.String() == "hello\n" })
	if got := vm.Console(); got != "hello\n" {
		t.Errorf("Console() = %q, want hello", got)
	}
	var status struct{ Status string }
	if err := vm.Execute(t.Context(), "query-status", nil, &status); err != nil || status.Status != "running" {
		t.Errorf("query-status = %q, %v; want running", status.Status, err)
	}
	var refused *MonitorError
	if err := vm.Execute(t.Context(), "no-such-command", nil, nil); !errors.As(err, &refused) {
		t.Errorf("unknown command: %v, want a MonitorError", err)
	}
	if err := vm.Execute(t.Context(), "stop", nil, nil); err != nil {
		t.Error(err)
	}
	waitFor(t, "STOP event", func() bool { return strings.Contains(events.String(), "STOP\n") })
	if err := vm.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
	if !gone(vm.PID()) {
		t.Error("QEMU still runs after Close")
	}
	if err := vm.Close(); err != nil {
		t.Errorf("second Close: %v", err)
	}
}

func TestChannelCarriesBytes(t *testing.T) {
	needQEMU(t)
	cfg := talker(speaker(t))
	cfg.Channels = []string{"port"}
	cfg.Args = append(cfg.Args[:len(cfg.Args)-1], "chardev:port")
	vm, err := Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer vm.Close()
	got := make([]byte, 6)
	if err := vm.Channel("port").SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(vm.Channel("port"), got); err != nil || string(got) != "hello\n" {
		t.Errorf("channel gave %q, %v; want hello", got, err)
	}
}

func TestKilledQEMUIsReported(t *testing.T) {
	needQEMU(t)
	vm, err := Start(t.Context(), talker(speaker(t)))
	if err != nil {
		t.Fatal(err)
	}
	defer vm.Close()
	waitFor(t, "greeting", func() bool { return vm.Console() != "" })
	if err := syscall.Kill(vm.PID(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	<-vm.Done()
	err = vm.Failure("talk to guest", vm.Execute(t.Context(), "query-status", nil, nil))
	if !errors.Is(err, ErrExited) || !strings.Contains(err.Error(), "killed") {
		t.Errorf("error = %v, want one that says that QEMU was killed", err)
	}
	var e *Error
	if !errors.As(err, &e) || !strings.Contains(e.Detail(), "hello") {
		t.Errorf("detail %q lacks the console", e.Detail())
	}
}

func TestRefusedArgumentIsNamed(t *testing.T) {
	needQEMU(t)
	_, err := Start(t.Context(), Config{Args: []string{"-device", "no-such-device"}})
	if err == nil || !strings.Contains(err.Error(), "no-such-device") || !errors.Is(err, ErrExited) {
		t.Errorf("Start = %v, want an error that names the device", err)
	}
	if _, err := Start(t.Context(), Config{Program: "no-such-qemu"}); !errors.Is(err, exec.ErrNotFound) {
		t.Errorf("Start = %v, want exec.ErrNotFound", err)
	}
}

func TestContextEndsMachine(t *testing.T) {
	needQEMU(t)
	ctx, cancel := context.WithCancel(t.Context())
	vm, err := Start(ctx, talker(speaker(t)))
	if err != nil {
		t.Fatal(err)
	}
	defer vm.Close()
	cancel()
	select {
	case <-vm.Done():
	case <-time.After(10 * time.Second):
		t.Error("QEMU lives 10 s after its context ended")
	}
}

func TestShutdownIsBounded(t *testing.T) {
	needQEMU(t)
	vm, err := Start(t.Context(), talker(speaker(t)))
	if err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	if err := vm.Shutdown(t.Context(), 100*time.Millisecond); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Shutdown = %v, want DeadlineExceeded: the guest does not listen", err)
	}
	if took := time.Since(start); took > quitTimeout+5*time.Second || !gone(vm.PID()) {
		t.Errorf("after %v: gone is %v", took, gone(vm.PID()))
	}
}

func TestNothingSurvivesAKilledParent(t *testing.T) {
	needQEMU(t)
	parent := exec.Command(os.Args[0])
	parent.Env = append(os.Environ(), orphanEnv+"="+speaker(t))
	out, err := parent.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := parent.Start(); err != nil {
		t.Fatal(err)
	}
	line := make([]byte, 32)
	n, err := out.Read(line)
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(line[:n])))
	if err != nil || gone(pid) {
		t.Fatalf("QEMU %d does not run: %v", pid, err)
	}
	if err := parent.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = parent.Wait()
	waitFor(t, "death of QEMU", func() bool {
		state, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
		return err != nil || bytes.Contains(state, []byte(") Z "))
	})
}

func TestSavePNG(t *testing.T) {
	needQEMU(t)
	cfg := talker(speaker(t))
	cfg.Args = append(cfg.Args, "-device", "VGA")
	vm, err := Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer vm.Close()
	path := filepath.Join(t.TempDir(), "screen.png")
	for range 2 { // the second picture replaces the first in memory
		if err := vm.SavePNG(t.Context(), path); err != nil {
			t.Fatal(err)
		}
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	picture, err := png.Decode(f)
	if err != nil || picture.Bounds().Dx() < 320 {
		t.Errorf("picture %v, %v", picture, err)
	}
}

func TestTailKeepsTheEnd(t *testing.T) {
	tl := newTail(8)
	for _, s := range []string{"abc", "defgh", "ij", "0123456789"} {
		if n, err := io.WriteString(tl, s); n != len(s) || err != nil {
			t.Fatalf("Write = %d, %v", n, err)
		}
	}
	if got := tl.String(); got != "23456789" {
		t.Errorf("tail = %q, want 23456789", got)
	}
}

func TestLastLinesAreSafeToPrint(t *testing.T) {
	if got := lastLines("a\nb\x1b[2J\r\nc\r\n\n", 2); got != "b[2J\nc" {
		t.Errorf("lastLines = %q", got)
	}
}

func FuzzDecodePPM(f *testing.F) {
	f.Add([]byte("P6\n1 2\n255\nabcdef"))
	f.Add([]byte("P6\n99999 2\n255\n"))
	f.Fuzz(func(t *testing.T, in []byte) {
		picture, err := decodePPM(bytes.NewReader(in))
		if (picture == nil) == (err == nil) {
			t.Errorf("picture %v with error %v", picture, err)
		}
		if picture != nil && 3*picture.Bounds().Dx()*picture.Bounds().Dy() > len(in) {
			t.Errorf("%v pixels out of %d bytes", picture.Bounds(), len(in))
		}
	})
}

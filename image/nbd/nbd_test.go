package nbd

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"hyper2kvm/formats"
	"hyper2kvm/formats/raw"
	"hyper2kvm/image/overlay"
)

const mib = 1 << 20

// sample is 8 MiB with data in every other MiB.
func sample() []byte {
	b := make([]byte, 8*mib)
	r := rand.NewChaCha8([32]byte{1})
	for i := 0; i < len(b); i += 2 * mib {
		r.Read(b[i : i+mib])
	}
	return b
}

// holey tells the zeroes of its bytes as holes, MiB by MiB.
type holey []byte

func (h holey) Size() int64 { return int64(len(h)) }

func (h holey) ReadAt(p []byte, off int64) (int, error) { return bytes.NewReader(h).ReadAt(p, off) }

func (h holey) Extent(off, limit int64) (formats.Extent, error) {
	end := min(off+limit, (off/mib+1)*mib, int64(len(h)))
	e := formats.Extent{Offset: off, Length: end - off, Kind: formats.Data}
	if bytes.Count(h[off/mib*mib:min(int64(len(h)), (off/mib+1)*mib)], []byte{0}) == mib {
		e.Kind = formats.Zero
	}
	return e, nil
}

// serve runs a server for the test and gives its socket. stop ends it and
// gives what Serve returned.
func serve(t testing.TB, exports ...Export) (socket string, stop func() error) {
	t.Helper()
	dir, err := os.MkdirTemp("", "nbd") // short: a socket's path is limited to 108 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	socket = filepath.Join(dir, "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- Serve(ctx, l, exports) }()
	stopped := false
	stop = func() error {
		stopped = true
		cancel()
		select {
		case err := <-done:
			return err
		case <-time.After(20 * time.Second):
			return errors.New("Serve did not end")
		}
	}
	t.Cleanup(func() {
		if stopped {
			return
		}
		if err := stop(); err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	return socket, stop
}

func newOverlay(t testing.TB, base formats.Disk) *overlay.Overlay {
	t.Helper()
	o, err := overlay.Create(filepath.Join(t.TempDir(), "overlay"), base)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { o.Close() })
	return o
}

// tool runs one of the tools that are our oracle.
func tool(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := tryTool(t, name, args...)
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return out
}

func tryTool(t *testing.T, name string, args ...string) (string, error) {
	t.Helper()
	if _, err := exec.LookPath(name); err != nil {
		if os.Getenv("CI") != "" {
			t.Fatalf("%s is needed (packages libnbd-bin, qemu-utils)", name)
		}
		t.Skipf("%s is not installed (packages libnbd-bin, qemu-utils)", name)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
	return string(out), err
}

func uri(socket, export string) string { return "nbd+unix:///" + export + "?socket=" + socket }

func TestNbdinfo(t *testing.T) {
	o := newOverlay(t, holey(sample()))
	socket, _ := serve(t,
		Export{Name: "rw", Disk: o, Writer: o, Description: "a disk of the test"},
		Export{Name: "ro", Disk: holey(sample()[:mib+100])})
	var got struct {
		Exports []map[string]any `json:"exports"`
	}
	if err := json.Unmarshal([]byte(tool(t, "nbdinfo", "--list", "--json", uri(socket, ""))), &got); err != nil {
		t.Fatal(err)
	}
	want := []map[string]any{
		{"export-name": "rw", "description": "a disk of the test", "export-size": 8. * mib, "is_read_only": false,
			"can_flush": true, "can_fua": true, "can_trim": true, "can_zero": true, "can_fast_zero": true, "can_df": true,
			"can_multi_conn": true, "block_size_minimum": 1., "block_size_preferred": 4096., "block_size_maximum": 32. * mib},
		{"export-name": "ro", "export-size": mib + 100., "is_read_only": true, "can_multi_conn": true, "can_trim": false},
	}
	if len(got.Exports) != len(want) {
		t.Fatalf("%d exports, want %d", len(got.Exports), len(want))
	}
	for i, w := range want {
		for k, v := range w {
			if got.Exports[i][k] != v {
				t.Errorf("export %d: %s = %v, want %v", i, k, got.Exports[i][k], v)
			}
		}
		if c := fmt.Sprint(got.Exports[i]["contexts"]); c != "[base:allocation]" {
			t.Errorf("export %d: contexts %s", i, c)
		}
	}
	if _, err := tryTool(t, "nbdinfo", uri(socket, "other")); err == nil {
		t.Error("an export that is not there was opened")
	}
}

func TestMap(t *testing.T) {
	b := sample()
	socket, _ := serve(t, Export{Name: "d", Disk: holey(b)})
	var list []struct {
		Offset, Length int64
		Type           int
	}
	if err := json.Unmarshal([]byte(tool(t, "nbdinfo", "--map", "--json", uri(socket, "d"))), &list); err != nil {
		t.Fatal(err)
	}
	if len(list) != 8 {
		t.Fatalf("%d runs, want 8: %+v", len(list), list)
	}
	for i, e := range list {
		if e.Offset != int64(i)*mib || e.Length != mib || e.Type != 3*(i%2) {
			t.Errorf("run %d: %+v", i, e)
		}
	}
	out := tool(t, "qemu-img", "map", "--output=json", "--image-opts",
		"driver=nbd,export=d,server.type=unix,server.path="+socket)
	if n := strings.Count(out, `"zero": true`); n != 4 {
		t.Errorf("qemu-img sees %d zero runs, want 4:\n%s", n, out)
	}
}

func TestCopyOut(t *testing.T) {
	b := sample()
	b = b[:len(b)-mib-700] // no whole sector at the end
	socket, _ := serve(t, Export{Name: "d", Disk: holey(b)})
	dir := t.TempDir()
	for name, args := range map[string][]string{
		"nbdcopy":                  {"nbdcopy", uri(socket, "d"), filepath.Join(dir, "1")},
		"nbdcopy, old style reads": {"nbdcopy", "--synchronous", uri(socket, "d"), filepath.Join(dir, "2")},
		"nbdcopy, small requests":  {"nbdcopy", "--request-size=4096", uri(socket, "d"), filepath.Join(dir, "3")},
	} {
		tool(t, args[0], args[1:]...)
		got, err := os.ReadFile(args[len(args)-1])
		if err != nil || !bytes.Equal(got, b) {
			t.Errorf("%s: %d bytes differ from what was served (%v)", name, len(got), err)
		}
	}
	whole := sample()
	socket, _ = serve(t, Export{Disk: holey(whole)})
	out := filepath.Join(dir, "q.raw")
	tool(t, "qemu-img", "convert", "-f", "raw", "-O", "raw", uri(socket, ""), out)
	if got, err := os.ReadFile(out); err != nil || !bytes.Equal(got, whole) {
		t.Errorf("qemu-img convert: %d bytes differ (%v)", len(got), err)
	}
}

func TestCopyIn(t *testing.T) {
	o := newOverlay(t, holey(make([]byte, 8*mib)))
	socket, _ := serve(t, Export{Name: "d", Disk: o, Writer: o})
	src := filepath.Join(t.TempDir(), "src")
	if err := os.WriteFile(src, sample(), 0o600); err != nil {
		t.Fatal(err)
	}
	tool(t, "nbdcopy", "--flush", "--connections=4", src, uri(socket, "d"))
	got := make([]byte, 8*mib)
	if _, err := o.ReadAt(got, 0); err != nil && !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
	if !bytes.Equal(got, sample()) {
		t.Error("content differs after nbdcopy wrote it")
	}
	if e, err := o.Extent(mib, mib); err != nil || e.Kind != formats.Zero || e.Length != mib {
		t.Errorf("the hole was written as data: %+v, %v", e, err)
	}
}

func TestQemuIOWrites(t *testing.T) {
	base := sample()
	o := newOverlay(t, holey(base))
	socket, _ := serve(t, Export{Name: "d", Disk: o, Writer: o})
	io1 := func(commands ...string) string {
		args := []string{"-f", "raw", "-d", "unmap"}
		for _, c := range commands {
			args = append(args, "-c", c)
		}
		return tool(t, "qemu-io", append(args, uri(socket, "d"))...)
	}
	io1("write -P 0xab 512 1024", "write -f -P 0xcd 1M 64k", "write -z 2M 1M", "write -z -u 4M 64k",
		"discard 4160k 512k", "flush", "read -P 0xab 512 1024")
	copy(base[512:], bytes.Repeat([]byte{0xab}, 1024))
	copy(base[mib:], bytes.Repeat([]byte{0xcd}, 64<<10))
	clear(base[2*mib : 3*mib])
	clear(base[4*mib : 4*mib+64<<10])
	clear(base[4160<<10 : 4160<<10+512<<10])
	got := make([]byte, len(base))
	if _, err := o.ReadAt(got, 0); err != nil && !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
	if !bytes.Equal(got, base) {
		t.Error("content differs after qemu-io wrote")
	}
	if out := io1("read -P 0 2M 1M", "read -P 0 4160k 512k"); strings.Contains(out, "verification failed") {
		t.Errorf("zeroes do not read back:\n%s", out)
	}
}

func TestReadOnlyRefusesWrites(t *testing.T) {
	socket, _ := serve(t, Export{Disk: holey(sample())})
	if out, err := tryTool(t, "qemu-io", "-f", "raw", "-c", "write 0 512", uri(socket, "")); err == nil {
		t.Errorf("a write to a read-only export was taken:\n%s", out)
	}
	c := dial(t, socket, "")
	for _, kind := range []uint16{cmdWrite, cmdTrim, cmdWriteZeroes} {
		length := uint32(0)
		if got := c.do(0, kind, 0, length, nil); got != errnoPerm {
			t.Errorf("command %d: errno %d, want %d", kind, got, errnoPerm)
		}
	}
}

// TestParallelClients writes and reads through several connections at once.
func TestParallelClients(t *testing.T) {
	o := newOverlay(t, holey(sample()))
	socket, _ := serve(t, Export{Disk: o, Writer: o})
	var wg sync.WaitGroup
	for i := range 4 {
		c := dial(t, socket, "")
		wg.Go(func() {
			for j := range 64 {
				off := uint64(j*4+i) * 4096
				p := bytes.Repeat([]byte{byte(i*64 + j)}, 4096)
				if e := c.do(cmdFlagFUA, cmdWrite, off, 4096, p); e != 0 {
					t.Errorf("write: errno %d", e)
				}
				if e := c.do(0, cmdRead, off, 4096, nil); e != 0 || !bytes.Equal(c.last, p) {
					t.Errorf("read back: errno %d", e)
				}
			}
		})
	}
	wg.Wait()
}

// broken is a disk that gives errors.
type broken struct{ holey }

var errBroken = errors.New("the disk is broken")

func (b broken) ReadAt(p []byte, off int64) (int, error)  { return 0, errBroken }
func (b broken) WriteAt(p []byte, off int64) (int, error) { return 0, unix.ENOSPC }
func (b broken) Zero(off, length int64) error             { return errBroken }
func (b broken) Trim(off, length int64) error             { return errBroken }
func (b broken) Sync() error                              { return errBroken }

func TestDiskErrors(t *testing.T) {
	d := broken{sample()}
	socket, stop := serve(t, Export{Name: "d", Disk: d, Writer: d})
	c := dial(t, socket, "d")
	for _, x := range []struct {
		kind uint16
		data []byte
		want uint32
	}{{cmdRead, nil, errnoIO}, {cmdWrite, make([]byte, 512), errnoNoSpace}, {cmdTrim, nil, errnoIO}, {cmdFlush, nil, errnoIO}} {
		if got := c.do(0, x.kind, 0, 512, x.data); got != x.want {
			t.Errorf("command %d: errno %d, want %d", x.kind, got, x.want)
		}
	}
	if out, err := tryTool(t, "nbdcopy", uri(socket, "d"), filepath.Join(t.TempDir(), "x")); err == nil {
		t.Errorf("nbdcopy of a broken disk succeeded:\n%s", out)
	}
	err := stop()
	if !errors.Is(err, errBroken) || !strings.Contains(err.Error(), `read 512 bytes at 0 of export "d"`) {
		t.Errorf("Serve = %v, want the first error of the disk", err)
	}
}

func TestEndsWithClientsConnected(t *testing.T) {
	socket, stop := serve(t, Export{Disk: holey(sample())})
	dial(t, socket, "")
	idle, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer idle.Close()
	if err := stop(); err != nil {
		t.Errorf("Serve = %v", err)
	}
	if _, err := os.Stat(socket); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket is left: %v", err)
	}
}

// TestGone has clients leave at every point of a session.
func TestGone(t *testing.T) {
	o := newOverlay(t, raw.New(formats.File{ReaderAt: bytes.NewReader(sample()), Size: 8 * mib}))
	socket, _ := serve(t, Export{Disk: o, Writer: o})
	script := session(4)
	for n := 0; n <= len(script); n += 7 {
		nc, err := net.Dial("unix", socket)
		if err != nil {
			t.Fatal(err)
		}
		nc.Write(script[:n])
		nc.Close()
	}
	if c := dial(t, socket, ""); c.do(0, cmdRead, 0, 512, nil) != 0 {
		t.Error("the server is no longer well")
	}
}

// session is what a client sends that negotiates, then writes n times.
func session(n int) []byte {
	b := clientGo("", true)
	for i := range n {
		b = append(b, message(cmdFlagFUA, cmdWrite, uint64(i), uint64(i)*512, 512, make([]byte, 512))...)
	}
	return append(b, message(0, cmdDisc, 9, 0, 0, nil)...)
}

func clientGo(export string, structured bool) []byte {
	b := binary.BigEndian.AppendUint32(nil, flagFixedNewstyle|flagNoZeroes)
	if structured {
		b = append(b, optionMessage(optStructuredReply, nil)...)
	}
	return append(b, optionMessage(optGo, append(appendString(nil, export), 0, 0))...)
}

func optionMessage(opt uint32, data []byte) []byte {
	b := binary.BigEndian.AppendUint64(nil, magicOption)
	b = binary.BigEndian.AppendUint32(b, opt)
	return append(binary.BigEndian.AppendUint32(b, uint32(len(data))), data...)
}

func message(flags, kind uint16, cookie, off uint64, length uint32, data []byte) []byte {
	b := binary.BigEndian.AppendUint32(nil, magicRequest)
	b = binary.BigEndian.AppendUint16(b, flags)
	b = binary.BigEndian.AppendUint16(b, kind)
	b = binary.BigEndian.AppendUint64(b, cookie)
	b = binary.BigEndian.AppendUint64(b, off)
	return append(binary.BigEndian.AppendUint32(b, length), data...)
}

// client is the least that can ask for what the tools never do: simple
// replies, and requests that are wrong.
type client struct {
	t    *testing.T
	nc   net.Conn
	last []byte // of the last read
}

func dial(t *testing.T, socket, export string) *client {
	t.Helper()
	nc, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close() })
	c := &client{t: t, nc: nc}
	c.write(clientGo(export, false))
	c.read(18)
	for {
		head := c.read(20)
		kind := binary.BigEndian.Uint32(head[12:])
		c.read(int(binary.BigEndian.Uint32(head[16:])))
		if kind == repAck {
			return c
		}
		if kind != repInfo {
			t.Fatalf("option reply %#x", kind)
		}
	}
}

func (c *client) write(b []byte) {
	if _, err := c.nc.Write(b); err != nil {
		c.t.Errorf("client write: %v", err)
	}
}

func (c *client) read(n int) []byte {
	b := make([]byte, n)
	if _, err := io.ReadFull(c.nc, b); err != nil {
		c.t.Errorf("client read: %v", err)
	}
	return b
}

// do sends one request and gives the errno of its reply.
func (c *client) do(flags, kind uint16, off uint64, length uint32, data []byte) uint32 {
	c.write(message(flags, kind, off^77, off, length, data))
	head := c.read(16)
	if binary.BigEndian.Uint32(head) != magicSimple || binary.BigEndian.Uint64(head[8:]) != off^77 {
		c.t.Errorf("reply %x to command %d at %d", head, kind, off)
	}
	errno := binary.BigEndian.Uint32(head[4:])
	if kind == cmdRead && errno == 0 {
		c.last = c.read(int(length))
	}
	return errno
}

func TestRefusedRequests(t *testing.T) {
	o := newOverlay(t, holey(sample()))
	socket, _ := serve(t, Export{Disk: o, Writer: o})
	c := dial(t, socket, "")
	const size = 8 * mib
	for _, x := range []struct {
		what        string
		flags, kind uint16
		off         uint64
		length      uint32
		want        uint32
	}{
		{"read past the end", 0, cmdRead, size - 1, 2, errnoInvalid},
		{"read with an offset that overflows", 0, cmdRead, 1<<64 - 1, 2, errnoInvalid},
		{"read of too much", 0, cmdRead, 0, maxRequest + 1, errnoInvalid},
		{"write past the end", 0, cmdWrite, size - 1, 2, errnoNoSpace},
		{"write of too much", 0, cmdWrite, 0, maxRequest + 1, errnoNoSpace},
		{"trim past the end", 0, cmdTrim, size, 1, errnoInvalid},
		{"zero past the end", 0, cmdWriteZeroes, size, 1, errnoNoSpace},
		{"unknown command", 0, 99, 0, 0, errnoInvalid},
		{"unknown flag", 1 << 9, cmdRead, 0, 512, errnoInvalid},
		{"DF without structured replies", cmdFlagDF, cmdRead, 0, 512, errnoInvalid},
		{"block status without context", 0, cmdBlockStatus, 0, 512, errnoInvalid},
		{"nothing read", 0, cmdRead, size, 0, 0},
		{"nothing written", 0, cmdWrite, size, 0, 0},
		{"the end", 0, cmdRead, size - 512, 512, 0},
	} {
		var data []byte
		if x.kind == cmdWrite {
			data = make([]byte, x.length)
		}
		if got := c.do(x.flags, x.kind, x.off, x.length, data); got != x.want {
			t.Errorf("%s: errno %d, want %d", x.what, got, x.want)
		}
	}
}

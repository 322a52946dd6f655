package host

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"hyper2kvm/agent/api"
)

// sumsFile lists the SHA-256 of each file of an image, as sha256sum writes it.
const sumsFile = "SHA256SUMS"

// errNoSums says that an image has no list: a user may have put it together
// by hand.
var errNoSums = errors.New("no " + sumsFile)

// verifySums compares the files of an image with its list, which must name
// each part without which no helper VM starts.
func verifySums(dir string) error {
	f, err := os.Open(filepath.Join(dir, sumsFile))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return errNoSums
	case err != nil:
		return err
	}
	defer f.Close()
	left := imageFiles()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		want, name, ok := strings.Cut(lines.Text(), " ")
		if !ok {
			continue
		}
		name = filepath.Base(strings.TrimLeft(name, " *"))
		got, err := digest(filepath.Join(dir, name))
		if err != nil {
			return err
		}
		if got != want {
			return fmt.Errorf("%s in %s is not what %s says", name, dir, sumsFile)
		}
		left = slices.DeleteFunc(left, func(n string) bool { return n == name })
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("read %s: %w", sumsFile, err)
	}
	if len(left) > 0 {
		return fmt.Errorf("%s in %s does not name %s", sumsFile, dir, strings.Join(left, ", "))
	}
	return nil
}

func digest(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

const (
	gib = 1 << 30
	// spaceWanted holds the overlay of a repair and a small result. What a
	// conversion really needs is checked when its size is known.
	spaceWanted = 5 * gib
	// memoryWanted is a helper VM, or the validated guest at its default of
	// 2 GiB, of which it touches about half while booting.
	memoryWanted = 3 * gib / 2
)

// space looks at the free space of a folder that files will be written to.
func space(dir string) api.Check {
	c := api.Check{Name: "space in " + dir}
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		c.Detail = err.Error()
		return c
	}
	free := int64(st.Bavail) * st.Bsize
	c.OK, c.Detail = free >= spaceWanted, fmt.Sprintf("%.1f GiB free", float64(free)/gib)
	if !c.OK {
		c.Fix = fmt.Sprintf("have at least %d GiB free where results and overlays are written; TMPDIR chooses another folder for temporary files", spaceWanted/gib)
	}
	return c
}

func (h Host) memory() api.Check {
	c := api.Check{Name: "memory"}
	n, err := availableMemory(h.MemInfo)
	if err != nil {
		c.Detail = err.Error()
		return c
	}
	c.OK, c.Detail = n >= memoryWanted, fmt.Sprintf("%.1f GiB available", float64(n)/gib)
	if !c.OK {
		c.Fix = "close other programs, or give validation a smaller guest with --memory"
	}
	return c
}

// AvailableMemory is how many bytes programs can have without swapping.
func AvailableMemory() (int64, error) { return availableMemory(memInfo) }

// memInfo is where Linux tells of its memory.
const memInfo = "/proc/meminfo"

// availableMemory reads MemAvailable, which proc(5) gives in KiB.
func availableMemory(path string) (int64, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	for l := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(l, "MemAvailable:"); ok {
			n, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
			if err != nil {
				return 0, fmt.Errorf("read %s: %w", path, err)
			}
			return n << 10, nil
		}
	}
	return 0, fmt.Errorf("read %s: no MemAvailable", path)
}

// rights looks at whether this user may write where files will go.
func (h Host) rights() api.Check {
	c := api.Check{Name: "rights", OK: true, Detail: "user " + userName() + " may write where results go"}
	for _, dir := range h.Folders {
		if !writable(dir) {
			c.OK = false
			c.Detail = fmt.Sprintf("user %s may not write in %s", userName(), dir)
			c.Fix = "run h2k where you may write, or give -o in such a folder"
		}
	}
	return c
}

func writable(path string) bool { return unix.Access(path, unix.R_OK|unix.W_OK) == nil }

func userName() string {
	if u, err := user.Current(); err == nil {
		return u.Username
	}
	return strconv.Itoa(os.Getuid())
}

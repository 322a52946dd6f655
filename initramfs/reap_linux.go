package initramfs

import (
	"bytes"
	"context"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// reapInterval is how often Reap looks.
const reapInterval = 15 * time.Second

// Reap takes care of processes whose parents ended without waiting for them:
// the kernel hands them to process 1. Children that this program started are
// waited for by whoever started them, so only what has been dead for a whole
// round is taken.
func Reap(ctx context.Context) {
	tick := time.NewTicker(reapInterval)
	defer tick.Stop()
	dead := map[int]bool{}
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			dead = reapOnce(dead, os.Getpid())
		}
	}
}

// reapOnce waits for the dead children that were dead before and returns those
// that are dead now.
func reapOnce(before map[int]bool, parent int) map[int]bool {
	now := map[int]bool{}
	names, _ := os.ReadDir("/proc")
	for _, n := range names {
		pid, err := strconv.Atoi(n.Name())
		if err != nil || !isZombie(pid, parent) {
			continue
		}
		if before[pid] {
			_, _ = unix.Wait4(pid, nil, unix.WNOHANG, nil)
			continue
		}
		now[pid] = true
	}
	return now
}

// isZombie reports whether pid is a dead child of parent (proc_pid_stat(5)).
func isZombie(pid, parent int) bool {
	text, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return false
	}
	end := bytes.LastIndexByte(text, ')') // the name may hold anything
	fields := strings.Fields(string(text[end+1:]))
	return len(fields) > 1 && fields[0] == "Z" && fields[1] == strconv.Itoa(parent)
}

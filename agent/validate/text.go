package validate

import (
	"regexp"
	"strings"
	"sync"
)

// textBytes is how much of a stream is kept to be judged.
const textBytes = 256 << 10

// stream keeps the end of what a guest writes, from any goroutine.
type stream struct {
	mu   sync.Mutex
	data []byte
	seen int64 // bytes ever written
}

func (s *stream) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.seen += int64(len(p))
	s.data = append(s.data, p...)
	if over := len(s.data) - textBytes; over > 0 {
		s.data = append([]byte(nil), s.data[over:]...)
	}
	return len(p), nil
}

// text gives the readable end of the stream and how many bytes ever came.
func (s *stream) text(clean cleaner) (string, int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return clean.clean(string(s.data)), s.seen
}

// cleaner takes terminal control out of text.
type cleaner struct{ move, control *regexp.Regexp }

func newCleaner() cleaner {
	return cleaner{
		// ECMA-48 sequences that put the cursor elsewhere or erase, and so begin a line
		move: regexp.MustCompile("\x1b\\[[0-9;?]*[HfJABEFd]"),
		// all other sequences: colours, modes, titles
		control: regexp.MustCompile("\x1b(\\[[0-9;?=>]*[@-~]|\\][^\x07\x1b]*(\x07|\x1b\\\\)|[()][0-9A-B]|[=>78cDEHM])"),
	}
}

func (c cleaner) clean(s string) string {
	s = c.move.ReplaceAllString(s, "\n")
	s = c.control.ReplaceAllString(s, "")
	s = strings.ReplaceAll(s, "\r\n", "\n")
	s = strings.ReplaceAll(s, "\r", "\n")
	return strings.Map(func(r rune) rune {
		if r == '\n' || r == '\t' || r >= ' ' && r != 0x7f {
			return r
		}
		return -1
	}, strings.ToValidUTF8(s, "?"))
}

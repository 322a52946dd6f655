package job

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"hyper2kvm/agent/api"
)

// eventLog appends events to events.jsonl. Progress events are passed on but
// not kept: they would be most of the file and say nothing afterwards.
type eventLog struct {
	mu   sync.Mutex
	file *os.File
	seq  int64
	next api.Sink
	err  error // the first write that failed
}

func openEvents(path string) (*eventLog, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open events of job: %w", err)
	}
	l := &eventLog{file: f}
	if l.seq, err = lastSeq(f); err != nil {
		f.Close()
		return nil, err
	}
	return l, nil
}

// lastSeq finds where numbering goes on. A last line cut off by a crash is
// closed, so that the next event starts on a line of its own.
func lastSeq(f *os.File) (int64, error) {
	var seq int64
	r := bufio.NewReader(f)
	for {
		line, err := r.ReadBytes('\n')
		var e api.Event
		if json.Unmarshal(line, &e) == nil && e.Seq > seq {
			seq = e.Seq
		}
		if errors.Is(err, io.EOF) {
			if len(line) > 0 {
				_, err = f.WriteString("\n")
				return seq, err
			}
			return seq, nil
		}
		if err != nil {
			return 0, fmt.Errorf("read events of job: %w", err)
		}
	}
}

func (l *eventLog) then(next api.Sink) api.Sink {
	l.next = next
	return l
}

// Emit numbers the event, keeps it and passes it on.
func (l *eventLog) Emit(e api.Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.seq++
	e.Seq = l.seq
	if e.Time.IsZero() {
		e.Time = time.Now().UTC()
	}
	if e.Level != api.Progress {
		l.keep(e)
	}
	if l.next != nil {
		l.next.Emit(e)
	}
}

func (l *eventLog) keep(e api.Event) {
	line, err := json.Marshal(e)
	if err == nil {
		_, err = l.file.Write(append(line, '\n'))
	}
	if l.err == nil {
		l.err = err
	}
}

func (l *eventLog) close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return errors.Join(l.err, l.file.Close())
}

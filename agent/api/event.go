package api

import "time"

// Level says how much an event matters.
type Level string

// The levels. Progress events carry Done and Total and no message.
const (
	Progress Level = "progress"
	Notice   Level = "info"
	Warning  Level = "warning"
	Failure  Level = "error"
)

// Event is one line of a run's append-only, numbered stream. Progress bars,
// --json, the report and metrics are views of it.
type Event struct {
	Seq     int64     `json:"seq"`
	Time    time.Time `json:"time"`
	Stage   Stage     `json:"stage"`
	Level   Level     `json:"level"`
	Disk    int       `json:"disk"`            // index of the source; 0 where it does not apply
	Done    int64     `json:"done,omitempty"`  // bytes
	Total   int64     `json:"total,omitempty"` // bytes
	Message string    `json:"message,omitempty"`
}

// Sink takes events; it fills in Seq and Time. It may be called from several
// goroutines at once.
type Sink interface {
	Emit(Event)
}

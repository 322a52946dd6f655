package server

import (
	"encoding/json"
	"fmt"
	"net/http"
	"sync"

	"hyper2kvm/agent/api"
)

// maxPlan bounds a plan on the wire, in bytes.
const maxPlan = 4 << 20

// Line is one line of the answer to a run: an event, or at the end the report
// and the error.
type Line struct {
	Event  *api.Event  `json:"event,omitempty"`
	Report *api.Report `json:"report,omitempty"`
	Error  *api.Error  `json:"error,omitempty"`
	End    bool        `json:"end,omitempty"`
}

func (c Config) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/version", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, "{\"api\":%d}\n", api.Version)
	})
	mux.HandleFunc("POST /v1/run", c.run)
	mux.HandleFunc("POST /v1/keys", c.keys)
	mux.HandleFunc("POST /v1/poweroff", func(w http.ResponseWriter, _ *http.Request) {
		if c.PowerOff == nil {
			http.Error(w, "this agent does not power off", http.StatusForbidden)
			return
		}
		c.PowerOff()
		w.WriteHeader(http.StatusNoContent)
	})
	return mux
}

// run runs the plan in the request and answers with lines of JSON. A client
// that leaves ends the run.
func (c Config) run(w http.ResponseWriter, r *http.Request) {
	plan := &api.Plan{}
	dec := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxPlan))
	dec.DisallowUnknownFields()
	out := &lineWriter{w: w}
	if err := dec.Decode(plan); err != nil {
		out.write(Line{End: true, Error: api.NewError(api.CodeUsage, "read plan", "", err)})
		return
	}
	report, err := c.Agent.Run(r.Context(), plan, r.URL.Query().Get("job"), out)
	out.write(Line{End: true, Report: report, Error: api.AsError(err)})
}

// lineWriter writes lines and sends each at once.
type lineWriter struct {
	mu sync.Mutex
	w  http.ResponseWriter
}

// Emit sends an event.
func (l *lineWriter) Emit(e api.Event) { l.write(Line{Event: &e}) }

func (l *lineWriter) write(line Line) {
	l.mu.Lock()
	defer l.mu.Unlock()
	// A client that left is seen by the request's context.
	_ = json.NewEncoder(l.w).Encode(line)
	_ = http.NewResponseController(l.w).Flush()
}

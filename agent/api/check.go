package api

// Check is one finding about the machine that runs plans: what h2k doctor
// shows of this host, and of another one through its agent.
type Check struct {
	Name   string `json:"name"`
	OK     bool   `json:"ok"`
	Needed bool   `json:"needed"` // nothing works without it
	Detail string `json:"detail"`
	Fix    string `json:"fix,omitempty"` // what to do about it, a command where there is one
}

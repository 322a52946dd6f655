package server

import (
	"encoding/json"
	"fmt"
	"net/http"

	"hyper2kvm/agent/secret"
)

// maxKeys bounds the keys on the wire, in bytes: some key files of the largest
// size, encoded.
const maxKeys = 64 << 20

// wireKey is the one form in which a secret is encoded.
type wireKey struct {
	Volume string `json:"volume"`
	Secret []byte `json:"secret"`
}

func encodeKeys(keys []secret.Key) ([]byte, error) {
	var wire []wireKey
	for _, k := range keys {
		wire = append(wire, wireKey{k.Volume, k.Value})
	}
	body, err := json.Marshal(wire)
	if err != nil {
		return nil, fmt.Errorf("encode keys: %w", err)
	}
	return body, nil
}

// keys takes keys. What is wrong with the request is answered without any of it.
func (c Config) keys(w http.ResponseWriter, r *http.Request) {
	var wire []wireKey
	switch err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxKeys)).Decode(&wire); {
	case c.Keys == nil:
		http.Error(w, "this agent takes no keys", http.StatusForbidden)
		return
	case err != nil:
		http.Error(w, "the keys cannot be read", http.StatusBadRequest)
		return
	}
	var keys []secret.Key
	for _, k := range wire {
		keys = append(keys, secret.Key{Volume: k.Volume, Value: k.Secret})
	}
	c.Keys(keys)
	w.WriteHeader(http.StatusNoContent)
}

package cli

import (
	"net/url"
	"path/filepath"
	"strings"
)

// nameOfURI is what an NBD export is called: by its name, its host or its socket.
func nameOfURI(uri string) string {
	u, err := url.Parse(uri)
	if err != nil {
		return "nbd"
	}
	for _, name := range []string{strings.Trim(u.Path, "/"), u.Hostname(), u.Query().Get("socket")} {
		if name != "" {
			return name
		}
	}
	return "nbd"
}

// absoluteURI makes the paths in an NBD URI mean the same in any working folder.
// One that cannot be read is left to whoever opens it.
func absoluteURI(uri string) string {
	u, err := url.Parse(uri)
	if err != nil {
		return uri
	}
	query := u.Query()
	changed := false
	for _, key := range []string{"socket", "tls-certificates"} {
		path := query.Get(key)
		if path == "" || filepath.IsAbs(path) {
			continue
		}
		if full, err := filepath.Abs(path); err == nil {
			query.Set(key, full)
			changed = true
		}
	}
	if !changed {
		return uri
	}
	u.RawQuery = query.Encode()
	return u.String()
}

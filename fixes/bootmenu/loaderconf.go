package bootmenu

import (
	"path"
	"regexp"
	"strings"
)

var loaderDefault = regexp.MustCompile(`^([ \t]*default[ \t]+)(\S+)(.*)$`)

// LoaderDefault is the pattern that systemd-boot's loader.conf (loader.conf(5))
// chooses the default with, "" where there is none.
func LoaderDefault(data []byte) string {
	pattern := ""
	for _, l := range lines(data) {
		if m := loaderDefault.FindStringSubmatch(text(l)); m != nil {
			pattern = m[2]
		}
	}
	return pattern
}

// MatchLoader reports whether a pattern of loader.conf means the entry in a
// file. Older versions of systemd-boot compare without the ending.
func MatchLoader(pattern, file string) bool {
	base := strings.ToLower(path.Base(file))
	pattern = strings.ToLower(pattern)
	for _, name := range []string{base, strings.TrimSuffix(base, path.Ext(base))} {
		if ok, err := path.Match(pattern, name); err == nil && ok {
			return true
		}
	}
	return false
}

// SetLoaderDefault makes the entry in a file the default.
func SetLoaderDefault(data []byte, file string) []byte {
	at := -1
	for i, l := range lines(data) {
		if loaderDefault.MatchString(text(l)) {
			at = i
		}
	}
	if at < 0 {
		return insert(data, 0, "default "+file)
	}
	m := loaderDefault.FindStringSubmatch(text(lines(data)[at]))
	return replace(data, at, m[1]+file+m[3])
}

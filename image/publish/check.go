package publish

import "path/filepath"

// Check reports, before any work is done, whether Create would refuse final.
func Check(final string, force bool, sources []string) error {
	return checkFinal(filepath.Clean(final), force, sources)
}

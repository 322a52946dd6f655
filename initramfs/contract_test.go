package initramfs

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

func TestImageOfAnotherVersionIsRefused(t *testing.T) {
	dir := t.TempDir()
	if err := CheckContract(dir); !errors.Is(err, ErrContract) {
		t.Errorf("an image without a contract: %v", err)
	}
	for text, good := range map[string]bool{Contract + "\n": true, "0\n": false, "": false} {
		if err := os.WriteFile(filepath.Join(dir, ContractFile), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := CheckContract(dir); (err == nil) != good || err != nil && !errors.Is(err, ErrContract) {
			t.Errorf("contract %q: %v", text, err)
		}
	}
}

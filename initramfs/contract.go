package initramfs

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// Contract numbers what a program on the host and an image must agree on: the
// names of this package, the API, the ways of SSH. It grows when one of them
// changes.
const Contract = "1"

// ContractFile is the file of an image that holds the number.
const ContractFile = "contract"

// ErrContract says that an image is of another build than the program that is
// to start it.
var ErrContract = errors.New("the image was made for another version of this program")

// CheckContract compares the image in dir with this program: a machine started
// from another's image would only never answer.
func CheckContract(dir string) error {
	text, err := os.ReadFile(filepath.Join(dir, ContractFile))
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: %s has no file %q, this program wants contract %s", ErrContract, dir, ContractFile, Contract)
	}
	if err != nil {
		return fmt.Errorf("read contract of image: %w", err)
	}
	if got := strings.TrimSpace(string(text)); got != Contract {
		return fmt.Errorf("%w: its contract is %.20q, this program wants %s", ErrContract, got, Contract)
	}
	return nil
}

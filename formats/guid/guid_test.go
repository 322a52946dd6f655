package guid_test

import (
	"bytes"
	"testing"

	"hyper2kvm/formats/guid"
)

// The type of an EFI system partition, as UEFI 2.10 table 5.7 and appendix A
// have it.
func TestStored(t *testing.T) {
	stored := []byte{0x28, 0x73, 0x2a, 0xc1, 0x1f, 0xf8, 0xd2, 0x11, 0xba, 0x4b, 0x00, 0xa0, 0xc9, 0x3e, 0xc9, 0x3b}
	if got := guid.String(stored); got != "c12a7328-f81f-11d2-ba4b-00a0c93ec93b" {
		t.Error(got)
	}
	if got := guid.Bytes(guid.Parse(stored)); !bytes.Equal(got, stored) {
		t.Errorf("%x", got)
	}
}

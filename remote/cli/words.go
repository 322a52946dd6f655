package cli

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"

	"hyper2kvm/agent/api"
)

// word is a value of a plan that must be one of a few words.
type word struct {
	flag, value string
	allowed     []string
}

// checkWords refuses values that no stage would understand, before any work.
func checkWords(p *api.Plan) error {
	words := []word{
		{"format", p.Target.Format, []string{"", "qcow2", "raw", "vmdk"}},
		{"variant", p.Target.Variant, []string{"", "monolithicSparse", "streamOptimized"}},
		{"compress", p.Target.Compress, []string{"", "none", "zlib", "zstd"}},
		{"devices", p.Fix.Devices, []string{"", "uuid", "partuuid", "label"}},
		{"initramfs", p.Fix.Initramfs, []string{"", "auto", "inject", "regenerate", "none"}},
		{"firmware", p.Machine.Firmware, []string{"", "bios", "uefi"}},
	}
	for _, b := range p.Validate.Buses {
		words = append(words, word{"bus", b, []string{"virtio-blk", "virtio-scsi", "sata"}})
	}
	for _, w := range words {
		if !slices.Contains(w.allowed, w.value) {
			return usage("--%s %q: choose %s", w.flag, w.value, strings.TrimPrefix(strings.Join(w.allowed, ", "), ", "))
		}
	}
	if p.Target.Compress != "" && p.Target.Compress != "none" && p.Target.Format != "qcow2" && p.Target.Format != "" {
		return usage("--compress %s: only qcow2 is compressed", p.Target.Compress)
	}
	for _, n := range p.Machine.NICs {
		if hw, err := net.ParseMAC(n.MAC); n.MAC != "" && (err != nil || len(hw) != 6) {
			return usage("--mac %q: give six bytes, as in 00:50:56:12:34:56", n.MAC)
		}
	}
	return nil
}

// mebibytes is a flag in MiB for a field in bytes.
type mebibytes int64

// String prints MiB.
func (m *mebibytes) String() string {
	if *m == 0 {
		return ""
	}
	return strconv.FormatInt(int64(*m)>>20, 10)
}

// Set reads MiB.
func (m *mebibytes) Set(s string) error {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		return fmt.Errorf("read MiB: %w", err)
	}
	if n <= 0 || n > 1<<30 {
		return errors.New("give a positive number of MiB")
	}
	*m = mebibytes(n << 20)
	return nil
}

// Type names the value in help.
func (*mebibytes) Type() string { return "MiB" }

package cli

import (
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"hyper2kvm/agent/api"
)

// words are the values that a flag, and the field of a plan behind it, takes.
func words(flag string) []string {
	switch flag {
	case "source-format":
		return []string{"raw", "vmdk", "qcow2", "vhd", "vhdx", "vdi"}
	case "format":
		return []string{"qcow2", "raw", "vmdk", "vhd", "vhdx", "vdi"}
	case "variant":
		return append(variants("vmdk"), variants("vhd")...)
	case "compress":
		return []string{"none", "zlib", "zstd"}
	case "devices":
		return []string{"uuid", "partuuid", "label"}
	case "initramfs":
		return []string{"auto", "inject", "regenerate", "none"}
	case "firmware":
		return []string{"bios", "uefi"}
	case "secure-boot":
		return []string{"on", "off"}
	case "bus":
		return []string{"virtio-blk", "virtio-scsi", "sata"}
	case "profile":
		return []string{"helper"}
	}
	return nil
}

// variants are those of a format, the default first.
func variants(format string) []string {
	switch format {
	case "vmdk":
		return []string{"monolithicSparse", "streamOptimized"}
	case "vhd", "vhdx", "vdi":
		return []string{"dynamic", "fixed"}
	}
	return nil
}

func listed(flag string) string { return strings.Join(words(flag), ", ") }

// choice declares a flag that takes one of a few words.
func choice(cmd *cobra.Command, p *string, flag, value, help string) {
	cmd.Flags().StringVar(p, flag, value, help+": "+listed(flag))
	complete(cmd, flag)
}

// complete lets shells complete the words of a flag.
func complete(cmd *cobra.Command, flag string) {
	// It fails for a flag that is not declared, which every start would show.
	_ = cmd.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(words(flag), cobra.ShellCompDirectiveNoFileComp))
}

// checkWord refuses a value that no stage would understand; "" is the default.
func checkWord(flag, value string) error {
	if value != "" && !slices.Contains(words(flag), value) {
		return usage("--%s %q: choose one of %s", flag, value, listed(flag))
	}
	return nil
}

// checkWords refuses what no stage would understand, before any work.
func checkWords(p *api.Plan) error {
	for _, w := range [][2]string{
		{"format", p.Target.Format}, {"variant", p.Target.Variant}, {"compress", p.Target.Compress},
		{"devices", p.Fix.Devices}, {"initramfs", p.Fix.Initramfs}, {"firmware", p.Machine.Firmware},
		{"secure-boot", p.Machine.SecureBoot},
	} {
		if err := checkWord(w[0], w[1]); err != nil {
			return err
		}
	}
	for _, b := range p.Validate.Buses {
		if b == "" || checkWord("bus", b) != nil {
			return usage("--bus %q: choose of %s", b, listed("bus"))
		}
	}
	for _, s := range p.Sources {
		if err := checkWord("source-format", s.Format); err != nil {
			return err
		}
	}
	return checkNumbers(p)
}

func checkNumbers(p *api.Plan) error {
	t, m := p.Target, p.Machine
	switch {
	case t.Compress != "" && t.Compress != "none" && t.Format != "qcow2" && t.Format != "":
		return usage("--compress %s: only qcow2 is compressed; streamOptimized VMDK always is", t.Compress)
	case t.Variant != "" && !slices.Contains(variants(t.Format), t.Variant):
		return usage("--variant %s: vmdk has %s; vhd, vhdx and vdi have %s; no other format has variants", t.Variant,
			strings.Join(variants("vmdk"), ", "), strings.Join(variants("vhd"), ", "))
	case p.Validate.Timeout < 0:
		return usage("--timeout %d: give a number of seconds", p.Validate.Timeout)
	case t.Bandwidth < 0:
		return usage("bandwidth %d: give a number of bytes a second", t.Bandwidth)
	case m.CPUs < 0:
		return usage("--cpus %d: give a number of CPUs", m.CPUs)
	case m.Memory < 0:
		return usage("memory %d: give a number of bytes", m.Memory)
	}
	for _, name := range p.Fix.AgentPackages {
		if !slices.Contains([]string{".deb", ".rpm", ".apk"}, filepath.Ext(name)) {
			return usage("--agent-package %s: give a .deb, .rpm or .apk file", name)
		}
	}
	for _, n := range m.NICs {
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

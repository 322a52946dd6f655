package cli

import (
	"strconv"

	"github.com/spf13/cobra"

	"hyper2kvm/agent/api"
)

func (a *app) diskDigestCommand() *cobra.Command {
	src := api.Source{Single: true}
	var o api.DigestOptions
	cmd := &cobra.Command{
		Use:   "digest IMAGE",
		Short: "Give the sha256 of what a guest sees on a disk, or of each range of it",
		Long: "digest prints the sha256 of the whole disk, that of the raw image. With --ranges it prints a list of\n" +
			"digests as JSON, one for each range, which takes all cores and reads nothing that is empty. With such\n" +
			"a list another site finds out which ranges of its copy differ; then the exit code is 1.",
		Example: "  h2k disk digest web01.vmdk\n  h2k disk digest web01.vmdk --ranges 64M > web01.sums\n" +
			"  h2k disk digest --verify web01.sums web01.qcow2",
		Args: exactly(1, "one disk image"),
		RunE: func(cmd *cobra.Command, args []string) error {
			p := newPlan(args, src, api.Digest)
			p.DigestHow = o
			if err := checkWords(p); err != nil {
				return err
			}
			return a.run(cmd.Context(), p, "", view{done: a.showDigest})
		},
	}
	f := cmd.Flags()
	f.Var((*byteSize)(&o.Range), "ranges", "give a digest for each range of this many `bytes` (4M, 1G)")
	f.StringVar(&o.Verify, "verify", "", "compare with this `list`, which --ranges printed")
	sourceFlags(cmd, &src)
	return cmd
}

func (a *app) showDigest(r *api.Report) {
	switch {
	case r.Verified != nil:
		a.showVerified(r.Verified)
	case r.Digests != nil:
		_ = a.printJSON(r.Digests) // the printer keeps the error of stdout
	default:
		for _, d := range r.Disks {
			a.printf("%s  %s\n", d.Digest, short(d.Source))
		}
	}
}

// showVerified names the ranges that differ, those that follow each other as one.
func (a *app) showVerified(c *api.DigestCheck) {
	if c.WantSize != 0 {
		a.printf("different: the list is of a disk of %s\n", bytesOf(c.WantSize))
	}
	for i := 0; i < len(c.Differ); {
		first, end, n := c.Differ[i], c.Differ[i].Offset, 0
		for ; i < len(c.Differ) && c.Differ[i].Offset == end; i++ {
			end += c.Differ[i].Length
			n++
		}
		a.printf("different: bytes %d to %d (%s)\n", first.Offset, end-1, counted(n, "range"))
	}
	if c.Equal {
		a.printf("equal: %s\n", counted(c.Checked, "range"))
	}
}

func counted(n int, what string) string {
	if n != 1 {
		what += "s"
	}
	return strconv.Itoa(n) + " " + what
}

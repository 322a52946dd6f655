package cli

import (
	"github.com/spf13/cobra"

	"hyper2kvm/agent/api"
)

func (a *app) diskServeCommand() *cobra.Command {
	src := api.Source{Single: true}
	var o api.ServeOptions
	cmd := &cobra.Command{
		Use:   "serve IMAGE --unix PATH | --listen HOST:PORT",
		Short: "Serve what a guest sees on a disk over NBD, until interrupted",
		Long: "serve offers the disk to NBD clients (qemu, nbdcopy, the kernel, h2k itself) with structured replies\n" +
			"and a map of what is empty. The image is never written: clients can write where --overlay names a file\n" +
			"that takes the writes, and keeps them for the next time. Other machines are served with TLS and\n" +
			"certificates on both sides only.",
		Example: "  h2k disk serve web01.vmdk --unix web01.sock\n" +
			"  h2k disk serve web01.vmdk --listen 10.0.0.5:10809 --tls-cert server-cert.pem --tls-key server-key.pem --tls-ca ca-cert.pem",
		Args: exactly(1, "one disk image"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if (o.Unix == "") == (o.Listen == "") {
				return usage("give either --unix PATH or --listen HOST:PORT")
			}
			p := newPlan(args, src, api.Serve)
			p.ServeAt = o
			if err := checkWords(p); err != nil {
				return err
			}
			return a.run(cmd.Context(), p, "", view{done: func(*api.Report) {}})
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.Unix, "unix", "", "`path` of a unix socket to make, for this user only")
	f.StringVar(&o.Listen, "listen", "", "`host:port` to listen on; port 0 takes a free one")
	f.StringVar(&o.Export, "export", "", "`name` of the export; clients may ask for none")
	f.StringVar(&o.Overlay, "overlay", "", "`file` that takes writes (default: read only)")
	f.StringVar(&o.TLSCert, "tls-cert", "", "PEM `file` with the server's certificate: clients must use TLS")
	f.StringVar(&o.TLSKey, "tls-key", "", "PEM `file` with its key")
	f.StringVar(&o.TLSCA, "tls-ca", "", "PEM `file` with the CA that clients' certificates must come from")
	sourceFlags(cmd, &src)
	return cmd
}

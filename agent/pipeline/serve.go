package pipeline

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"

	"golang.org/x/sync/errgroup"

	"hyper2kvm/agent/api"
	"hyper2kvm/agent/job"
	"hyper2kvm/image/nbd"
	"hyper2kvm/image/overlay"
)

// served are disks that virtual machines can attach, each by its own socket.
type served struct {
	sockets []string
	scratch *job.Scratch
	cancel  context.CancelFunc
	servers errgroup.Group
}

// serve serves each overlay over NBD. The sockets do not lie in the job folder:
// the path of a unix socket has at most 108 bytes.
func (r *run) serve(ctx context.Context, disks []*overlay.Overlay) (*served, error) {
	scratch, err := job.NewScratch(r.cfg.TempDir)
	if err != nil {
		return nil, api.NewError(api.CodeHost, "make folder for sockets in", r.cfg.TempDir, err)
	}
	s := &served{scratch: scratch}
	ctx, s.cancel = context.WithCancel(ctx)
	for i, d := range disks {
		socket := filepath.Join(scratch.Dir, fmt.Sprintf("nbd%d", i))
		l, err := net.Listen("unix", socket)
		if err != nil {
			return nil, errors.Join(api.NewError(api.CodeHost, "listen on", socket, err), s.stop())
		}
		s.servers.Go(func() error { return nbd.Serve(ctx, l, []nbd.Export{{Disk: d, Writer: d}}) })
		s.sockets = append(s.sockets, socket)
	}
	return s, nil
}

// stop ends the servers and gives the first error that a disk had.
func (s *served) stop() error {
	s.cancel()
	err := s.servers.Wait()
	return errors.Join(err, s.scratch.Close())
}

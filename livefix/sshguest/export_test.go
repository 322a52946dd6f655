package sshguest

import "hyper2kvm/fixes/guest"

// Below gives the tree below a folder of the guest: names are resolved before
// they are asked for, so that links cannot lead out of it.
func Below(g *Guest, dir string) guest.FS {
	f := &files{client: g.fs.client, shell: g.fs.shell, base: dir, selinux: g.fs.selinux, xattr: g.fs.xattr, fsync: g.fs.fsync}
	f.forget()
	return f
}

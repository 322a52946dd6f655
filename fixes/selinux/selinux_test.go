package selinux_test

import (
	"errors"
	"io/fs"
	"strings"
	"testing"

	"hyper2kvm/fixes/guest/guesttest"
	"hyper2kvm/fixes/selinux"
)

const policy = `
-- etc/selinux/config --
# This file controls the state of SELinux on the system.
SELINUX=enforcing
SELINUXTYPE=targeted
-- etc/selinux/targeted/contexts/files/file_contexts --
/.*	system_u:object_r:default_t:s0
/	-d	system_u:object_r:root_t:s0
/etc(/.*)?	system_u:object_r:etc_t:s0
/etc/shadow.*	--	system_u:object_r:shadow_t:s0
/etc/fstab\.d/x	--	system_u:object_r:plain_t:s0
/etc/fstab\.d/.*	system_u:object_r:any_t:s0
/etc/(fs|mnt)tab	system_u:object_r:tab_t:s0
/var/run(/.*)?	<<none>>
/usr/lib(/.*)?	system_u:object_r:lib_t:s0
/usr/lib/systemd/system(/.*)?	-d	system_u:object_r:unit_dir_t:s0
/usr/lib/systemd/system(/.*)?	--	system_u:object_r:unit_t:s0
/users/(?!a)b	system_u:object_r:perl_t:s0
broken
/x -q system_u:object_r:x_t:s0
-- etc/selinux/targeted/contexts/files/file_contexts.homedirs --
/users/[^/]+/\.ssh(/.*)?	unconfined_u:object_r:ssh_home_t:s0
-- etc/selinux/targeted/contexts/files/file_contexts.local --
/srv/app(/.*)?	system_u:object_r:httpd_sys_content_t:s0
/etc/local	system_u:object_r:local_t:s0
-- etc/selinux/targeted/contexts/files/file_contexts.subs_dist --
/run /var/run
/lib /usr/lib
/lib64 /usr/lib
-- etc/selinux/targeted/contexts/files/file_contexts.subs --
/data /srv
`

func TestLabel(t *testing.T) {
	p, err := selinux.Load(guesttest.New(t, policy))
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name string
		mode fs.FileMode
		want string
	}{
		{".", fs.ModeDir, "root_t"},
		{"etc", fs.ModeDir, "etc_t"},
		{"etc/fstab", 0, "tab_t"},
		{"etc/shadow-", 0, "shadow_t"},
		{"etc/shadow", fs.ModeDir, "etc_t"},
		{"etc/fstab.d/x", 0, "plain_t"}, // a plain name counts before a later expression
		{"etc/fstab.d/y", 0, "any_t"},
		{"etc/local", 0, "local_t"},
		{"run/user", 0, ""},
		{"lib/systemd/system/a.service", 0, "unit_t"},
		{"lib64/systemd/system", fs.ModeDir, "unit_dir_t"},
		{"usr/lib/systemd/system/link", fs.ModeSymlink, "lib_t"},
		{"library", 0, "default_t"},
		{"users/me/.ssh/id", 0, "ssh_home_t"},
		{"data/app/index.html", 0, "httpd_sys_content_t"},
		{"users/b", 0, "default_t"},
		{"opt/\xff\n", 0, "default_t"},
	} {
		got := p.Label(test.name, test.mode)
		if test.want == "" && got != "" || test.want != "" && !strings.Contains(got, ":"+test.want+":") {
			t.Errorf("%s (%v) has label %q, want %q", test.name, test.mode, got, test.want)
		}
	}
}

func TestLoadWithout(t *testing.T) {
	if _, err := selinux.Load(guesttest.Empty()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a guest without SELinux gives %v", err)
	}
	tree := guesttest.New(t, "-- etc/selinux/config --\nSELINUXTYPE=../../../etc\n")
	if _, err := selinux.Load(tree); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a policy outside of its folder gives %v", err)
	}
}

// FuzzLabel holds that no list of labels does more than give a label that it
// has, and that a line for everything in front changes nothing but misses.
func FuzzLabel(f *testing.F) {
	f.Add(policy, "etc/fstab", uint8(0))
	f.Add("/a(b|c)*\\.d x_t\n/a.* -- y_t\n", "a/b.d", uint8(1))
	f.Add("[[( -d <<none>>\n\\ z\n/a{2,3}+? q", "aaa", uint8(2))
	kinds := []fs.FileMode{0, fs.ModeDir, fs.ModeSymlink, fs.ModeSocket}
	f.Fuzz(func(t *testing.T, list, name string, at uint8) {
		if !fs.ValidPath(name) {
			return
		}
		mode := kinds[int(at)%len(kinds)]
		p := selinux.Parse([]byte(list))
		got := p.Label(name, mode)
		if got != "" && !strings.Contains(list, got) {
			t.Fatalf("label %q is not in the list", got)
		}
		if again := p.Label(name, mode); again != got {
			t.Fatalf("label %q the first time, %q the second", got, again)
		}
		if with := selinux.Parse([]byte("/.* every_t\n"+list)).Label(name, mode); got != "" && with != got {
			t.Fatalf("label %q became %q by a first line that counts last", got, with)
		}
	})
}

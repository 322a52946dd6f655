package linux

import (
	"strings"
	"testing"

	"hyper2kvm/fixes/guest"
	"hyper2kvm/fixes/guest/guesttest"
)

// TestCloudInit asks for each state of cloud-init what is written, and told.
func TestCloudInit(t *testing.T) {
	const (
		installed = "-- usr/bin/cloud-init --\n"
		instance  = "-- var/lib/cloud/instance/obj.pkl --\n"
		grub      = "-- boot/grub/grub.cfg --\nmenuentry 'x' {\n\tlinux /vmlinuz root=UUID=x ro"
	)
	for name, test := range map[string]struct {
		tree, want, note string
		marker           bool
	}{
		"no cloud-init":         {tree: instance},
		"switched off by file":  {tree: installed + instance + "-- etc/cloud/cloud-init.disabled --\n", note: "switched off by etc/cloud/cloud-init.disabled"},
		"switched off by grub":  {tree: installed + instance + grub + " cloud-init=disabled\n}\n", note: "cloud-init=disabled; nothing"},
		"masked":                {tree: installed + instance + "-- etc/systemd/system/cloud-init.service link=/dev/null --\n", note: "nothing to do"},
		"a server that it made": {tree: installed + instance, want: "network: {config: disabled}\nmanual_cache_clean: true\n", marker: true, note: "goes on as the instance"},
		"installed by subiquity": {tree: installed + instance + "-- etc/cloud/cloud.cfg.d/subiquity-disable-cloudinit-networking.cfg --\nnetwork: {config: disabled}\n" +
			"-- etc/cloud/cloud.cfg.d/99-installer.cfg --\ndatasource_list: [None]\n", want: "manual_cache_clean: true\n", marker: true},
		"it never ran":   {tree: installed + "-- etc/cloud/cloud.cfg --\ndatasource_list: [ Azure ]\n", want: "network: {config: disabled}\ndatasource_list: [ NoCloud, ConfigDrive, None ]\n", note: "looked for Azure only (etc/cloud/cloud.cfg)"},
		"kept by choice": {tree: installed + instance + "-- var/lib/cloud/instance/manual-clean --\n-- etc/cloud/cloud.cfg.d/mine.cfg --\nmanual_cache_clean: true\nnetwork:\n  config: disabled\n", marker: true},
		"the last file counts": {tree: installed + instance + "-- etc/cloud/cloud.cfg --\ndatasource_list: [ Ec2 ]\n-- etc/cloud/cloud.cfg.d/90.cfg --\ndatasource_list: [ NoCloud, Ec2 ]\n",
			want: "network: {config: disabled}\nmanual_cache_clean: true\n", marker: true},
		"a file behind ours":  {tree: installed + "-- etc/cloud/cloud.cfg.d/zzz.cfg --\ndatasource_list: [ GCE ]\n", want: "network: {config: disabled}\ndatasource_list: [ NoCloud, ConfigDrive, None ]\n", note: "zzz.cfg is read after zz-hyper2kvm.cfg, and its datasource_list counts"},
		"a file with a tab":   {tree: installed + "-- etc/cloud/cloud.cfg.d/a.cfg --\na:\n\t- b\n", want: "network: {config: disabled}\n", note: "a.cfg: not read"},
		"a pin by the kernel": {tree: installed + grub + " ds=nocloud;s=http://10.0.0.1/\n}\n", want: "network: {config: disabled}\n", note: "waits for that source at boot"},
		"its own network":     {tree: installed + "-- etc/cloud/cloud.cfg.d/50-curtin-networking.cfg --\nnetwork:\n  version: 2\n  ethernets: {ens192: {dhcp4: true}}\n", want: "network: {config: disabled}\n"},
	} {
		t.Run(name, func(t *testing.T) {
			g := &guest.Guest{FS: guesttest.New(t, test.tree), Facts: &guest.Facts{OS: guest.OS{Family: "linux"}, Network: []string{"netplan"}}}
			tree := g.FS.(*guesttest.FS)
			p, err := cloudInit().Plan(t.Context(), g)
			if err != nil {
				t.Fatal(err)
			}
			applyTo(t, tree, p.Changes)
			got := ""
			if _, err := tree.Stat(cloudOurs); err == nil {
				_, got, _ = strings.Cut(tree.ReadFile(t, cloudOurs), "\n")
			}
			if got != test.want {
				t.Errorf("wrote %q, want %q", got, test.want)
			}
			if _, err := tree.Stat(cloudMarker); (err == nil) != test.marker {
				t.Errorf("marker: %v, want %v", err, test.marker)
			}
			if !strings.Contains(strings.Join(p.Notes, "\n"), test.note) {
				t.Errorf("notes are %q", p.Notes)
			}
			if again, _ := cloudInit().Plan(t.Context(), g); len(again.Changes) > 0 {
				t.Errorf("a second run changes %v", again.Changes)
			}
		})
	}
}

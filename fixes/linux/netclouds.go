package linux

import (
	"path"
	"slices"
	"strings"

	"hyper2kvm/fixes"
	"hyper2kvm/fixes/linux/cmdline"
)

// clouds looks at what clouds put into a guest's network beside cloud-init.
func (n *naming) clouds() {
	n.policyRoutes()
	for _, dir := range []string{"etc/udev/rules.d", "usr/lib/udev/rules.d", "lib/udev/rules.d"} {
		for rule, text := range map[string]string{
			"68-azure-sriov-nm-unmanaged.rules": "is for Azure's virtual functions and matches nothing on KVM; left",
			"53-ec2-network-interfaces.rules":   "asks the metadata service of EC2 about each interface, which KVM does not have; remove the package ec2-net-utils",
			"64-gce-disk-removal.rules":         "is of Google's guest environment, whose agent may change the network's configuration; remove it where the agent is not wanted",
		} {
			if name := path.Join(dir, rule); n.exists(name) {
				n.note("%s %s", name, text)
			}
		}
	}
	n.networkRoot()
}

// policyRoutes takes the units out that ask EC2's metadata service for the
// routes of an interface, again each minute, and fail where there is none. A
// rule of udev puts them back on EC2 (amazon-ec2-net-utils:
// udev/99-vpc-policy-routes.rules, which goes by Amazon's drivers).
func (n *naming) policyRoutes() {
	for _, dir := range n.list("etc/systemd/system", ".wants") {
		for _, name := range n.list(dir, "") {
			unit := strings.TrimPrefix(path.Base(name), "refresh-")
			if _, err := n.fs.ReadLink(name); err != nil || !strings.HasPrefix(unit, "policy-routes@") {
				continue
			}
			n.changes = append(n.changes, fixes.Remove{Name: name})
			n.note("%s: asks the metadata service of EC2, which KVM does not have; disabled", name)
		}
	}
}

// networkRoot says of a root that came over the network: its disk was moved,
// and the arguments that fetch it still wait for the server.
func (n *naming) networkRoot() {
	var seen []string
	look := &planner{fs: n.fs, facts: n.facts}
	look.cmdlines(func(_ place, a *cmdline.Args) {
		for _, text := range a.All() {
			key, value, _ := cmdline.Split(text)
			over := key == "netroot" || key == "ip" && value == "ibft" || strings.HasPrefix(key, "rd.iscsi.") || key == "iscsi_firmware" || key == "root" && strings.HasPrefix(value, "iscsi:")
			if over && !slices.Contains(seen, text) {
				seen = append(seen, text)
			}
		}
	})
	if len(seen) > 0 {
		n.note("the root came over iSCSI (%s), and on KVM it is a disk: take these kernel arguments out when the guest is moved for good; left, as the old machine needs them", strings.Join(seen, " "))
	}
}

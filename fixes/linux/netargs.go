package linux

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"hyper2kvm/fixes/linux/cmdline"
)

// arguments lets the kernel's arguments that pick a card by address follow it:
// dracut's ifname=NAME:ADDRESS, and BOOTIF=01-ADDRESS of a network boot
// (dracut.cmdline(7)). Names in ip= stay, as the cards keep them.
func (n *naming) arguments() {
	if len(n.moved) == 0 {
		return
	}
	n.cmdlines(func(_ place, a *cmdline.Args) {
		for i, text := range a.All() {
			key, value, _ := cmdline.Split(text)
			switch key {
			case "ifname":
				if _, mac, ok := strings.Cut(value, ":"); ok && n.follow(mac) != mac {
					a.Set(i, strings.Replace(text, mac, n.follow(mac), 1))
				}
			case "BOOTIF":
				mac := strings.TrimPrefix(value, "01-")
				if n.follow(mac) != mac {
					a.Set(i, strings.Replace(text, mac, n.follow(mac), 1))
				}
			}
		}
	})
}

// places notes what is left to do outside of the guest: without udev the kernel
// numbers cards in the order of the bus.
func (n *naming) places() {
	if !n.readsLinks() && !n.readsAttr() && !n.beforeAttr() {
		for i, nic := range n.nics {
			if isKernelName(nic.Name) && nic.Name != fmt.Sprintf("eth%d", i) {
				n.note("%s (%s) is card number %d, and the guest has no udev that could name it; give it that place in the domain", nic.Name, nic.MAC, i)
			}
		}
	}
	n.strangers()
}

// strangers says which other files name an address that is no card's any more.
// What they are for only their owner knows.
func (n *naming) strangers() {
	if len(n.moved) == 0 {
		return
	}
	for _, dir := range []string{"etc", "etc/default", "etc/sysconfig", "etc/dhcp", "etc/firewalld", "etc/firewalld/zones", "etc/keepalived", "etc/corosync", "etc/sysctl.d", "etc/NetworkManager/dispatcher.d"} {
		for _, name := range n.once(n.list(dir, "")) {
			if info, err := n.fs.Stat(name); err != nil || info.Size() > 1<<16 || strings.HasPrefix(path.Base(name), "shadow") {
				continue
			}
			data, ok := n.pending(name)
			if !ok {
				continue
			}
			for _, text := range slices.Compact(macText.FindAllString(uncommented(data), -1)) {
				if n.follow(text) != text {
					n.note("%s: names the address %s, which is %s now; left", name, text, n.follow(text))
				}
			}
		}
	}
}

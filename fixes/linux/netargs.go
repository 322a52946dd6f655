package linux

import (
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

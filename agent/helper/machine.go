package helper

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/crypto/ssh"

	"hyper2kvm/agent/api"
	"hyper2kvm/agent/qemu"
	"hyper2kvm/initramfs"
)

// boot is the files of an image folder.
type boot struct{ kernel, initramfs, tools string }

// findImage finds the files that buildimage makes; the unpacked kernel is
// preferred, because it starts sooner.
func findImage(dir string) (boot, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return boot{}, api.NewError(api.CodeHelperImage, "find image of helper VM in", dir, err)
	}
	i := boot{
		kernel:    filepath.Join(dir, "vmlinux"),
		initramfs: filepath.Join(dir, "initramfs.img"),
		tools:     filepath.Join(dir, "tools.img"),
	}
	if _, err := os.Stat(i.kernel); errors.Is(err, fs.ErrNotExist) {
		i.kernel = filepath.Join(dir, "vmlinuz")
	}
	for _, path := range []string{i.kernel, i.initramfs, i.tools} {
		f, err := os.Open(path)
		if err != nil {
			return boot{}, api.NewError(api.CodeHelperImage, "find image of helper VM in", dir, err)
		}
		if err := f.Close(); err != nil {
			return boot{}, api.NewError(api.CodeHelperImage, "find image of helper VM in", dir, err)
		}
	}
	if err := initramfs.CheckContract(dir); err != nil {
		return boot{}, api.NewError(api.CodeHelperImage, "use image of helper VM in", dir, err)
	}
	return i, nil
}

// keys are the SSH keys of one run: the agent's and ours.
type keys struct {
	host, client ssh.Signer
	// hostPEM is the agent's private key, clientLine our public one.
	hostPEM, clientLine []byte
}

func newKeys() (*keys, error) {
	host, private, err := newKey()
	if err != nil {
		return nil, err
	}
	block, err := ssh.MarshalPrivateKey(private, "")
	if err != nil {
		return nil, fmt.Errorf("encode host key: %w", err)
	}
	client, _, err := newKey()
	if err != nil {
		return nil, err
	}
	return &keys{
		host: host, client: client,
		hostPEM: pem.EncodeToMemory(block), clientLine: ssh.MarshalAuthorizedKey(client.PublicKey()),
	}, nil
}

func newKey() (ssh.Signer, ed25519.PrivateKey, error) {
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("make key: %w", err)
	}
	signer, err := ssh.NewSignerFromSigner(private)
	if err != nil {
		return nil, nil, fmt.Errorf("use key: %w", err)
	}
	return signer, private, nil
}

// kernelArguments keep the kernel from what this machine does not need and that
// takes time, which matters most without KVM. The machine holds one guest's
// data and runs nothing that a guest could attack but itself, so it needs no
// security modules and no mitigations between processes.
func kernelArguments(debug bool) string {
	words := []string{
		"console=ttyS0", "quiet", "init_on_alloc=0", "rodata=off",
		"panic=-1", "reboot=t", // with -no-reboot QEMU ends when the agent does
		"acpi=off", // all devices are on the one PCI bus, and signal by MSI
		"mitigations=off", "lsm=", "ipv6.disable=1", "8250.nr_uarts=1",
		"no_timer_check",      // fails on a host so busy that the guest misses the ticks
		"cryptomgr.notests=1", // ciphers test themselves otherwise
		"initcall_blacklist=" + strings.Join(skippedInitcalls(), ","),
	}
	if debug {
		words = append(words, "h2k.debug")
	}
	return strings.Join(words, " ")
}

// skippedInitcalls are parts of the kernel that are not used here and that took
// more than 0.1 s each in its boot under TCG (initcall_debug): certificates for
// module signatures, a random number test, type data for tracing and BPF.
func skippedInitcalls() []string {
	return []string{
		"load_system_certificate_list", "jent_mod_init", "crypto_kdf108_init", "init_encrypted",
		"trace_eval_init", "bpf_tcp_ca_kfunc_init", "bpf_dummy_struct_ops_init",
	}
}

// machine is QEMU's side of the helper VM.
func machine(cfg Config, accel qemu.Accel, files boot, k *keys) qemu.Config {
	memory, cpus := cfg.Memory, cfg.CPUs
	if memory == 0 && accel.Name == qemu.KVM {
		memory = DefaultMemory
	}
	if memory == 0 {
		memory = SmallMemory
	}
	if cfg.Unlocks {
		memory += UnlockMemory
	}
	if cpus == 0 {
		cpus = DefaultCPUs
	}
	args := []string{
		"-M", "pc,usb=off,vmport=off,smbus=off,i8042=off", "-cpu", accel.CPU(), "-no-reboot", "-nic", "none",
		"-m", fmt.Sprintf("%dK", memory>>10), "-smp", strconv.Itoa(cpus),
		"-kernel", files.kernel, "-initrd", files.initramfs, "-append", kernelArguments(cfg.Debug),
		"-serial", "chardev:" + qemu.ConsoleID,
		"-device", "virtio-serial-pci,id=serial0", "-device", "virtserialport,bus=serial0.0,chardev=" + initramfs.Port + ",name=" + initramfs.Port,
		"-device", "virtio-scsi-pci,id=scsi0",
		"-fw_cfg", "name=" + initramfs.KeyFolder + initramfs.HostKey + ",file={" + initramfs.HostKey + "}",
		"-fw_cfg", "name=" + initramfs.KeyFolder + initramfs.ClientKey + ",file={" + initramfs.ClientKey + "}",
		"-fw_cfg", "name=" + initramfs.KeyFolder + initramfs.DiskCount + ",string=" + strconv.Itoa(len(cfg.Disks)),
	}
	for i, d := range cfg.Disks {
		args = append(args, attach(fmt.Sprintf("disk%d", i), initramfs.DiskTarget, i, d.Sector, map[string]any{
			"driver": "nbd", "server": map[string]string{"type": "unix", "path": d.Socket}, "export": d.Export,
			"read-only": d.ReadOnly, "discard": "unmap", "detect-zeroes": zeroes(d.ReadOnly),
		})...)
	}
	args = append(args, attach("tools", initramfs.ToolsTarget, 0, 0, map[string]any{
		"driver": "raw", "read-only": true,
		"file": map[string]any{"driver": "file", "filename": files.tools, "read-only": true},
	})...)
	return qemu.Config{
		Accel: accel, Args: args, Console: cfg.Console, Channels: []string{initramfs.Port},
		Blobs: map[string][]byte{initramfs.HostKey: k.hostPEM, initramfs.ClientKey: k.clientLine},
	}
}

// zeroes has blocks of zeroes written as holes, where anything is written.
func zeroes(readOnly bool) string {
	if readOnly {
		return "off"
	}
	return "unmap"
}

// attach gives the arguments for one logical unit of the SCSI controller.
func attach(name string, target, unit int, sector int64, block map[string]any) []string {
	block["node-name"] = name
	// Strings, numbers and maps of them cannot fail to encode.
	text, _ := json.Marshal(block)
	return []string{
		"-blockdev", string(text),
		"-device", fmt.Sprintf("scsi-hd,bus=scsi0.0,channel=0,scsi-id=%d,lun=%d,drive=%s,serial=%s", target, unit, name, name) + qemu.DiskOptions(sector),
	}
}

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

	"golang.org/x/crypto/ssh"

	"hyper2kvm/agent/api"
	"hyper2kvm/agent/qemu"
	"hyper2kvm/initramfs"
)

// image is the files of an image folder.
type image struct{ kernel, initramfs, tools string }

// findImage finds the files that buildimage makes; the unpacked kernel is
// preferred, because it starts sooner.
func findImage(dir string) (image, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return image{}, api.NewError(api.CodeHelperImage, "find image of helper VM in", dir, err)
	}
	i := image{
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
			return image{}, api.NewError(api.CodeHelperImage, "find image of helper VM in", dir, err)
		}
		if err := f.Close(); err != nil {
			return image{}, api.NewError(api.CodeHelperImage, "find image of helper VM in", dir, err)
		}
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
// takes time. panic=-1 with -no-reboot ends QEMU when the agent dies.
const kernelArguments = "console=ttyS0 quiet panic=-1"

// machine is QEMU's side of the helper VM.
func machine(cfg Config, accel qemu.Accel, boot image, k *keys) qemu.Config {
	memory, cpus := cfg.Memory, cfg.CPUs
	if memory == 0 {
		memory = DefaultMemory
	}
	if cpus == 0 {
		cpus = DefaultCPUs
	}
	cmdline := kernelArguments
	if cfg.Debug {
		cmdline += " h2k.debug"
	}
	args := []string{
		"-M", "pc,usb=off,vmport=off,smbus=off,i8042=off", "-cpu", accel.CPU(), "-no-reboot", "-nic", "none",
		"-m", fmt.Sprintf("%dK", memory>>10), "-smp", strconv.Itoa(cpus),
		"-kernel", boot.kernel, "-initrd", boot.initramfs, "-append", cmdline,
		"-serial", "chardev:" + qemu.ConsoleID,
		"-device", "virtio-serial-pci,id=serial0", "-device", "virtserialport,bus=serial0.0,chardev=" + initramfs.Port + ",name=" + initramfs.Port,
		"-device", "virtio-scsi-pci,id=scsi0",
		"-fw_cfg", "name=" + initramfs.KeyFolder + initramfs.HostKey + ",file={" + initramfs.HostKey + "}",
		"-fw_cfg", "name=" + initramfs.KeyFolder + initramfs.ClientKey + ",file={" + initramfs.ClientKey + "}",
		"-fw_cfg", "name=" + initramfs.KeyFolder + initramfs.DiskCount + ",string=" + strconv.Itoa(len(cfg.Disks)),
	}
	for i, d := range cfg.Disks {
		args = append(args, attach(fmt.Sprintf("disk%d", i), initramfs.DiskTarget, i, map[string]any{
			"driver": "nbd", "server": map[string]string{"type": "unix", "path": d.Socket}, "export": d.Export,
			"read-only": d.ReadOnly, "discard": "unmap", "detect-zeroes": zeroes(d.ReadOnly),
		})...)
	}
	args = append(args, attach("tools", initramfs.ToolsTarget, 0, map[string]any{
		"driver": "raw", "read-only": true,
		"file": map[string]any{"driver": "file", "filename": boot.tools, "read-only": true},
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
func attach(name string, target, unit int, block map[string]any) []string {
	block["node-name"] = name
	// Strings, numbers and maps of them cannot fail to encode.
	text, _ := json.Marshal(block)
	return []string{
		"-blockdev", string(text),
		"-device", fmt.Sprintf("scsi-hd,bus=scsi0.0,channel=0,scsi-id=%d,lun=%d,drive=%s,serial=%s", target, unit, name, name),
	}
}

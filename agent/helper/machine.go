package helper

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/crypto/ssh"

	"hyper2kvm/initramfs"
)

// portID is QEMU's name for the character device behind the agent's port.
const portID = "agent"

// keys are the two sides of the run's SSH.
type keys struct {
	host, client ssh.Signer
	hostPEM      []byte
}

func newKeys() (*keys, error) {
	host, hostPEM, err := newKey()
	if err != nil {
		return nil, err
	}
	client, _, err := newKey()
	if err != nil {
		return nil, err
	}
	return &keys{host: host, client: client, hostPEM: hostPEM}, nil
}

func newKey() (ssh.Signer, []byte, error) {
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("make key: %w", err)
	}
	signer, err := ssh.NewSignerFromSigner(private)
	if err != nil {
		return nil, nil, fmt.Errorf("make key: %w", err)
	}
	block, err := ssh.MarshalPrivateKey(private, "")
	if err != nil {
		return nil, nil, fmt.Errorf("encode key: %w", err)
	}
	return signer, pem.EncodeToMemory(block), nil
}

// write puts what fw_cfg hands in into a folder that only we can read. Keys go
// by file: arguments are seen by everybody on the host.
func (k *keys) write(disks int) (string, error) {
	dir, err := os.MkdirTemp("", "h2k-keys-")
	if err != nil {
		return "", fmt.Errorf("make folder for keys: %w", err)
	}
	for name, text := range map[string][]byte{
		initramfs.HostKey:   k.hostPEM,
		initramfs.ClientKey: ssh.MarshalAuthorizedKey(k.client.PublicKey()),
		initramfs.DiskCount: []byte(strconv.Itoa(disks)),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
			return "", errors.Join(fmt.Errorf("write key: %w", err), os.RemoveAll(dir))
		}
	}
	return dir, nil
}

// args are QEMU's arguments for the machine.
func (c Config) args(keyDir string) []string {
	memory := c.Memory
	if memory == 0 {
		memory = defaultMemory
	}
	file := func(name string) string { return filepath.Join(c.ImageDir, name) }
	args := []string{
		"-machine", "q35,usb=off,smbus=off,sata=off,vmport=off,graphics=off",
		"-cpu", c.Accel.CPU(),
		"-m", strconv.FormatInt(memory>>20, 10),
		"-smp", "2",
		"-kernel", file("vmlinuz"), "-initrd", file("initramfs.img"),
		"-append", "console=ttyS0 quiet panic=-1 random.trust_cpu=on",
		"-no-reboot",
		"-device", "virtio-serial-pci,romfile=",
		"-device", "virtserialport,chardev=" + portID + ",name=" + initramfs.Port,
		"-device", "virtio-scsi-pci,id=scsi0,romfile=",
		"-blockdev", "driver=raw,node-name=tools,read-only=on,file.driver=file,file.filename=" + escape(file("tools.img")),
		"-device", fmt.Sprintf("scsi-hd,drive=tools,bus=scsi0.0,scsi-id=%d,lun=0", initramfs.ToolsTarget),
	}
	for _, name := range []string{initramfs.HostKey, initramfs.ClientKey, initramfs.DiskCount} {
		args = append(args, "-fw_cfg", "name="+initramfs.KeyFolder+name+",file="+escape(filepath.Join(keyDir, name)))
	}
	for i, d := range c.Disks {
		args = append(args, d.args(i)...)
	}
	return args
}

func (d Disk) args(i int) []string {
	readOnly, discard := "off", "unmap"
	if d.ReadOnly {
		readOnly, discard = "on", "ignore"
	}
	return []string{
		"-blockdev", fmt.Sprintf("driver=raw,node-name=disk%d,read-only=%s,discard=%s,detect-zeroes=%s,file.driver=nbd,file.server.type=unix,file.server.path=%s,file.export=%s",
			i, readOnly, discard, detectZeroes(d.ReadOnly), escape(d.Socket), escape(d.Export)),
		"-device", fmt.Sprintf("scsi-hd,drive=disk%d,bus=scsi0.0,scsi-id=%d,lun=%d,serial=h2k-%d", i, initramfs.DiskTarget, i, i),
	}
}

func detectZeroes(readOnly bool) string {
	if readOnly {
		return "off"
	}
	return "unmap"
}

// escape doubles commas, which separate QEMU's options.
func escape(s string) string {
	out := make([]byte, 0, len(s))
	for i := range len(s) {
		out = append(out, s[i])
		if s[i] == ',' {
			out = append(out, ',')
		}
	}
	return string(out)
}

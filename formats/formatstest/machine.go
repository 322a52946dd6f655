package formatstest

import (
	"archive/tar"
	"bytes"
	"fmt"
	"strings"
	"testing"
)

// Member is a file of an archive, or of a folder.
type Member struct {
	Name    string
	Content []byte
}

// Tar makes an archive of the members; format is ustar's, pax's or GNU's.
func Tar(t testing.TB, format tar.Format, members ...Member) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, m := range members {
		err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: m.Name, Size: int64(len(m.Content)), Mode: 0o644, Format: format})
		if err == nil {
			_, err = w.Write(m.Content)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// Described is a machine to be described: it has 3 CPUs and 1536 MiB of memory,
// and its disks are attached to one controller in their order.
type Described struct {
	Name       string
	Firmware   string // "bios", "efi", "" says nothing
	SecureBoot bool
	Disks      []string // references of their files
	Capacity   int64    // of each disk, in bytes
	MACs       []string // "" for a card without one
}

// OVF is its descriptor, as VMware writes them.
func (d Described) OVF() []byte {
	var files, disks strings.Builder
	for i, href := range d.Disks {
		fmt.Fprintf(&files, "<File ovf:id=\"file%d\" ovf:href=%q/>\n", i+1, href)
		fmt.Fprintf(&disks, "<Disk ovf:diskId=\"vmdisk%d\" ovf:fileRef=\"file%d\" ovf:capacity=\"%d\"/>\n", i+1, i+1, d.Capacity)
	}
	return fmt.Appendf(nil, `<?xml version="1.0" encoding="UTF-8"?>
<Envelope xmlns="http://schemas.dmtf.org/ovf/envelope/1" xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/1"
 xmlns:rasd="http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData" xmlns:vmw="http://www.vmware.com/schema/ovf">
<References>%s</References>
<DiskSection>%s</DiskSection>
%s</Envelope>
`, files.String(), disks.String(), d.system())
}

func (d Described) system() string {
	var b strings.Builder
	item := func(id, kind int, more string) {
		fmt.Fprintf(&b, "<Item>%s<rasd:InstanceID>%d</rasd:InstanceID><rasd:ResourceType>%d</rasd:ResourceType></Item>\n", more, id, kind)
	}
	fmt.Fprintf(&b, "<VirtualSystem ovf:id=%q><Name>%s</Name><VirtualHardwareSection>\n", d.Name, d.Name)
	item(1, 3, "<rasd:VirtualQuantity>3</rasd:VirtualQuantity>")
	item(2, 4, "<rasd:AllocationUnits>byte * 2^20</rasd:AllocationUnits><rasd:VirtualQuantity>1536</rasd:VirtualQuantity>")
	item(3, 6, "<rasd:Address>0</rasd:Address><rasd:ResourceSubType>lsilogic</rasd:ResourceSubType>")
	for i := range d.Disks {
		item(10+i, 17, fmt.Sprintf("<rasd:AddressOnParent>%d</rasd:AddressOnParent><rasd:HostResource>ovf:/disk/vmdisk%d</rasd:HostResource><rasd:Parent>3</rasd:Parent>", i, i+1))
	}
	for i, mac := range d.MACs {
		address := ""
		if mac != "" {
			address = "<rasd:Address>" + mac + "</rasd:Address>"
		}
		item(100+i, 10, address+"<rasd:Connection>VM Network</rasd:Connection><rasd:ResourceSubType>VmxNet3</rasd:ResourceSubType>")
	}
	if d.Firmware != "" {
		fmt.Fprintf(&b, "<vmw:Config vmw:key=\"firmware\" vmw:value=%q/>\n", d.Firmware)
	}
	if d.SecureBoot {
		b.WriteString("<vmw:Config vmw:key=\"bootOptions.efiSecureBootEnabled\" vmw:value=\"true\"/>\n")
	}
	b.WriteString("</VirtualHardwareSection></VirtualSystem>\n")
	return b.String()
}

// Together describes several machines in one descriptor. Their disks are those of
// the first.
func Together(machines ...Described) []byte {
	text := string(machines[0].OVF())
	for _, m := range machines[1:] {
		text = strings.Replace(text, "</Envelope>", m.system()+"</Envelope>", 1)
	}
	return []byte(text)
}

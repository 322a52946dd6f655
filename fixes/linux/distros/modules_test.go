package distros

type module struct {
	dir     string // below kernel/
	deps    []string
	aliases []string
}

// knownModules tells where modules lie and what they need, as Linux has had them
// for long; what a kernel does not have of it is left out.
func knownModules() map[string]module {
	virtio := []string{"virtio_ring", "virtio"}
	scsi := []string{"scsi_mod"}
	return map[string]module{
		"virtio":                {dir: "drivers/virtio"},
		"virtio_ring":           {dir: "drivers/virtio"},
		"virtio_pci_modern_dev": {dir: "drivers/virtio"},
		"virtio_pci_legacy_dev": {dir: "drivers/virtio"},
		"virtio_pci": {dir: "drivers/virtio", deps: []string{"virtio_pci_legacy_dev", "virtio_pci_modern_dev", "virtio_ring", "virtio"},
			aliases: []string{"pci:v00001AF4d*sv*sd*bc*sc*i*"}},
		"virtio_blk":   {dir: "drivers/block", deps: virtio, aliases: []string{"virtio:d00000002v*"}},
		"virtio_scsi":  {dir: "drivers/scsi", deps: append([]string{"scsi_mod"}, virtio...), aliases: []string{"virtio:d00000008v*"}},
		"net_failover": {dir: "drivers/net", deps: []string{"failover"}},
		"failover":     {dir: "net/core"},
		"virtio_net":   {dir: "drivers/net", deps: append([]string{"net_failover"}, virtio...), aliases: []string{"virtio:d00000001v*"}},

		"scsi_mod":           {dir: "drivers/scsi"},
		"scsi_transport_spi": {dir: "drivers/scsi", deps: scsi},
		"scsi_transport_sas": {dir: "drivers/scsi", deps: scsi},
		"sd_mod":             {dir: "drivers/scsi", deps: scsi, aliases: []string{"scsi:t-0x00*"}},
		"sr_mod":             {dir: "drivers/scsi", deps: []string{"cdrom", "scsi_mod"}},
		"cdrom":              {dir: "drivers/cdrom"},
		"mptbase":            {dir: "drivers/message/fusion"},
		"mptscsih":           {dir: "drivers/message/fusion", deps: []string{"mptbase", "scsi_mod"}},
		"mptspi":             {dir: "drivers/message/fusion", deps: []string{"mptscsih", "mptbase", "scsi_transport_spi", "scsi_mod"}},
		"mptsas":             {dir: "drivers/message/fusion", deps: []string{"mptscsih", "mptbase", "scsi_transport_sas", "scsi_mod"}},
		"vmw_pvscsi":         {dir: "drivers/scsi", deps: scsi, aliases: []string{"pci:v000015ADd000007C0sv*sd*bc*sc*i*"}},
		"libata":             {dir: "drivers/ata", deps: scsi},
		"libahci":            {dir: "drivers/ata", deps: []string{"libata"}},
		"ahci":               {dir: "drivers/ata", deps: []string{"libahci", "libata"}},
		"ata_piix":           {dir: "drivers/ata", deps: []string{"libata"}},
		"cciss":              {dir: "drivers/block", deps: scsi},
		"hpsa":               {dir: "drivers/scsi", deps: []string{"scsi_transport_sas", "scsi_mod"}},
		"megaraid_sas":       {dir: "drivers/scsi", deps: scsi},
		"nvme_core":          {dir: "drivers/nvme/host"},
		"nvme":               {dir: "drivers/nvme/host", deps: []string{"nvme_core"}},

		"hv_vmbus":       {dir: "drivers/hv"},
		"hv_storvsc":     {dir: "drivers/scsi", deps: []string{"hv_vmbus", "scsi_mod"}},
		"hv_netvsc":      {dir: "drivers/net/hyperv", deps: []string{"hv_vmbus"}},
		"xen_blkfront":   {dir: "drivers/block"},
		"xen_netfront":   {dir: "drivers/net"},
		"xenblk":         {dir: "drivers/xen/blkfront"},
		"xennet":         {dir: "drivers/xen/netfront"},
		"vmxnet3":        {dir: "drivers/net/vmxnet3"},
		"e1000":          {dir: "drivers/net/ethernet/intel/e1000"},
		"pcnet32":        {dir: "drivers/net"},
		"ena":            {dir: "drivers/net/ethernet/amazon/ena"},
		"vmwgfx":         {dir: "drivers/gpu/drm/vmwgfx"},
		"bochs_drm":      {dir: "drivers/gpu/drm/bochs"},
		"bochs":          {dir: "drivers/gpu/drm/tiny"},
		"dm_mod":         {dir: "drivers/md"},
		"dm_crypt":       {dir: "drivers/md", deps: []string{"dm_mod"}},
		"dm_multipath":   {dir: "drivers/md", deps: []string{"dm_mod"}},
		"raid1":          {dir: "drivers/md"},
		"jbd":            {dir: "fs/jbd"},
		"jbd2":           {dir: "fs/jbd2"},
		"mbcache":        {dir: "fs"},
		"ext3":           {dir: "fs/ext3", deps: []string{"jbd"}},
		"ext4":           {dir: "fs/ext4", deps: []string{"jbd2", "mbcache"}},
		"xfs":            {dir: "fs/xfs", deps: []string{"libcrc32c"}},
		"libcrc32c":      {dir: "lib"},
		"btrfs":          {dir: "fs/btrfs", deps: []string{"libcrc32c"}},
		"reiserfs":       {dir: "fs/reiserfs"},
		"processor":      {dir: "drivers/acpi"},
		"crc_t10dif":     {dir: "lib"},
		"usb_storage":    {dir: "drivers/usb/storage", deps: scsi},
		"kernel_builtin": {dir: "lib"},
	}
}

# The identities of the disk, known before it exists because grub.cfg names them.
ROOT_UUID=9d2b1e44-31c5-4c0f-8a7e-0d4f5a6b1301
BOOT_UUID=c2a7f6d0-5b3e-47d1-b0f2-1f2e3d4c1302
SWAP_UUID=7f8e9d0c-1b2a-4938-8756-647382911303
ESP_ID=13D3B1A5
DISK_GUID=6A7B8C9D-0E1F-4A2B-9C3D-4E5F6A7B1300
BYPATH=/dev/disk/by-path/pci-0000:03:00.0-scsi-0:0:0:0
MAC=00:50:56:01:0d:03

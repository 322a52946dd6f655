# The identities of the disk.
BOOT_UUID=2f0e4f2a-6c1b-4b1e-9d55-3b7a0c5e2201
ROOT_UUID=2f0e4f2a-6c1b-4b1e-9d55-3b7a0c5e2202
SWAP_UUID=2f0e4f2a-6c1b-4b1e-9d55-3b7a0c5e2203
DISK_ID=2b3c4d22

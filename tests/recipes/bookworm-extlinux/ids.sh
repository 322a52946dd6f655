# The identities of the disk.
ROOT_UUID=4f0e4f2a-6c1b-4b1e-9d55-3b7a0c5e2401
DISK_ID=2b3c4d24

# The identities of the disk.
ROOT_UUID=7f0e4f2a-6c1b-4b1e-9d55-3b7a0c5e2701
SWAP_UUID=7f0e4f2a-6c1b-4b1e-9d55-3b7a0c5e2702
DISK_ID=2b3c4d27
MAC=00:50:56:01:27:01

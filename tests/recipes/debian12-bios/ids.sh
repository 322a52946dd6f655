# The identities of the disk, known before it exists because grub.cfg names them.
ROOT_UUID=0b6c5f3e-7a51-4c1d-9c3b-6f1f5f0a1201
SWAP_UUID=5d1a0c2f-9e0b-4b69-8f55-2f0a6c7e1202
DISK_ID=1a2b3c4d

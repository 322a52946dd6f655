# The identities of the disks.
ARRAY_UUID=3f0e4f2a:6c1b4b1e:9d553b7a:0c5e2301
ROOT_UUID=3f0e4f2a-6c1b-4b1e-9d55-3b7a0c5e2302
SWAP_UUID=3f0e4f2a-6c1b-4b1e-9d55-3b7a0c5e2303

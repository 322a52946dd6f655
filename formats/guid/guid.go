// Package guid converts GUIDs between what disks hold and what people read.
// Microsoft's structures, VirtualBox's and the UEFI specification (appendix A)
// store the first three fields little endian.
package guid

import "github.com/google/uuid"

// Size is what a GUID takes, in bytes.
const Size = 16

// String gives the first 16 bytes of b as text, in lower case.
func String(b []byte) string { return Parse(b).String() }

// Parse gives the first 16 bytes of b as a UUID in its usual order.
func Parse(b []byte) uuid.UUID { return swap(uuid.UUID(b[:Size])) }

// Bytes gives a UUID as it is stored.
func Bytes(u uuid.UUID) []byte {
	u = swap(u)
	return u[:]
}

func swap(u uuid.UUID) uuid.UUID {
	u[0], u[1], u[2], u[3] = u[3], u[2], u[1], u[0]
	u[4], u[5] = u[5], u[4]
	u[6], u[7] = u[7], u[6]
	return u
}

package probe

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"maps"
	"slices"
	"strings"

	"hyper2kvm/fixes/guest"
)

// luks reads LUKS1 and LUKS2 headers (LUKS1 on-disk format 1.2.3 section 2.1;
// LUKS2 on-disk format 1.1.0 section 2.1): version at 6, UUID at 168, and in
// LUKS2 the label at 24.
func luks(s *source) (Content, bool) {
	h := s.at(0, 592)
	if h == nil || !bytes.HasPrefix(h, []byte("LUKS\xba\xbe")) {
		return Content{}, false
	}
	c := Content{Type: "crypto_LUKS", UUID: text(h[168:208])}
	switch binary.BigEndian.Uint16(h[6:]) {
	case 1:
		c.Version = "1"
		c.LUKS = &guest.LUKS{Version: 1, Passphrases: luks1Slots(h)}
	case 2:
		c.Version, c.Label = "2", text(h[24:72])
		c.LUKS = luks2(s, h)
	default:
		return Content{}, false
	}
	return c, true
}

// luks1Slots counts the key slots in use: eight of 48 bytes from 208 on, the
// state first.
func luks1Slots(h []byte) int {
	const first, size, active = 208, 48, 0x00AC71F3
	n := 0
	for i := range 8 {
		if binary.BigEndian.Uint32(h[first+i*size:]) == active {
			n++
		}
	}
	return n
}

// maxLUKS2Header is the largest header that the format has, in bytes.
const maxLUKS2Header = 4 << 20

// luks2Metadata is the part of a LUKS2 header's JSON that tells what opens it.
type luks2Metadata struct {
	Keyslots map[string]json.RawMessage `json:"keyslots"`
	Tokens   map[string]luks2Token      `json:"tokens"`
}

type luks2Token struct {
	Type     string   `json:"type"`
	Keyslots []string `json:"keyslots"`
	JWE      struct {
		Protected string `json:"protected"`
	} `json:"jwe"` // of clevis
}

// luks2 reads the metadata, which stand as JSON behind the binary header of 4096
// bytes up to hdr_size, at 8. nil is for what cannot be read: the volume may
// still be opened.
func luks2(s *source, h []byte) *guest.LUKS {
	const binary4K = 4096
	size := int64(min(binary.BigEndian.Uint64(h[8:]), maxLUKS2Header))
	area := s.at(binary4K, size-binary4K)
	area, _, _ = bytes.Cut(area, []byte{0})
	var meta luks2Metadata
	if len(area) == 0 || json.Unmarshal(area, &meta) != nil {
		return &guest.LUKS{Version: 2, Passphrases: -1}
	}
	out := &guest.LUKS{Version: 2}
	held := map[string]bool{}
	for _, id := range slices.Sorted(maps.Keys(meta.Tokens)) {
		t := meta.Tokens[id]
		for _, slot := range t.Keyslots {
			// What systemd enrols as a recovery key is typed like a passphrase, and
			// a keyring's description leads to one.
			held[slot] = held[slot] || t.Type != "systemd-recovery" && t.Type != "luks2-keyring"
		}
		if t.Type == "clevis" {
			out.Tokens = append(out.Tokens, clevis(t.JWE.Protected, maxClevisDepth)...)
		} else {
			out.Tokens = append(out.Tokens, guest.LUKSToken{Type: t.Type})
		}
	}
	for slot := range meta.Keyslots {
		if !held[slot] {
			out.Passphrases++
		}
	}
	return out
}

// maxClevisDepth bounds how deep policies of clevis are nested.
const maxClevisDepth = 4

// clevis reads the header of what clevis-encrypt(1) made: which pin opens it,
// and for the Shamir policy the pins below it.
func clevis(header string, depth int) []guest.LUKSToken {
	data, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(header, "="))
	var h struct {
		Clevis struct {
			Pin  string `json:"pin"`
			Tang struct {
				URL string `json:"url"`
			} `json:"tang"`
			SSS struct {
				JWE []string `json:"jwe"`
			} `json:"sss"`
		} `json:"clevis"`
	}
	if err != nil || json.Unmarshal(data, &h) != nil || h.Clevis.Pin == "" {
		return []guest.LUKSToken{{Type: "clevis"}}
	}
	if h.Clevis.Pin != "sss" || depth == 0 {
		return []guest.LUKSToken{{Type: "clevis", Pin: h.Clevis.Pin, Server: h.Clevis.Tang.URL}}
	}
	var out []guest.LUKSToken
	for _, jwe := range h.Clevis.SSS.JWE {
		head, _, _ := strings.Cut(jwe, ".")
		out = append(out, clevis(head, depth-1)...)
	}
	return out
}

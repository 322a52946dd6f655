package cli

import (
	"path/filepath"

	"github.com/spf13/cobra"

	"hyper2kvm/agent/api"
)

// keyFlags are the keys of encrypted volumes as they stand on the command line.
// They are read only when a command runs: a flag that cannot be read is repeated
// in the error, and somebody may have given the secret itself.
type keyFlags struct{ given []string }

func (k *keyFlags) flags(cmd *cobra.Command) {
	cmd.Flags().StringArrayVar(&k.given, "key", nil,
		"where the `key` of an encrypted volume comes from: VOLUME:file:PATH, VOLUME:env:NAME, VOLUME:keyring:DESCRIPTION or "+
			"VOLUME:prompt; VOLUME is its UUID, its device or all. May be given several times")
}

// apply puts the keys that were given in the place of the plan's.
func (k *keyFlags) apply(p *api.Plan) error {
	if len(k.given) > 0 {
		p.Keys = nil
	}
	for _, text := range k.given {
		key, err := api.ParseKey(text)
		if err != nil {
			return usage("--key: %w", err)
		}
		p.Keys = append(p.Keys, key)
	}
	return nil
}

// absoluteKeys makes the files of keys mean the same in any working folder.
func absoluteKeys(keys []api.Key) error {
	for i, k := range keys {
		kind, path := k.Kind()
		if kind != api.FromFile {
			continue
		}
		full, err := filepath.Abs(path)
		if err != nil {
			return api.NewError(api.CodeHost, "find the folder of", path, err)
		}
		keys[i].From = kind + ":" + full
	}
	return nil
}

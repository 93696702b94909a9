//go:build tools

// Package tools names the programs whose sources go.sum has to cover.
package tools

import (
	_ "github.com/lima-vm/lima/v2/cmd/lima-guestagent"
	_ "github.com/lima-vm/lima/v2/cmd/limactl"
)

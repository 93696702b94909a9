//go:build tools

// Package tools pins what the tests publish to.
package tools

import _ "github.com/versity/versitygw/cmd/versitygw"

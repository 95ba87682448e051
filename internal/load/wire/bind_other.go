//go:build !linux

package wire

import "syscall"

// prepare does nothing: what it sets on Linux has other names elsewhere, or none.
func prepare(_ syscall.RawConn, _, _ bool) error { return nil }

//go:build !linux

package wire

import "syscall"

// bindLate does nothing where there is no IP_BIND_ADDRESS_NO_PORT.
func bindLate(_, _ string, _ syscall.RawConn) error { return nil }

//go:build !linux

package load

import "syscall"

// apart keeps a child out of the terminal's group, so that an interrupt reaches only the run,
// which ends its children in their turn.
func apart() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }

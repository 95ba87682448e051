//go:build unix

package gateway

import (
	"errors"
	"io"
	"net"
	"os"
	"syscall"
)

const canReadRaw = true

// readRaw waits until there is something to read, and only then takes a buffer for it.
func (c *sock) readRaw() (n int, err error) {
	failed := c.raw.Read(func(fd uintptr) bool {
		c.in = buffers.Get().(*[sharedSize]byte)[:]
		for {
			n, err = syscall.Read(int(fd), c.in)
			if !errors.Is(err, syscall.EINTR) {
				break
			}
		}
		if n > 0 {
			return true
		}
		buffers.Put((*[sharedSize]byte)(c.in))
		c.in = nil
		return !errors.Is(err, syscall.EAGAIN)
	})
	switch {
	case failed != nil:
		return 0, failed
	case err != nil:
		return 0, &net.OpError{Op: "read", Net: "tcp", Err: os.NewSyscallError("read", err)}
	case n == 0:
		return 0, io.EOF
	}
	return n, nil
}

package wire

import (
	"errors"
	"syscall"
)

// ipBindAddressNoPort is IP_BIND_ADDRESS_NO_PORT of ip(7).
const ipBindAddressNoPort = 24

// What a narrow connection takes: the segments of the smallest line, and the least buffer.
const (
	narrowSegment = 536
	narrowBuffer  = 2 << 10
)

// prepare sets up a socket that is to be connected. If it is bound to a local address, the
// system chooses the port when it connects and not when it binds: a port is then taken only
// toward one server, and free ones are found fast when most are taken.
func prepare(c syscall.RawConn, bound, narrow bool) error {
	var err error
	set := func(fd uintptr, level, option, value int) {
		err = errors.Join(err, syscall.SetsockoptInt(int(fd), level, option, value))
	}
	if e := c.Control(func(fd uintptr) {
		if bound {
			set(fd, syscall.IPPROTO_IP, ipBindAddressNoPort, 1)
		}
		if narrow {
			set(fd, syscall.IPPROTO_TCP, syscall.TCP_MAXSEG, narrowSegment)
			set(fd, syscall.SOL_SOCKET, syscall.SO_RCVBUF, narrowBuffer)
		}
	}); e != nil {
		return e
	}
	return err
}

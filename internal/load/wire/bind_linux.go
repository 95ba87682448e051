package wire

import "syscall"

// ipBindAddressNoPort is IP_BIND_ADDRESS_NO_PORT of ip(7).
const ipBindAddressNoPort = 24

// bindLate has the system choose the local port when it connects and not when it binds: a
// port is then taken only toward one server, and free ones are found fast when most are taken.
func bindLate(_, _ string, c syscall.RawConn) error {
	var err error
	if e := c.Control(func(fd uintptr) {
		err = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_IP, ipBindAddressNoPort, 1) //nolint:gosec // G115: a file descriptor
	}); e != nil {
		return e
	}
	return err
}

package wire

import "net"

// Frames runs the decoder of frames over what a server sent in pieces, on a connection whose
// own frames go to nc, and returns how many bytes it still keeps.
func Frames(nc net.Conn, pieces [][]byte, handle func([]byte) error) (kept int, err error) {
	c := &Conn{Conn: nc}
	for _, p := range pieces {
		data := append(c.rest, p...)
		used, err := c.frames(data, handle)
		c.keep(data[used:])
		if err != nil {
			return 0, err
		}
	}
	return len(c.rest) + len(c.part), nil
}

// Key and Accept are the two keys of the handshake.
const (
	Key    = key
	Accept = accept
)

const MaxMessage = maxMessage

package gateway_test

import (
	"encoding/binary"
	"io"
	"testing"
)

// writeFrame writes one masked frame with FIN as given in its first byte.
func writeFrame(t *testing.T, w io.Writer, op byte, payload string) {
	t.Helper()
	b := []byte{op}
	switch n := len(payload); {
	case n < 126:
		b = append(b, 0x80|byte(n))
	case n < 1<<16:
		b = binary.BigEndian.AppendUint16(append(b, 0x80|126), uint16(n))
	default:
		b = binary.BigEndian.AppendUint64(append(b, 0x80|127), uint64(n))
	}
	mask := [4]byte{1, 2, 3, 4}
	b = append(b, mask[:]...)
	for i := range len(payload) {
		b = append(b, payload[i]^mask[i%4])
	}
	if _, err := w.Write(b); err != nil {
		t.Fatalf("write frame: %v", err)
	}
}

// readFrame reads one frame of the server and returns its first byte and payload.
func readFrame(c io.Reader) (frame []byte, err error) {
	var head [10]byte
	if _, err := io.ReadFull(c, head[:2]); err != nil {
		return nil, err
	}
	n := uint64(head[1])
	switch n {
	case 126:
		if _, err := io.ReadFull(c, head[2:4]); err != nil {
			return nil, err
		}
		n = uint64(binary.BigEndian.Uint16(head[2:]))
	case 127:
		if _, err := io.ReadFull(c, head[2:10]); err != nil {
			return nil, err
		}
		n = binary.BigEndian.Uint64(head[2:])
	}
	frame = make([]byte, 1+n)
	frame[0] = head[0]
	_, err = io.ReadFull(c, frame[1:])
	return frame, err
}

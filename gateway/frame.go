package gateway

import "encoding/binary"

// The opcodes of RFC 6455 that the server sends, with the FIN bit.
const (
	finText   = 0x81
	finBinary = 0x82
	finClose  = 0x88
	finPing   = 0x89
	finPong   = 0x8a
)

// plainFrame finds the frame at the beginning of b, and unmasks its payload in place. size is 0
// unless all of it is there and it is what nearly every frame of a client is: a whole message
// or a ping or pong or the end, of at most limit and 65,535 bytes, its length written in the shortest way.
// All others are the library's to read, and to judge; they are left as they are.
func plainFrame(b []byte, limit int) (op byte, payload []byte, size int) {
	const masked = 0x80
	if len(b) < 6 || b[1]&masked == 0 {
		return 0, nil, 0
	}
	n, at := int(b[1]&^masked), 2
	switch op = b[0]; {
	case op == finPing, op == finPong:
		if n > 125 {
			return 0, nil, 0
		}
	case op == finClose:
		if n < 2 || n > 125 || len(b) < 8 || !plainCode(int(b[6]^b[2])<<8|int(b[7]^b[3])) {
			return 0, nil, 0
		}
	case op != finText && op != finBinary, n == 127:
		return 0, nil, 0
	case n == 126:
		if n, at = int(binary.BigEndian.Uint16(b[2:])), 4; n < 126 {
			return 0, nil, 0
		}
	}
	if size = at + 4 + n; len(b) < size || n > limit {
		return 0, nil, 0
	}
	payload = b[at+4 : size]
	key := binary.LittleEndian.Uint32(b[at:])
	i := 0
	for wide := uint64(key)<<32 | uint64(key); i+8 <= n; i += 8 {
		binary.LittleEndian.PutUint64(payload[i:], binary.LittleEndian.Uint64(payload[i:])^wide)
	}
	for ; i < n; i++ {
		payload[i] ^= b[at+i%4]
	}
	return op, payload, size
}

// plainCode reports whether a close frame may have a code.
func plainCode(code int) bool {
	return code >= 1000 && code <= 1003 || code >= 1007 && code <= 1014 || code >= 3000 && code <= 4999
}

// MaxFrameHeader is the most that a frame's header takes, in bytes.
const MaxFrameHeader = 10

// TextFrame completes a text frame whose payload was appended to buf from
// MaxFrameHeader on: it writes the header in front of the payload and returns the
// whole frame, ready for the socket. The result shares buf's memory.
func TextFrame(buf []byte) []byte { return complete(buf, finText) }

// BinaryFrame is TextFrame for a binary frame.
func BinaryFrame(buf []byte) []byte { return complete(buf, finBinary) }

func complete(buf []byte, op byte) []byte {
	n := len(buf) - MaxFrameHeader
	switch {
	case n < 126:
		buf = buf[MaxFrameHeader-2:]
		buf[1] = byte(n) //nolint:gosec // G115: below 126
	case n < 1<<16:
		buf = buf[MaxFrameHeader-4:]
		buf[1] = 126
		binary.BigEndian.PutUint16(buf[2:], uint16(n))
	default:
		buf[1] = 127
		binary.BigEndian.PutUint64(buf[2:], uint64(n))
	}
	buf[0] = op
	return buf
}

// Payload is the payload of a frame that TextFrame or BinaryFrame made.
func Payload(frame []byte) []byte {
	switch frame[1] {
	case 126:
		return frame[4:]
	case 127:
		return frame[10:]
	}
	return frame[2:]
}

// appendControl appends a control frame; the payload is at most 125 bytes.
func appendControl(dst []byte, op byte, payload []byte) []byte {
	dst = append(dst, op, byte(len(payload))) //nolint:gosec // G115: at most 125
	return append(dst, payload...)
}

// appendClose appends a close frame; the reason is at most 123 bytes.
func appendClose(dst []byte, code CloseCode, reason []byte) []byte {
	dst = append(dst, finClose, byte(2+len(reason))) //nolint:gosec // G115: at most 125
	dst = binary.BigEndian.AppendUint16(dst, uint16(code))
	return append(dst, reason...)
}

// AppendTextHeader appends the header of a text frame with n bytes of payload.
func AppendTextHeader(dst []byte, n int) []byte {
	dst = append(dst, finText)
	switch {
	case n < 126:
		return append(dst, byte(n)) //nolint:gosec // G115: below 126
	case n < 1<<16:
		return binary.BigEndian.AppendUint16(append(dst, 126), uint16(n))
	default:
		return binary.BigEndian.AppendUint64(append(dst, 127), uint64(n))
	}
}

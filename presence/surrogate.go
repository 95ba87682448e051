package presence

import (
	"bytes"
	"strconv"
	"unicode/utf16"
)

// LoneSurrogate reports whether JSON text escapes half of a surrogate pair, which is no
// character. The decoder would make U+FFFD of any such, and so one identity of two.
func LoneSurrogate(data []byte) bool {
	high := false // the characters before are an escaped high surrogate
	for {
		i := bytes.IndexByte(data, '\\')
		if i < 0 || i+1 >= len(data) {
			return high
		}
		if high && i > 0 {
			return true
		}
		if data[i+1] != 'u' || i+6 > len(data) {
			if high {
				return true
			}
			data = data[i+2:]
			continue
		}
		n, err := strconv.ParseUint(string(data[i+2:i+6]), 16, 16)
		surrogate := err == nil && utf16.IsSurrogate(rune(n))
		low := surrogate && n >= 0xdc00
		if high != low {
			return true
		}
		high = surrogate && !low
		data = data[i+6:]
	}
}

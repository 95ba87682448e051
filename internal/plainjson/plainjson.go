// Package plainjson reads the JSON that programs write all day, without reflection and
// without allocating: objects without an escape in any string. It says no to all else, valid
// or not, which is then encoding/json's to read: what it does take, encoding/json takes
// too, and finds the same members in it.
package plainjson

import (
	"bytes"
	"strconv"
	"unicode/utf8"
)

// maxDepth bounds how deep objects and arrays may lie in each other.
const maxDepth = 16

// Object calls member with each name and value of an object, in the order in which they
// come, duplicates among them; a value is JSON text without space around it. Both are parts of
// data. It reports whether data is one plain object of valid UTF-8 and member took
// everything; what member was told counts only then.
func Object(data []byte, member func(name, value []byte) bool) bool {
	if bytes.IndexByte(data, '\\') >= 0 || !utf8.Valid(data) {
		return false
	}
	i := space(data, 0)
	if i == len(data) || data[i] != '{' {
		return false
	}
	end := members(data, i, 0, member)
	return end >= 0 && space(data, end) == len(data)
}

// Array calls element with each element of an array that Object gave as a value.
func Array(value []byte, element func(value []byte) bool) bool {
	if len(value) == 0 || value[0] != '[' {
		return false
	}
	return elements(value, 0, 0, element) == len(value)
}

// String is the text of a value that Object or Array gave, if it is a string. It is a part of
// value.
func String(value []byte) (text []byte, ok bool) {
	if len(value) < 2 || value[0] != '"' {
		return nil, false
	}
	return value[1 : len(value)-1], true
}

// Int is a value that Object or Array gave, if it is an integer that fits.
func Int(value []byte) (n int64, ok bool) {
	if len(value) == 0 || len(value) > 20 || value[0] != '-' && (value[0] < '0' || value[0] > '9') {
		return 0, false
	}
	n, err := strconv.ParseInt(string(value), 10, 64)
	return n, err == nil
}

// The following return where what begins at i ends, negative if it does not end well.

func members(b []byte, i, depth int, member func(name, value []byte) bool) int {
	if i = space(b, i+1); i < len(b) && b[i] == '}' {
		return i + 1
	}
	for {
		start := i
		if i = text(b, i); i < 0 {
			return -1
		}
		name := b[start+1 : i-1]
		if i = space(b, i); i == len(b) || b[i] != ':' {
			return -1
		}
		start = space(b, i+1)
		if i = value(b, start, depth); i < 0 || !member(name, b[start:i]) {
			return -1
		}
		if i = space(b, i); i == len(b) {
			return -1
		}
		switch b[i] {
		case '}':
			return i + 1
		case ',':
			i = space(b, i+1)
		default:
			return -1
		}
	}
}

func elements(b []byte, i, depth int, element func(value []byte) bool) int {
	if i = space(b, i+1); i < len(b) && b[i] == ']' {
		return i + 1
	}
	for {
		start := i
		if i = value(b, i, depth); i < 0 || !element(b[start:i]) {
			return -1
		}
		if i = space(b, i); i == len(b) {
			return -1
		}
		switch b[i] {
		case ']':
			return i + 1
		case ',':
			i = space(b, i+1)
		default:
			return -1
		}
	}
}

func anyMember(_, _ []byte) bool { return true }
func anyElement(_ []byte) bool   { return true }

func value(b []byte, i, depth int) int {
	if i == len(b) || depth == maxDepth {
		return -1
	}
	switch c := b[i]; {
	case c == '"':
		return text(b, i)
	case c == '{':
		return members(b, i, depth+1, anyMember)
	case c == '[':
		return elements(b, i, depth+1, anyElement)
	case c == '-', '0' <= c && c <= '9':
		return number(b, i)
	}
	for _, word := range [...]string{"true", "false", "null"} {
		if end := i + len(word); end <= len(b) && string(b[i:end]) == word {
			return end
		}
	}
	return -1
}

func text(b []byte, i int) int {
	if i == len(b) || b[i] != '"' {
		return -1
	}
	for i++; i < len(b); i++ {
		switch c := b[i]; {
		case c == '"':
			return i + 1
		case c < ' ':
			return -1
		}
	}
	return -1
}

func number(b []byte, i int) int {
	if b[i] == '-' {
		i++
	}
	start := i
	if i = digits(b, i); i == start || b[start] == '0' && i > start+1 {
		return -1
	}
	if i < len(b) && b[i] == '.' {
		start = i + 1
		if i = digits(b, start); i == start {
			return -1
		}
	}
	if i < len(b) && (b[i] == 'e' || b[i] == 'E') {
		if i++; i < len(b) && (b[i] == '+' || b[i] == '-') {
			i++
		}
		start = i
		if i = digits(b, start); i == start {
			return -1
		}
	}
	return i
}

func digits(b []byte, i int) int {
	for i < len(b) && '0' <= b[i] && b[i] <= '9' {
		i++
	}
	return i
}

func space(b []byte, i int) int {
	for i < len(b) && (b[i] == ' ' || b[i] == '\t' || b[i] == '\n' || b[i] == '\r') {
		i++
	}
	return i
}

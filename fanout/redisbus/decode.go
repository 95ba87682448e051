package redisbus

import (
	"encoding/json"
	"errors"
	"math"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/rollcall-presence/rollcall/presence"
)

// maxMessage bounds a message: attributes and a friendly name with every byte
// escaped, and the rest.
const maxMessage = 6*(presence.MaxAttributes+4*presence.MaxFriendlyName+presence.MaxIdentity) + 4<<10

// message is what nodes publish: a change of a user, or of the service that
// Event.User.Service names.
type message struct {
	run   string
	seq   uint64
	event presence.Event
}

var (
	errTooLong = errors.New("message is too long")
	errSyntax  = errors.New("message is not an object of strings and numbers")
	errValue   = errors.New("a field's value is out of its range")
	errMissing = errors.New("message lacks run, number or service")
)

// decode reads a message: a JSON object whose fields are strings or integers.
// Unknown fields of those types are ignored; of a field given twice the last
// counts. The result may share the payload's memory.
func decode(payload string) (m message, err error) {
	if len(payload) > maxMessage {
		return m, errTooLong
	}
	s := scanner{rest: payload}
	if !s.skip('{') {
		return m, errSyntax
	}
	for first := true; !s.skip('}'); first = false {
		if !first && !s.skip(',') {
			return m, errSyntax
		}
		name, ok := s.text()
		if !ok || !s.skip(':') {
			return m, errSyntax
		}
		value, ok := s.value()
		if !ok {
			return m, errSyntax
		}
		if !m.set(name, value) {
			return m, errValue
		}
	}
	if s.space(); s.rest != "" {
		return m, errSyntax
	}
	if m.run == "" || m.seq == 0 || m.event.User.Service == "" {
		return m, errMissing
	}
	return m, nil
}

func (m *message) set(name, value string) (ok bool) {
	u := &m.event.User
	ok = true
	switch name {
	case "r":
		m.run = value
		ok = len(value) <= 64
	case "q":
		var n int64
		n, ok = number(value, math.MaxInt64)
		m.seq = uint64(n) //nolint:gosec // not negative
	case "s":
		u.Service = value
		ok = len(value) <= 64
	case "i":
		u.Identity = value
		ok = presence.CheckIdentity(value) == nil
	case "u":
		u.SID = value
		ok = len(value) <= 64
	case "v":
		u.Rev, ok = number(value, math.MaxInt64)
	case "e":
		u.Epoch, ok = number(value, math.MaxInt64)
	case "ne":
		u.NotifiableEpoch, ok = number(value, math.MaxInt64)
	case "o":
		u.Online, ok = tri(value)
	case "n":
		u.Notifiable, ok = tri(value)
	case "l":
		var ms int64
		if ms, ok = number(value, math.MaxInt64); ms != 0 {
			u.LastOnline = time.UnixMilli(ms).UTC()
		}
	case "m":
		const all = presence.Reachability | presence.ReasonFriendlyName | presence.ReasonAttributes
		var n int64
		n, ok = number(value, math.MaxUint8)
		m.event.Reasons = presence.Reasons(n) & all //nolint:gosec // checked; newer nodes may know more
	case "d":
		var n int64
		n, ok = number(value, 1)
		m.event.Deleted = n == 1
	case "f":
		kept := value // value itself would be allocated for every field
		u.FriendlyName = &kept
	case "a":
		u.Attributes = value
	}
	return ok
}

// number reads a decimal number from 0 to limit; "" is 0.
func number(s string, limit int64) (int64, bool) {
	if s == "" {
		return 0, true
	}
	n, err := strconv.ParseInt(s, 10, 64)
	return n, err == nil && n >= 0 && n <= limit
}

func tri(s string) (presence.Tri, bool) {
	switch s {
	case "":
		return presence.Null, true
	case "0":
		return presence.False, true
	case "1":
		return presence.True, true
	}
	return presence.Null, false
}

// scanner reads JSON, as much of it as messages have.
type scanner struct{ rest string }

func (s *scanner) space() {
	for s.rest != "" && (s.rest[0] == ' ' || s.rest[0] == '\n' || s.rest[0] == '\t' || s.rest[0] == '\r') {
		s.rest = s.rest[1:]
	}
}

func (s *scanner) skip(c byte) bool {
	if s.space(); s.rest == "" || s.rest[0] != c {
		return false
	}
	s.rest = s.rest[1:]
	return true
}

// value reads a string or an integer.
func (s *scanner) value() (string, bool) {
	s.space()
	if s.rest != "" && s.rest[0] == '"' {
		return s.text()
	}
	n := 0
	for n < len(s.rest) && (s.rest[n] >= '0' && s.rest[n] <= '9' || n == 0 && s.rest[n] == '-') {
		n++
	}
	v := s.rest[:n]
	s.rest = s.rest[n:]
	digits := strings.TrimPrefix(v, "-")
	return v, digits != "" && (digits[0] != '0' || digits == "0")
}

// text reads a string. Only one with escapes is copied.
func (s *scanner) text() (string, bool) {
	if !s.skip('"') {
		return "", false
	}
	escaped := false
	for i := 0; i < len(s.rest); i++ {
		switch c := s.rest[i]; {
		case c == '\\':
			escaped = true
			i++
		case c < ' ':
			return "", false
		case c == '"':
			v := s.rest[:i]
			s.rest = s.rest[i+1:]
			if !escaped {
				return v, utf8.ValidString(v)
			}
			var plain string
			err := json.Unmarshal([]byte(`"`+v+`"`), &plain)
			return plain, err == nil && utf8.ValidString(v)
		}
	}
	return "", false
}

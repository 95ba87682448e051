package redisbus

import "github.com/rollcall-presence/rollcall/presence"

// MaxMessage is the longest message that is read.
const MaxMessage = maxMessage

// Decode reads a message.
func Decode(payload string) (run string, seq uint64, e presence.Event, err error) {
	m, err := decode(payload)
	return m.run, m.seq, m.event, err
}

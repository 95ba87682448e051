package redisbus

import (
	"github.com/redis/go-redis/v9"

	"github.com/rollcall-presence/rollcall/presence"
)

// MaxMessage is the longest message that is read.
const MaxMessage = maxMessage

// Decode reads a message.
func Decode(payload string) (run string, seq uint64, e presence.Event, err error) {
	m, err := decode(payload)
	return m.run, m.seq, m.event, err
}

// Receiver returns what takes in messages of a partition's channel as if they had come
// from Redis.
func (b *Bus) Receiver(h Handler, p presence.Partition) func(payload string) {
	b.mu.Lock()
	m := &redis.Message{Channel: b.channelLocked(p).name}
	b.mu.Unlock()
	return func(payload string) {
		m.Payload = payload
		b.message(b.plain, h, m)
	}
}

package wire

import (
	"bytes"
	"strconv"
)

// Kind is what a message of the server is; other messages are Other.
type Kind uint8

// The kinds of messages that a load test looks at.
const (
	Other Kind = iota
	Welcome
	Subscribed
	Updated  // of one user
	Batch    // of several
	Expiring // the token ends soon
	Error
)

var kinds = map[string]Kind{
	"welcome": Welcome, "subscribed": Subscribed, "user.updated": Updated, "batch": Batch, "token.expiring": Expiring, "error": Error,
}

// A message is compact JSON, as the native protocol's server writes it, so a key can
// be found by its bytes: within a string the quotes around it would be escaped.

// KindOf is the kind of a message.
func KindOf(message []byte) Kind { return kinds[string(text(message, `"type":"`))] }

// Problem is the code and the text of an Error message.
func Problem(message []byte) (code int, what string) {
	return int(number(message, `"code":`)), string(text(message, `"message":"`))
}

// User is the state of a user in a message.
type User struct {
	Identity []byte // as in the message: valid as long as that, with JSON's escapes
	Online   bool   // false also for null
	Rev      int64
}

// Users calls f with each state of a user in a message, in order.
func Users(message []byte, f func(User)) {
	const identity = `"identity":"`
	at := bytes.Index(message, []byte(identity))
	for at >= 0 {
		message = message[at:]
		at = bytes.Index(message[len(identity):], []byte(identity))
		part := message
		if at >= 0 {
			at += len(identity)
			part = message[:at]
		}
		if online := after(part, `"is_online":`); online != nil { // the welcome names the session's own user first
			f(User{text(part, identity), bytes.HasPrefix(online, []byte("true")), number(part, `"rev":`)})
		}
	}
}

// after is what follows the first occurrence of key; nil if there is none.
func after(message []byte, key string) []byte {
	if at := bytes.Index(message, []byte(key)); at >= 0 {
		return message[at+len(key):]
	}
	return nil
}

// text is the string whose opening quote ends key. What it holds is left escaped.
func text(message []byte, key string) []byte {
	s := after(message, key)
	for i := 0; i < len(s); i++ {
		switch s[i] {
		case '\\':
			i++
		case '"':
			return s[:i]
		}
	}
	return nil
}

// number is the whole number that follows key, 0 if there is none.
func number(message []byte, key string) int64 {
	s := after(message, key)
	end := 0
	for end < len(s) && s[end] >= '0' && s[end] <= '9' {
		end++
	}
	n, _ := strconv.ParseInt(string(s[:end]), 10, 64)
	return n
}

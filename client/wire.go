package client

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// Protocol is the WebSocket subprotocol that the client speaks.
const Protocol = "rollcall.v1.json"

// User is what the server says of a user. Fields that a message does not carry are zero.
type User struct {
	Identity string `json:"identity"`
	// SID is empty while the user does not exist.
	SID string `json:"sid"`
	// FriendlyName and Attributes come with a snapshot, and with an update only if they changed. Attributes is a text
	// that holds JSON.
	FriendlyName *string `json:"friendly_name,omitempty"`
	Attributes   string  `json:"attributes,omitempty"`
	// IsOnline and IsNotifiable are nil for null: unknown, or reachability is off.
	IsOnline     *bool `json:"is_online"`
	IsNotifiable *bool `json:"is_notifiable"`
	// Rev grows with every change of the user; of two states the one with the higher Rev is newer.
	Rev            int64      `json:"rev"`
	DateLastOnline *time.Time `json:"date_last_online"`
}

// Welcome is what the server says when a session begins.
type Welcome struct {
	Session             string
	ServiceSID          string
	Identity            string
	ReachabilityEnabled bool
	PingInterval        time.Duration
	User                User // the session's own
}

// Kind says what an Event is about.
type Kind string

// The kinds of events.
const (
	UserUpdated    Kind = "user.updated"
	ServiceUpdated Kind = "service.updated"
	ServerError    Kind = "error"
)

// Event is something that the server said unasked.
type Event struct {
	Kind Kind
	// Reasons of a UserUpdated, like reachabilityOnline. Empty if the change happened while the client was away, and
	// was learned on its return.
	Reasons []string
	User    User
	// ReachabilityEnabled of a ServiceUpdated.
	ReachabilityEnabled bool
	// Err of a ServerError: the server refused something that was no request of ours.
	Err *Error
}

// Error is the server's refusal of a request.
type Error struct {
	Code    int
	Message string
}

func (e *Error) Error() string { return fmt.Sprintf("%s (%d)", e.Message, e.Code) }

// message is any message from the server.
type message struct {
	Type                string            `json:"type"`
	ID                  uint64            `json:"id"`
	Code                int               `json:"code"`
	Message             string            `json:"message"`
	Session             string            `json:"session"`
	ServiceSID          string            `json:"service_sid"`
	Identity            string            `json:"identity"`
	ReachabilityEnabled bool              `json:"reachability_enabled"`
	PingIntervalMS      int64             `json:"ping_interval_ms"`
	ExpiresInMS         int64             `json:"expires_in_ms"`
	UpdateReasons       []string          `json:"update_reasons"`
	User                User              `json:"user"`
	Users               []User            `json:"users"`
	Messages            []json.RawMessage `json:"messages"`
	Binding             Binding           `json:"binding"`
}

var errBatchInBatch = errors.New("batch within a batch")

// decode calls handle for each message in frame, in order, until it returns an error.
func decode(frame []byte, handle func(*message) error) error {
	var m message
	if err := json.Unmarshal(frame, &m); err != nil {
		return err
	}
	if m.Type != "batch" {
		return handle(&m)
	}
	for _, raw := range m.Messages {
		var inner message
		if err := json.Unmarshal(raw, &inner); err != nil {
			return err
		}
		if inner.Type == "batch" {
			return errBatchInBatch
		}
		if err := handle(&inner); err != nil {
			return err
		}
	}
	return nil
}

// request is any message to the server.
type request struct {
	Type       string           `json:"type"`
	ID         uint64           `json:"id,omitempty"`
	Identities []string         `json:"identities,omitempty"`
	Token      string           `json:"token,omitempty"`
	Known      map[string]int64 `json:"known,omitempty"`
	Invisible  bool             `json:"invisible,omitempty"`
	Batch      bool             `json:"batch,omitempty"`
	SID        string           `json:"sid,omitempty"`

	Push
}

// The limits of what one request names, safely below the server's defaults (500 identities, frames of 64 KiB).
const (
	maxIdentities = 500
	maxNamed      = 48 << 10 // bytes of encoded identities
)

// encodedSize is the most that identity can take in a request, its revision included.
func encodedSize(identity string) int {
	n := len(identity) + len(`"":1234567890123456789,`)
	for i := range len(identity) {
		switch c := identity[i]; {
		case c < ' ' || c == '"' || c == '\\' || c == '<' || c == '>' || c == '&':
			n += len(`\u0000`) - 1
		case c == 0xe2: // U+2028 and U+2029 are written as escapes
			n += len(`\u2028`) - 3
		}
	}
	return n
}

// chunk splits off as many identities as one request may name.
func chunk(identities []string) (first, rest []string) {
	size := 0
	for i, identity := range identities {
		size += encodedSize(identity)
		if i > 0 && (i == maxIdentities || size > maxNamed) {
			return identities[:i], identities[i:]
		}
	}
	return identities, nil
}

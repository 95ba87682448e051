package native

import (
	"bytes"
	"encoding/json"
	"errors"

	"github.com/rollcall-presence/rollcall/internal/plainjson"
	"github.com/rollcall-presence/rollcall/presence"
)

// maxID is the longest id of a request, as JSON.
const maxID = 64

// request is any message of a client.
type request struct {
	Type       string           `json:"type"`
	ID         json.RawMessage  `json:"id"` // echoed as it came; nil where there is none
	Token      *string          `json:"token"`
	Identities []string         `json:"identities"`
	Known      map[string]int64 `json:"known"`
	Invisible  bool             `json:"invisible"`
	Batch      bool             `json:"batch"`
	SID        string           `json:"sid"`

	BindingType  presence.PushType `json:"binding_type"`
	Address      string            `json:"address"`
	Credential   string            `json:"credential_sid"`
	MessageTypes []string          `json:"message_types"`
	ExpiresIn    int64             `json:"expires_in_s"`

	lone bool // a string has half of a surrogate pair, which is no character
}

// What decode refuses.
var (
	errMalformed = errors.New("not a JSON object")
	errField     = errors.New("a field of the wrong type")
)

// decode reads one message, which must be valid UTF-8. Unknown fields are ignored.
// With errField, the request holds what could be read, its id among it.
func decode(data []byte) (request, error) {
	if r, ok := decodePlain(data); ok {
		return r, nil
	}
	return decodeAny(data)
}

// decodePlain is decode for messages as programs write them: without an escape, and with the
// fields that nearly all have, each once at most and of its type. ok is false for all others.
func decodePlain(data []byte) (r request, ok bool) {
	var seen [7]bool
	ok = plainjson.Object(data, func(name, value []byte) (ok bool) {
		field := 0
		switch string(name) {
		case "type":
			r.Type, ok = text(value)
		case "id":
			field = 1
			r.ID, ok = checkID(bytes.Clone(value)) // data is valid for a while only
			ok = ok && r.ID != nil
		case "token":
			field = 2
			var token string
			token, ok = text(value)
			r.Token = &token
		case "identities":
			field = 3
			r.Identities = []string{} // even if there is none in it
			ok = plainjson.Array(value, func(value []byte) bool {
				identity, ok := text(value)
				r.Identities = append(r.Identities, identity)
				return ok
			})
		case "known":
			field = 4
			r.Known = map[string]int64{}
			ok = plainjson.Object(value, func(name, value []byte) bool {
				rev, ok := plainjson.Int(value)
				r.Known[string(name)] = rev
				return ok
			})
		case "invisible":
			field = 5
			r.Invisible, ok = flag(value)
		case "batch":
			field = 6
			r.Batch, ok = flag(value)
		}
		ok = ok && !seen[field]
		seen[field] = true
		return ok
	})
	return r, ok
}

func text(value []byte) (string, bool) {
	b, ok := plainjson.String(value)
	return string(b), ok
}

func flag(value []byte) (set, ok bool) {
	set = string(value) == "true"
	return set, set || string(value) == "false"
}

// decodeAny is decode for all messages, at many times the cost.
func decodeAny(data []byte) (r request, err error) {
	data = bytes.TrimLeft(data, " \t\r\n")
	if len(data) == 0 || data[0] != '{' {
		return request{}, errMalformed
	}
	if err := json.Unmarshal(data, &r); err != nil {
		if _, ok := errors.AsType[*json.UnmarshalTypeError](err); !ok {
			return request{}, errMalformed
		}
		r.ID, _ = checkID(r.ID)
		return r, errField
	}
	ok := false
	if r.ID, ok = checkID(r.ID); !ok {
		return r, errField
	}
	r.lone = presence.LoneSurrogate(data)
	return r, nil
}

// checkID is the id if it is a number or a string and not too long, nil if there is none.
func checkID(id json.RawMessage) (_ json.RawMessage, ok bool) {
	switch {
	case len(id) == 0 || string(id) == "null":
		return nil, true
	case len(id) > maxID, id[0] != '"' && id[0] != '-' && (id[0] < '0' || id[0] > '9'):
		return nil, false
	}
	return id, true
}

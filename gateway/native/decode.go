package native

import (
	"bytes"
	"encoding/json"
	"errors"

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
func decode(data []byte) (r request, err error) {
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

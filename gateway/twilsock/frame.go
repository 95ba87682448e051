package twilsock

import (
	"bytes"
	"encoding/json"
	"errors"
	"strconv"
	"unicode/utf8"

	"github.com/rollcall-presence/rollcall/gateway"
)

// A frame is one binary WebSocket message: the first line names the protocol and the
// length of the header, which is a JSON object and names the length of the payload.
const (
	protocolLine = "TWILSOCK V3.0 "
	crlf         = "\r\n"
	jsonPayload  = "application/json"
)

// Sizes of what a client sends; the whole frame is bounded by the session's limit.
const (
	maxDigits = 7   // of a length
	maxID     = 128 // bytes of a frame's id
)

// The methods of frames that clients send.
const (
	methodInit      = "init"
	methodUpdate    = "update"
	methodMessage   = "message"
	methodReply     = "reply"
	methodClose     = "close"
	methodTelemetry = "telemetry.v1"
	methodPutCtx    = "put_notification_ctx"
	methodDeleteCtx = "delete_notification_ctx"
)

// message is a frame of a client, as far as it is of interest.
type message struct {
	ID                string      `json:"id"`
	Method            string      `json:"method"`
	Token             string      `json:"token"`
	ContinuationToken string      `json:"continuation_token"`
	HTTP              httpRequest `json:"http_request"`
	PayloadSize       int         `json:"payload_size"`

	payload []byte // valid for as long as the message's data
}

// httpRequest is what a frame with methodMessage asks for. Path and parameters are
// percent-encoded.
type httpRequest struct {
	Method string `json:"method"`
	Path   string `json:"path"`
	Params struct {
		Include any // a repeated parameter is an array
		Key     any
	} `json:"params"`
}

var errMalformed = errors.New("not a Twilsock frame")

// decode reads one frame. Its lengths must be those of what is there; a line end may
// follow.
func decode(data []byte) (m message, err error) {
	line, rest, ok := bytes.Cut(data, []byte(crlf))
	digits, ok2 := bytes.CutPrefix(line, []byte(protocolLine))
	if !ok || !ok2 {
		return message{}, errMalformed
	}
	n, ok := length(digits)
	if !ok || n > len(rest) {
		return message{}, errMalformed
	}
	header, rest := rest[:n], rest[n:]
	rest, ok = bytes.CutPrefix(rest, []byte(crlf))
	if !ok || !utf8.Valid(header) || len(header) == 0 || header[0] != '{' || json.Unmarshal(header, &m) != nil {
		return message{}, errMalformed
	}
	if m.ID == "" || len(m.ID) > maxID || m.PayloadSize < 0 || m.PayloadSize > len(rest) {
		return message{}, errMalformed
	}
	m.payload, rest = rest[:m.PayloadSize], rest[m.PayloadSize:]
	if len(rest) > 0 && string(rest) != crlf {
		return message{}, errMalformed
	}
	return m, nil
}

// length reads a length in plain digits.
func length(digits []byte) (n int, ok bool) {
	if len(digits) == 0 || len(digits) > maxDigits {
		return 0, false
	}
	for _, c := range digits {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = n*10 + int(c-'0')
	}
	return n, true
}

// header is that of a frame for a client.
type header struct {
	Method           string  `json:"method"`
	ID               string  `json:"id"`
	MessageType      string  `json:"message_type,omitempty"`
	ClientUpdateType string  `json:"client_update_type,omitempty"`
	Status           *status `json:"status,omitempty"`
	HTTPStatus       *status `json:"http_status,omitempty"`
	*initReply
	PayloadType string `json:"payload_type,omitempty"`
	PayloadSize int    `json:"payload_size"`
}

// status is a result. The SDK makes its error message of Description, or else of Status.
type status struct {
	Code        int    `json:"code"`
	Status      string `json:"status"`
	Description string `json:"description,omitempty"`
	ErrorCode   int    `json:"errorCode,omitempty"`
}

var statusOK = &status{Code: 200, Status: "OK"}

// encode makes the frame of a header and a payload, of which it fills in the size.
func encode(h header, payload []byte) []byte {
	h.PayloadSize = len(payload)
	if len(payload) > 0 {
		h.PayloadType = jsonPayload
	}
	head := marshal(h)
	b := make([]byte, gateway.MaxFrameHeader, gateway.MaxFrameHeader+len(protocolLine)+maxDigits+2*len(crlf)+len(head)+len(payload))
	b = append(b, protocolLine...)
	b = strconv.AppendInt(b, int64(len(head)), 10)
	b = append(b, crlf...)
	b = append(b, head...)
	b = append(b, crlf...)
	return gateway.BinaryFrame(append(b, payload...))
}

// marshal is json.Marshal of what always can be.
func marshal(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err) // a type of this package that cannot be JSON
	}
	return b
}

package testkit

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
)

// Twilsock is a frame of the Conversations SDK's protocol, as it was read.
type Twilsock struct {
	Header, Payload map[string]any // Payload: nil if there is none
	Text            string         // of the payload
}

// ReadTwilsock reads a frame by its lengths, all of which must be right.
func ReadTwilsock(data string) (f Twilsock, err error) {
	line, rest, _ := strings.Cut(data, "\r\n")
	n, err := strconv.Atoi(strings.TrimPrefix(line, "TWILSOCK V3.0 "))
	if err != nil || n < 0 || n+2 > len(rest) || rest[n:n+2] != "\r\n" {
		return f, fmt.Errorf("frame %.200q has no header of its length", data)
	}
	if err := json.Unmarshal([]byte(rest[:n]), &f.Header); err != nil {
		return f, fmt.Errorf("header %.200q: %w", rest[:n], err)
	}
	if f.Text = rest[n+2:]; f.Header["payload_size"] != float64(len(f.Text)) {
		return f, fmt.Errorf("header %.200q with a payload of %d bytes", rest[:n], len(f.Text))
	}
	if f.Text != "" {
		if err := json.Unmarshal([]byte(f.Text), &f.Payload); err != nil {
			return f, fmt.Errorf("payload %.200q: %w", f.Text, err)
		}
	}
	return f, nil
}

// Status is the code of the header's status or http_status; 0 if there is none.
func (f Twilsock) Status(name string) int {
	s, _ := f.Header[name].(map[string]any)
	code, _ := s["code"].(float64)
	return int(code)
}

// TwilsockText is a frame with a header, to which the payload's size is added.
func TwilsockText(header, payload string) string {
	header = fmt.Sprintf(`{"payload_size":%d,%s`, len(payload), header[1:])
	return fmt.Sprintf("TWILSOCK V3.0 %d\r\n%s\r\n%s", len(header), header, payload)
}

// TwilsockAck is what the SDK answers each frame that is no reply.
func TwilsockAck(id string) string {
	return TwilsockText(`{"id":"`+id+`","method":"reply","payload_type":"application/json","status":{"code":200,"status":"OK"}}`, "")
}

// UserMap is the SID of a user's map, and UserOfMap whose it is.
func UserMap(identity string) string {
	return "MPu" + base64.RawURLEncoding.EncodeToString([]byte(identity))
}

// UserOfMap is the opposite of UserMap.
func UserOfMap(sid string) (string, error) {
	b, err := base64.RawURLEncoding.DecodeString(strings.TrimPrefix(sid, "MPu"))
	return string(b), err
}

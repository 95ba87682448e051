package rig

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"testing"
)

// SDK is a raw client that speaks the protocol of the Conversations SDK.
type SDK struct {
	*Raw
	Said  strings.Builder // all that the node said
	asked int
	notes []SDKFrame // came while an answer was waited for
}

// SDKFrame is a frame of the node.
type SDKFrame struct{ Header, Payload map[string]any }

// Status is the code of the header's status or http_status.
func (f SDKFrame) Status(name string) int {
	s, _ := f.Header[name].(map[string]any)
	code, _ := s["code"].(float64)
	return int(code)
}

// RawSDK opens a WebSocket where SDKs connect. It is closed when the test ends.
func (n *Node) RawSDK(t testing.TB) *SDK {
	t.Helper()
	return &SDK{Raw: n.RawAt(t, "/v3/wsconnect")}
}

// SDKSession opens a session of a user.
func (n *Node) SDKSession(t testing.TB, sid, identity string) *SDK {
	t.Helper()
	token, err := Mint(sid, identity)(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	c := n.RawSDK(t)
	c.Frame(`{"id":"TM-init","method":"init","token":"`+token+`"}`, "")
	if f := c.Reply("TM-init"); f.Status("status") != 200 {
		t.Fatalf("init was answered with %v", f)
	}
	return c
}

// SDKMap is the SID of a user's map.
func SDKMap(identity string) string {
	return "MPu" + base64.RawURLEncoding.EncodeToString([]byte(identity))
}

// SDKText is a frame with a header, to which the payload's size is added.
func SDKText(header, payload string) string {
	header = fmt.Sprintf(`{"payload_size":%d,%s`, len(payload), header[1:])
	return fmt.Sprintf("TWILSOCK V3.0 %d\r\n%s\r\n%s", len(header), header, payload)
}

// Frame sends a frame.
func (c *SDK) Frame(header, payload string) {
	c.Bytes(Frame(OpBinary, []byte(SDKText(header, payload))))
}

// Take is the next frame, which is acknowledged where SDKs do so.
func (c *SDK) Take() (f SDKFrame, err error) {
	c.T.Helper()
	op, data, err := c.Receive()
	if err != nil {
		return f, err
	}
	c.Said.Write(data)
	line, rest, _ := strings.Cut(string(data), "\r\n")
	n, err := strconv.Atoi(strings.TrimPrefix(line, "TWILSOCK V3.0 "))
	if err != nil || op != OpBinary || n+2 > len(rest) {
		return f, fmt.Errorf("got %#x %.200q: %w", op, data, err)
	}
	if err = json.Unmarshal([]byte(rest[:n]), &f.Header); err == nil && len(rest) > n+2 {
		err = json.Unmarshal([]byte(rest[n+2:]), &f.Payload)
	}
	if id, _ := f.Header["id"].(string); err == nil && f.Header["method"] != "reply" {
		c.Frame(`{"id":"`+id+`","method":"reply","payload_type":"application/json","status":{"code":200,"status":"OK"}}`, "")
	}
	return f, err
}

// Reply waits for the answer to a frame. What comes before is kept for Note.
func (c *SDK) Reply(id string) SDKFrame {
	c.T.Helper()
	for {
		f, err := c.Take()
		switch {
		case err != nil:
			c.T.Fatalf("waiting for the answer to %s: %v", id, err)
		case f.Header["method"] == "reply" && f.Header["id"] == id:
			return f
		}
		c.notes = append(c.notes, f)
	}
}

// Note is the next notification, which must be of the type; its events.
func (c *SDK) Note(event string) []any {
	c.T.Helper()
	var f SDKFrame
	if len(c.notes) > 0 {
		f, c.notes = c.notes[0], c.notes[1:]
	} else {
		var err error
		if f, err = c.Take(); err != nil {
			c.T.Fatalf("waiting for %s: %v", event, err)
		}
	}
	if f.Header["method"] != "notification" || f.Payload["event_type"] != event {
		c.T.Fatalf("got %v; want %s", f, event)
	}
	events, _ := f.Payload["events"].([]any)
	return events
}

// Ask sends a request and returns its id.
func (c *SDK) Ask(method, path, params, body string) string {
	c.asked++
	id := fmt.Sprint("TM-", c.asked)
	if params == "" {
		params = "{}"
	}
	c.Frame(`{"id":"`+id+`","method":"message","http_request":{"host":"cds.us1.twilio.com","path":"`+path+`","method":"`+method+`","params":`+params+`}}`, body)
	return id
}

// Request is Ask, and the answer's status and body.
func (c *SDK) Request(method, path, params, body string) (code int, answer map[string]any) {
	c.T.Helper()
	f := c.Reply(c.Ask(method, path, params, body))
	return f.Status("http_status"), f.Payload
}

// Subscribe establishes subscriptions of users of whom the client knows nothing. The
// notifications of it are left to Note.
func (c *SDK) Subscribe(identities ...string) {
	c.T.Helper()
	objects := make([]string, len(identities))
	for i, identity := range identities {
		objects[i] = `{"object_type":"map","object_sid":"` + SDKMap(identity) + `"}`
	}
	if code, answer := c.Request("POST", "/v4/Subscriptions", "", SDKSubscriptions("establish", objects...)); code != 202 {
		c.T.Fatalf("subscribing: %d %v", code, answer)
	}
}

// SDKSubscriptions is the body of a request about subscriptions.
func SDKSubscriptions(action string, objects ...string) string {
	return `{"event_protocol_version":4,"action":"` + action + `","correlation_id":1795329974978,"requests":[` + strings.Join(objects, ",") + `]}`
}

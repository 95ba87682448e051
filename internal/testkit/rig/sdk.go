package rig

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/rollcall-presence/rollcall/internal/testkit"
)

// SDK is a raw client that speaks the protocol of the Conversations SDK.
type SDK struct {
	*Raw
	Said  strings.Builder // all that the node said
	asked int
	notes []testkit.Twilsock // came while an answer was waited for
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

// Frame sends a frame.
func (c *SDK) Frame(header, payload string) {
	c.Bytes(Frame(OpBinary, []byte(testkit.TwilsockText(header, payload))))
}

// Take is the next frame, which is acknowledged where SDKs do so.
func (c *SDK) Take() (f testkit.Twilsock, err error) {
	c.T.Helper()
	op, data, err := c.Receive()
	if err != nil {
		return f, err
	}
	c.Said.Write(data)
	if op != OpBinary {
		return f, fmt.Errorf("a frame of type %#x", op)
	}
	f, err = testkit.ReadTwilsock(string(data))
	if id, _ := f.Header["id"].(string); err == nil && f.Header["method"] != "reply" {
		c.Bytes(Frame(OpBinary, []byte(testkit.TwilsockAck(id))))
	}
	return f, err
}

// Reply waits for the answer to a frame. What comes before is kept for Note.
func (c *SDK) Reply(id string) testkit.Twilsock {
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
	var f testkit.Twilsock
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
		objects[i] = `{"object_type":"map","object_sid":"` + testkit.UserMap(identity) + `"}`
	}
	if code, answer := c.Request("POST", "/v4/Subscriptions", "", SDKSubscriptions("establish", objects...)); code != 202 {
		c.T.Fatalf("subscribing: %d %v", code, answer)
	}
}

// SDKSubscriptions is the body of a request about subscriptions.
func SDKSubscriptions(action string, objects ...string) string {
	return `{"event_protocol_version":4,"action":"` + action + `","correlation_id":1795329974978,"requests":[` + strings.Join(objects, ",") + `]}`
}

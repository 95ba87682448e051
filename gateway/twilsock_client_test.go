package gateway_test

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/coder/websocket"

	"github.com/rollcall-presence/rollcall/gateway"
	"github.com/rollcall-presence/rollcall/internal/testkit"
)

// sdk is a client that speaks the protocol of the Conversations SDK, see gateway/twilsock.
type sdk struct {
	*peer
	mute  bool // acknowledges nothing
	asked int
	notes []testkit.Twilsock // came while an answer was waited for
}

// dialSDK opens a WebSocket that reads nothing until read is called.
func (n *node) dialSDK() *sdk {
	n.t.Helper()
	p, resp, err := n.tryDialAt("/v3/wsconnect", nil)
	if err != nil {
		n.t.Fatalf("dial: %v (%v)", err, resp)
	}
	return &sdk{peer: p}
}

// arrive opens a session as the SDK does, and takes the answer to its init.
func (n *node) arrive(identity string) *sdk {
	n.t.Helper()
	c := n.dialSDK()
	c.read()
	c.init(mint(n.t, service, identity, time.Hour))
	if code := c.reply("TM-init").Status("status"); code != 200 {
		n.t.Fatalf("init was answered with %d", code)
	}
	return c
}

// frame sends a frame with a header, to which the payload's size is added.
func (c *sdk) frame(header, payload string) {
	c.t.Helper()
	if err := c.conn.Write(c.t.Context(), websocket.MessageBinary, []byte(testkit.TwilsockText(header, payload))); err != nil {
		c.t.Fatalf("send: %v", err)
	}
}

func (c *sdk) init(token string) {
	c.t.Helper()
	c.frame(`{"id":"TM-init","method":"init","token":"`+token+`","continuation_token":null,"registrations":[],"capabilities":["client_update"]}`, "")
}

// take is the next frame, which is acknowledged where the SDK does so.
func (c *sdk) take() testkit.Twilsock {
	c.t.Helper()
	f := c.parse(c.next())
	if id, _ := f.Header["id"].(string); f.Header["method"] != "reply" && !c.mute {
		c.acknowledge(id)
	}
	return f
}

func (c *sdk) parse(data string) testkit.Twilsock {
	c.t.Helper()
	f, err := testkit.ReadTwilsock(data)
	if err != nil {
		c.t.Fatal(err)
	}
	return f
}

func (c *sdk) acknowledge(id string) {
	// The node may have closed meanwhile.
	_ = c.conn.Write(c.t.Context(), websocket.MessageBinary, []byte(testkit.TwilsockAck(id)))
}

// reply waits for the answer to a frame. What comes before is kept for note.
func (c *sdk) reply(id string) testkit.Twilsock {
	c.t.Helper()
	for {
		f := c.take()
		if f.Header["method"] == "reply" {
			if f.Header["id"] != id {
				c.t.Fatalf("got the answer %v; want that to %s", f, id)
			}
			return f
		}
		c.notes = append(c.notes, f)
	}
}

// note is the next notification, which must be of the type.
func (c *sdk) note(event string) testkit.Twilsock {
	c.t.Helper()
	var f testkit.Twilsock
	if len(c.notes) > 0 {
		f, c.notes = c.notes[0], c.notes[1:]
	} else {
		f = c.take()
	}
	if f.Header["method"] != "notification" || f.Header["message_type"] != "twilio.sync.event" || f.Payload["event_type"] != event ||
		f.Payload["event_protocol_version"] != 4. {
		c.t.Fatalf("got %v; want a notification of %s", f, event)
	}
	return f
}

// items is the next notification of items: "id identity key data" each.
func (c *sdk) items() (list []string) {
	c.t.Helper()
	events, _ := c.note("map_item_updated").Payload["events"].([]any)
	for _, e := range events {
		e, _ := e.(map[string]any)
		data, _ := json.Marshal(e["item_data"])
		list = append(list, fmt.Sprintf("%.0f %s %s %s", e["id"], whose(e["map_sid"]), e["item_key"], data))
	}
	return list
}

// whose map a SID is.
func whose(sid any) string {
	s, _ := sid.(string)
	b, _ := base64.RawURLEncoding.DecodeString(s[3:])
	return string(b)
}

// ask sends a request and returns its id.
func (c *sdk) ask(method, path, params, body string) string {
	c.t.Helper()
	c.asked++
	id := fmt.Sprint("TM-", c.asked)
	if params == "" {
		params = "{}"
	}
	c.frame(`{"id":"`+id+`","method":"message","active_grant":"ip_messaging","payload_type":"application/json","http_request":{"host":"cds.us1.twilio.com",`+
		`"path":"`+path+`","method":"`+method+`","params":`+params+`,"headers":{}}}`, body)
	return id
}

// request is ask, and the answer's status and body.
func (c *sdk) request(method, path, params, body string) (code int, answer map[string]any) {
	c.t.Helper()
	f := c.reply(c.ask(method, path, params, body))
	if f.Status("status") != 200 || f.Header["payload_type"] != "application/json" {
		c.t.Fatalf("%s %s was answered with %v", method, path, f.Header)
	}
	return f.Status("http_status"), f.Payload
}

// must is request, which must be answered with a status.
func (c *sdk) must(want int, method, path, params, body string) map[string]any {
	c.t.Helper()
	code, answer := c.request(method, path, params, body)
	if code != want {
		c.t.Fatalf("%s %s = %d %v; want %d", method, path, code, answer, want)
	}
	return answer
}

// refused is a request that must be answered with an error.
func (c *sdk) refused(want int, e gateway.ErrorCode, method, path, body string) map[string]any {
	c.t.Helper()
	answer := c.must(want, method, path, "", body)
	if answer["code"] != float64(e) || answer["message"] != e.Text() || answer["status"] != float64(want) {
		c.t.Fatalf("%s %s = %v; want error %d", method, path, answer, e)
	}
	return answer
}

const correlation = "1795329974978"

// object is a map in a request about subscriptions; last is the id of the last event
// that is known of it: a number, null, or nothing.
func object(sid, last string) string {
	if last != "" {
		last = `,"last_event_id":` + last
	}
	return `{"object_sid":"` + sid + `","object_type":"map"` + last + `}`
}

func subscriptionsBody(action string, objects ...string) string {
	return `{"event_protocol_version":4,"action":"` + action + `","correlation_id":` + correlation + `,"retried_requests":0,"ttl_in_s":-1,"requests":[` + strings.Join(objects, ",") + `]}`
}

// subscribe asks to establish or cancel subscriptions, which must be accepted.
func (c *sdk) subscribe(action string, objects ...string) {
	c.t.Helper()
	answer := c.must(202, "POST", "/v4/Subscriptions", "", subscriptionsBody(action, objects...))
	ttl, _ := answer["ttl_in_s"].(float64)
	if answer["estimated_delivery_in_ms"] != 10_000. || answer["max_batch_size"] != 100. || ttl < 20*3600 || ttl > 25*3600 {
		c.t.Fatalf("subscriptions were answered with %v", answer)
	}
}

// told is the next notification about subscriptions, which must be of the type:
// "identity last_event_id" each.
func (c *sdk) told(event string) (list []string) {
	c.t.Helper()
	f := c.note(event)
	if !strings.Contains(f.Text, `"correlation_id":`+correlation+`,`) {
		c.t.Errorf("notification %s; want the correlation_id as it was sent", f.Text)
	}
	events, _ := f.Payload["events"].([]any)
	for _, e := range events {
		e, _ := e.(map[string]any)
		text := whose(e["object_sid"])
		if last, ok := e["last_event_id"].(float64); ok {
			text += fmt.Sprintf(" %.0f", last)
		}
		if e["object_type"] != "map" || event == "subscription_established" && e["replay_status"] != "completed" {
			c.t.Errorf("event %v of %s", e, event)
		}
		list = append(list, text)
	}
	return list
}

// follow subscribes to users of whom the client knows all that is.
func (c *sdk) follow(n *node, identities ...string) {
	c.t.Helper()
	var objects []string
	for _, identity := range identities {
		objects = append(objects, object(testkit.UserMap(identity), fmt.Sprint(n.store.revision(user(identity)))))
	}
	c.subscribe("establish", objects...)
	c.told("subscription_established")
}

// wantsToken takes what is left and wants, before the connection's end with a code, a wish for
// another token and no close frame.
func (c *sdk) wantsToken(code gateway.CloseCode) {
	c.t.Helper()
	if f := c.parse(c.next()); f.Header["client_update_type"] != "token_about_to_expire" {
		c.t.Fatalf("got %v; want a client_update", f.Header)
	}
	c.closes(code, 0)
}

// closes takes what is left and wants, before the connection's end with a code, a close
// frame with a status, 0 for none; it returns the frame's hint.
func (c *sdk) closes(code gateway.CloseCode, status int) (hint float64) {
	c.t.Helper()
	var last testkit.Twilsock
	for {
		select {
		case m, ok := <-c.in:
			if ok {
				if last = c.parse(m); last.Header["method"] == "close" && status == 0 {
					c.t.Fatalf("got %v; want no close frame", last.Header)
				}
				continue
			}
		case <-time.After(5 * time.Minute):
			c.t.Fatal("not closed within 5 minutes")
		}
		break
	}
	c.wantClose(code)
	if status != 0 && (last.Header["method"] != "close" || last.Status("status") != status) {
		c.t.Fatalf("the last frame is %v; want a close with %d", last.Header, status)
	}
	policy, _ := last.Payload["backoff_policy"].(map[string]any)
	hint, _ = policy["reconnect_min_ms"].(float64)
	return hint
}

// alive proves that the session still answers.
func (c *sdk) alive() {
	c.t.Helper()
	c.must(200, "GET", "/Client/v2/Configuration", "", "")
}

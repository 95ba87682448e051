package faults

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/coder/websocket"

	"github.com/rollcall-presence/rollcall/internal/testkit"
	"github.com/rollcall-presence/rollcall/internal/testkit/rig"
)

// sdkBatch is how many maps the SDK asks for at once.
const sdkBatch = 100

// sdkEvents is the payload of a notification.
type sdkEvents struct {
	Type        string `json:"event_type"`
	Correlation int    `json:"correlation_id"`
	Events      []struct {
		ID      int64  `json:"id"`
		MapSID  string `json:"map_sid"`
		ItemKey string `json:"item_key"`
		Data    struct {
			Online *bool `json:"online"`
		} `json:"item_data"`
	} `json:"events"`
}

// sdkSession watches over one connection as the Conversations SDK does: it subscribes to each user's map with the id
// of the last event that it had of it, and takes whatever comes for the state of things.
func (v *watcher) sdkSession(ctx context.Context, node, url string) error {
	url = strings.Replace(url, "/v1/connect", "/v3/wsconnect", 1)
	conn, _, err := websocket.Dial(ctx, url, &websocket.DialOptions{HTTPClient: shared()})
	if err != nil {
		return err
	}
	defer conn.CloseNow()
	conn.SetReadLimit(32 << 20)
	token, err := rig.Mint(v.w.Service, "watcher-"+v.name)(ctx)
	if err != nil {
		return err
	}
	if err := sdkWrite(ctx, conn, testkit.TwilsockText(`{"id":"init","method":"init","token":"`+token+`"}`, "")); err != nil {
		return err
	}
	pending := map[int]bool{} // requests whose subscriptions are not established yet
	for {
		_, data, err := conn.Read(ctx)
		if err != nil {
			return err
		}
		f, err := testkit.ReadTwilsock(string(data))
		switch {
		case err != nil:
			return err
		case f.Header["method"] == "reply" && f.Header["id"] == "init":
			if code := f.Status("status"); code != 200 {
				return fmt.Errorf("init was answered with %d", code)
			}
			for i := 0; i < len(v.w.Identities); i += sdkBatch {
				pending[i] = true
				if err := v.sdkEstablish(ctx, conn, i); err != nil {
					return err
				}
			}
			continue
		case f.Header["method"] == "reply":
			if code := f.Status("http_status"); code != 202 {
				return fmt.Errorf("the subscription was answered with %d: %s", code, f.Text)
			}
			continue
		}
		if err := sdkWrite(ctx, conn, testkit.TwilsockAck(fmt.Sprint(f.Header["id"]))); err != nil {
			return err
		}
		if f.Header["method"] != "notification" {
			continue
		}
		var n sdkEvents
		if err := json.Unmarshal([]byte(f.Text), &n); err != nil {
			return err
		}
		switch n.Type {
		case "subscription_established":
			delete(pending, n.Correlation)
			if len(pending) == 0 {
				v.join(node)
			}
		case "map_item_updated":
			kind := Seen
			if len(pending) > 0 { // it may be of a snapshot
				kind = Read
			}
			for i, e := range n.Events {
				user, err := testkit.UserOfMap(e.MapSID)
				if err != nil {
					return err
				}
				if e.ItemKey == "reachability" {
					v.mu.Lock()
					v.online[user] = rig.State(e.Data.Online)
					v.mu.Unlock()
				}
				if i+1 < len(n.Events) && n.Events[i+1].MapSID == e.MapSID && n.Events[i+1].ID == e.ID {
					continue // an item of the same change follows
				}
				v.mu.Lock()
				online := cmp.Or(v.online[user], "null")
				v.mu.Unlock()
				v.noteOne(kind, user, e.ID, online)
			}
		default:
			return fmt.Errorf("%s: %s", n.Type, f.Text)
		}
	}
}

// sdkEstablish subscribes to the users from i on, as many as go into a request.
func (v *watcher) sdkEstablish(ctx context.Context, conn *websocket.Conn, i int) error {
	type object struct {
		SID  string `json:"object_sid"`
		Type string `json:"object_type"`
		Last *int64 `json:"last_event_id"`
	}
	var objects []object
	v.mu.Lock()
	for _, user := range v.w.Identities[i:min(i+sdkBatch, len(v.w.Identities))] {
		o := object{SID: testkit.UserMap(user), Type: "map"}
		if last, ok := v.known[user]; ok {
			o.Last = &last
		}
		objects = append(objects, o)
	}
	v.mu.Unlock()
	body, err := json.Marshal(map[string]any{"action": "establish", "correlation_id": i, "requests": objects})
	if err != nil {
		return err
	}
	header := fmt.Sprintf(`{"id":"s%d","method":"message","http_request":{"method":"POST","path":"/v4/Subscriptions","params":{}}}`, i)
	return sdkWrite(ctx, conn, testkit.TwilsockText(header, string(body)))
}

func sdkWrite(ctx context.Context, conn *websocket.Conn, text string) error {
	return conn.Write(ctx, websocket.MessageBinary, []byte(text))
}

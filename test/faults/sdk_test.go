package faults

import (
	"bytes"
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/coder/websocket"

	"github.com/rollcall-presence/rollcall/internal/testkit/rig"
)

// sdkBatch is how many maps the SDK asks for at once.
const sdkBatch = 100

// sdkHeader is that of a frame, of either side, as far as it is of interest here.
type sdkHeader struct {
	ID          string         `json:"id"`
	Method      string         `json:"method"`
	Token       string         `json:"token,omitempty"`
	HTTP        map[string]any `json:"http_request,omitempty"`
	Status      *sdkStatus     `json:"status,omitempty"`
	HTTPStatus  *sdkStatus     `json:"http_status,omitempty"`
	PayloadSize int            `json:"payload_size"`
}

type sdkStatus struct {
	Code int `json:"code"`
}

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
	if err := sdkWrite(ctx, conn, sdkHeader{ID: "init", Method: "init", Token: token}, nil); err != nil {
		return err
	}
	pending := map[int]bool{} // requests whose subscriptions are not established yet
	for {
		h, payload, err := sdkRead(ctx, conn)
		switch {
		case err != nil:
			return err
		case h.Method == "reply" && h.ID == "init":
			if h.Status.Code != 200 {
				return fmt.Errorf("init was answered with %d", h.Status.Code)
			}
			for i := 0; i < len(v.w.Identities); i += sdkBatch {
				pending[i] = true
				if err := v.sdkEstablish(ctx, conn, i); err != nil {
					return err
				}
			}
			continue
		case h.Method == "reply":
			if h.HTTPStatus.Code != 202 {
				return fmt.Errorf("the subscription was answered with %d: %s", h.HTTPStatus.Code, payload)
			}
			continue
		}
		if err := sdkWrite(ctx, conn, sdkHeader{ID: h.ID, Method: "reply", Status: &sdkStatus{200}}, nil); err != nil {
			return err
		}
		if h.Method != "notification" {
			continue
		}
		var n sdkEvents
		if err := json.Unmarshal(payload, &n); err != nil {
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
				user, err := base64.RawURLEncoding.DecodeString(strings.TrimPrefix(e.MapSID, "MPu"))
				if err != nil {
					return err
				}
				if e.ItemKey == "reachability" {
					v.mu.Lock()
					v.online[string(user)] = rig.State(e.Data.Online)
					v.mu.Unlock()
				}
				if i+1 < len(n.Events) && n.Events[i+1].MapSID == e.MapSID && n.Events[i+1].ID == e.ID {
					continue // an item of the same change follows
				}
				v.mu.Lock()
				online := cmp.Or(v.online[string(user)], "null")
				v.mu.Unlock()
				v.noteOne(kind, string(user), e.ID, online)
			}
		default:
			return fmt.Errorf("%s: %s", n.Type, payload)
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
		o := object{SID: "MPu" + base64.RawURLEncoding.EncodeToString([]byte(user)), Type: "map"}
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
	request := map[string]any{"method": "POST", "path": "/v4/Subscriptions", "params": map[string]any{}}
	return sdkWrite(ctx, conn, sdkHeader{ID: fmt.Sprint("s", i), Method: "message", HTTP: request, PayloadSize: len(body)}, body)
}

func sdkWrite(ctx context.Context, conn *websocket.Conn, h sdkHeader, payload []byte) error {
	head, err := json.Marshal(h)
	if err != nil {
		return err
	}
	return conn.Write(ctx, websocket.MessageBinary, fmt.Appendf(nil, "TWILSOCK V3.0 %d\r\n%s\r\n%s", len(head), head, payload))
}

func sdkRead(ctx context.Context, conn *websocket.Conn) (h sdkHeader, payload []byte, err error) {
	_, data, err := conn.Read(ctx)
	if err != nil {
		return h, nil, err
	}
	line, rest, _ := bytes.Cut(data, []byte("\r\n"))
	n, err := strconv.Atoi(strings.TrimPrefix(string(line), "TWILSOCK V3.0 "))
	if err != nil || n+2 > len(rest) {
		return h, nil, errors.New("a frame that says it is longer than it is")
	}
	if err := json.Unmarshal(rest[:n], &h); err != nil {
		return h, nil, err
	}
	if payload = rest[n+2:]; len(payload) != h.PayloadSize {
		return h, nil, fmt.Errorf("a payload of %d bytes, which says it has %d", len(payload), h.PayloadSize)
	}
	return h, payload, nil
}

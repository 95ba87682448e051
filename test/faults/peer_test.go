package faults

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/coder/websocket"
	"github.com/coder/websocket/wsjson"

	"github.com/rollcall-presence/rollcall/internal/testkit/rig"
)

// peer is one socket that speaks the native protocol. Unlike the Go client it filters nothing: what the server sends
// is what is recorded.
type peer struct {
	conn *websocket.Conn
}

type message struct {
	Type     string    `json:"type"`
	ID       int       `json:"id"`
	Code     int       `json:"code"`
	Message  string    `json:"message"`
	User     state     `json:"user"`
	Users    []state   `json:"users"`
	Messages []message `json:"messages"`
}

// state is a user as the server tells.
type state struct {
	Identity string  `json:"identity"`
	SID      *string `json:"sid"`
	IsOnline *bool   `json:"is_online"`
	// Attributes are there only where they changed.
	Attributes string `json:"attributes"`
	Rev        int64  `json:"rev"`
}

func (s state) online() string {
	if s.SID == nil {
		return "none"
	}
	return rig.State(s.IsOnline)
}

// shared makes connections with small buffers, of which there are thousands.
var shared = sync.OnceValue(func() *http.Client {
	return &http.Client{Transport: &http.Transport{ReadBufferSize: 512, WriteBufferSize: 512, DisableKeepAlives: true}}
})

// refusal is an answer to the handshake that is no WebSocket.
type refusal struct {
	status int
	retry  time.Duration
}

func (r refusal) Error() string {
	return fmt.Sprintf("the handshake was answered with %d, retry after %v", r.status, r.retry)
}

// dial connects and says hello; it returns with the welcome.
func dial(ctx context.Context, url, service, identity string, hello map[string]any) (*peer, message, error) {
	return dialBy(ctx, shared(), url, service, identity, hello)
}

func dialBy(ctx context.Context, by *http.Client, url, service, identity string, hello map[string]any) (*peer, message, error) {
	conn, res, err := websocket.Dial(ctx, url, &websocket.DialOptions{HTTPClient: by, Subprotocols: []string{"rollcall.v1.json"}})
	if err != nil {
		if res != nil {
			seconds, _ := strconv.Atoi(res.Header.Get("Retry-After"))
			return nil, message{}, refusal{res.StatusCode, time.Duration(seconds) * time.Second}
		}
		return nil, message{}, err
	}
	conn.SetReadLimit(32 << 20)
	p := &peer{conn}
	token, err := rig.Mint(service, identity)(ctx)
	if err != nil {
		return nil, message{}, err
	}
	hello["type"], hello["token"] = "hello", token
	if err := p.write(ctx, hello); err != nil {
		conn.CloseNow()
		return nil, message{}, err
	}
	m, err := p.read(ctx)
	if err == nil && m.Type != "welcome" {
		err = fmt.Errorf("%s %d %s instead of the welcome", m.Type, m.Code, m.Message)
	}
	if err != nil {
		conn.CloseNow()
		return nil, message{}, err
	}
	return p, m, nil
}

func (p *peer) write(ctx context.Context, v any) error { return wsjson.Write(ctx, p.conn, v) }

func (p *peer) read(ctx context.Context) (m message, err error) {
	_, data, err := p.conn.Read(ctx)
	if err != nil {
		return m, err
	}
	return m, json.Unmarshal(data, &m)
}

// bye says bye and returns when the server has closed. Nobody else may read meanwhile, but done is closed by who does.
func (p *peer) bye(done <-chan struct{}) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if p.write(ctx, map[string]string{"type": "bye"}) == nil {
		select {
		case <-done:
		case <-ctx.Done():
		}
	}
	p.conn.CloseNow()
}

// ending is how a session ended that ended with err, and how long the server asked to wait before the next.
func ending(err error) (how string, retry time.Duration) {
	if e, ok := errors.AsType[websocket.CloseError](err); ok {
		var reason struct {
			MS int64 `json:"retry_after_ms"`
		}
		_ = json.Unmarshal([]byte(e.Reason), &reason)
		retry = time.Duration(reason.MS) * time.Millisecond
		switch {
		case e.Code == websocket.StatusNormalClosure:
			return Bye, 0
		case e.Code == websocket.StatusGoingAway, e.Code == 1012:
			return Moved, retry
		case e.Code >= 3500:
			return Kicked, 0
		}
		return Lost, retry
	}
	if e, ok := errors.AsType[refusal](err); ok {
		return Lost, e.retry
	}
	return Lost, 0
}

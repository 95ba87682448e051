package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coder/websocket"
)

// errSilent ends a connection on which nothing came for longer than two ping intervals.
var errSilent = errors.New("nothing heard from the server")

// link is one connection from its dial to its end.
type link struct {
	conn    *websocket.Conn
	lost    chan struct{} // closed when nobody reads conn any more
	began   time.Time     // of the dial
	heard   atomic.Int64  // when something last came, in nanoseconds after began
	silent  atomic.Bool   // the watchdog closed conn
	leaving atomic.Bool   // bye was said: a close with code 1000 is the answer

	mu      sync.Mutex               // guards the following
	pending map[uint64]chan *message // by id; nil for requests of the reader's own

	later []string // subscriptions to ask for again, owned by the reader
}

// call makes r on l and waits for the answer.
func (c *Client) call(ctx context.Context, l *link, r request) (*message, error) {
	answer := make(chan *message, 1)
	r.ID = c.register(l, answer)
	defer l.take(r.ID)
	if err := l.write(ctx, r); err != nil {
		return nil, err
	}
	select {
	case m := <-answer:
		if m.Type == "error" {
			return nil, &Error{m.Code, m.Message}
		}
		return m, nil
	case <-l.lost:
		return nil, errLost
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// register gives a request its id.
func (c *Client) register(l *link, answer chan *message) uint64 {
	c.mu.Lock()
	c.nextID++
	id := c.nextID
	c.mu.Unlock()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.pending == nil {
		l.pending = make(map[uint64]chan *message)
	}
	l.pending[id] = answer
	return id
}

// take removes the request of that id.
func (l *link) take(id uint64) (answer chan *message, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	answer, ok = l.pending[id]
	delete(l.pending, id)
	return answer, ok
}

// write sends r, even if ctx ends meanwhile: half a message would cost the connection. After an error it is closed.
func (l *link) write(ctx context.Context, r request) error {
	frame, err := json.Marshal(r)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), writeTimeout)
	defer cancel()
	if err := l.conn.Write(ctx, websocket.MessageText, frame); err != nil {
		l.conn.CloseNow() // so that the reader finds out too
		return errLost
	}
	return nil
}

// session connects, says hello, and reads until the connection ends; lived is how long the session lasted.
func (c *Client) session(ctx context.Context) (lived time.Duration, err error) {
	token, err := c.opt.Token(ctx)
	if err != nil {
		return 0, fmt.Errorf("get a token: %w", err)
	}
	l := &link{lost: make(chan struct{}), began: time.Now()}
	dialing, dialed := context.WithTimeout(ctx, c.opt.DialTimeout)
	defer dialed()
	if l.conn, err = c.dial(dialing, l.hear); err != nil {
		return 0, err
	}
	defer l.conn.CloseNow()

	hello, later := c.hello(token)
	l.later = later
	if err := l.write(ctx, hello); err != nil {
		return 0, err
	}
	greeting, cancel := context.WithTimeout(ctx, c.opt.WelcomeTimeout)
	defer cancel()
	var first, refusal *message
	for first == nil {
		err := l.read(greeting, func(m *message) error {
			switch {
			case m.Type == "welcome" && first == nil:
				first = m
			case m.Type == "error":
				refusal = m // the close that follows has the code
			default:
				return fmt.Errorf("%s before the welcome", m.Type)
			}
			return nil
		})
		if err != nil {
			return 0, closeError(err, refusal)
		}
	}
	cancel()

	began := time.Now()
	watchdog := l.watch(time.Duration(first.PingIntervalMS) * time.Millisecond)
	defer watchdog.Stop()
	err = c.serve(ctx, l, first)
	switch {
	case l.silent.Load():
		err = errSilent
	case l.leaving.Load():
		err = ErrClosed
	}
	return time.Since(began), closeError(err, nil)
}

// closeError makes a close frame of the server a CloseError.
func closeError(err error, refusal *message) error {
	e, ok := errors.AsType[websocket.CloseError](err)
	if !ok {
		return err
	}
	ce := &CloseError{Code: int(e.Code), Reason: e.Reason}
	if refusal != nil {
		ce.Cause = &Error{refusal.Code, refusal.Message}
	}
	return ce
}

// hello is the first message, and the subscriptions that it has no room for.
func (c *Client) hello(token string) (hello request, later []string) {
	hello = request{Type: "hello", Token: token, Invisible: c.opt.Invisible, Batch: c.opt.Batch}
	size := 0
	c.mu.Lock()
	defer c.mu.Unlock()
	for identity, rev := range c.seen {
		if rev == unseen {
			continue // whoever asks for it asks again
		}
		if size += encodedSize(identity); size > maxNamed {
			later = append(later, identity)
			continue
		}
		if hello.Known == nil {
			hello.Known = make(map[string]int64, len(c.seen))
		}
		hello.Known[identity] = rev
	}
	return hello, later
}

// serve makes l the client's connection and reads it until it ends.
func (c *Client) serve(ctx context.Context, l *link, welcome *message) error {
	c.mu.Lock()
	switched := c.enabled != nil && *c.enabled != welcome.ReachabilityEnabled
	c.enabled = &welcome.ReachabilityEnabled
	c.mu.Unlock()
	if c.opt.OnConnect != nil {
		c.opt.OnConnect(Welcome{
			Session: welcome.Session, ServiceSID: welcome.ServiceSID, Identity: welcome.Identity,
			ReachabilityEnabled: welcome.ReachabilityEnabled,
			PingInterval:        time.Duration(welcome.PingIntervalMS) * time.Millisecond,
			User:                welcome.User,
		})
	}
	if switched {
		c.emit(Event{Kind: ServiceUpdated, ReachabilityEnabled: welcome.ReachabilityEnabled})
	}
	c.resumed(welcome.Users)
	if err := c.resubscribe(ctx, l); err != nil {
		return err
	}

	c.mu.Lock()
	c.link = l
	close(c.ready)
	c.mu.Unlock()
	ctx, cancel := context.WithCancel(ctx)
	var renewal sync.WaitGroup
	defer func() {
		c.mu.Lock()
		c.link, c.ready = nil, make(chan struct{})
		c.mu.Unlock()
		close(l.lost)
		cancel()
		renewal.Wait()
	}()
	renewing := new(atomic.Bool)
	for {
		err := l.read(ctx, func(m *message) error {
			if m.Type == "token.expiring" && renewing.CompareAndSwap(false, true) {
				renewal.Go(func() {
					defer renewing.Store(false)
					c.renew(ctx, l)
				})
			}
			return c.handle(ctx, l, m)
		})
		if err != nil {
			return err
		}
	}
}

// handle does what m asks for. Messages of unknown type are for newer clients.
func (c *Client) handle(ctx context.Context, l *link, m *message) error {
	switch {
	case m.Type == "user.updated":
		if c.note(&m.User) {
			c.emit(Event{Kind: UserUpdated, Reasons: m.UpdateReasons, User: m.User})
		}
	case m.Type == "service.updated":
		c.mu.Lock()
		c.enabled = &m.ReachabilityEnabled
		c.mu.Unlock()
		c.emit(Event{Kind: ServiceUpdated, ReachabilityEnabled: m.ReachabilityEnabled})
	case m.ID != 0:
		return c.answer(ctx, l, m)
	case m.Type == "error":
		c.emit(Event{Kind: ServerError, Err: &Error{m.Code, m.Message}})
	}
	return nil
}

// answer hands m to the request that waits for it.
func (c *Client) answer(ctx context.Context, l *link, m *message) error {
	waiting, ok := l.take(m.ID)
	switch {
	case !ok: // its caller has given up
	case waiting != nil:
		for i := range m.Users {
			c.note(&m.Users[i])
		}
		waiting <- m
	case m.Type == "error":
		return fmt.Errorf("subscribe again: %w", &Error{m.Code, m.Message})
	default:
		c.resumed(m.Users)
		return c.resubscribe(ctx, l)
	}
	return nil
}

// resubscribe asks for the next of the subscriptions that hello had no room for. One request is under way at a time,
// so that the answers are read before more is written.
func (c *Client) resubscribe(ctx context.Context, l *link) error {
	c.mu.Lock()
	l.later = slices.DeleteFunc(l.later, func(identity string) bool {
		_, ok := c.seen[identity]
		return !ok // unsubscribed meanwhile
	})
	c.mu.Unlock()
	if len(l.later) == 0 {
		return nil
	}
	var some []string
	some, l.later = chunk(l.later)
	return l.write(ctx, request{Type: "subscribe", ID: c.register(l, nil), Identities: some})
}

// resumed hands over what changed while the client was away.
func (c *Client) resumed(users []User) {
	for i := range users {
		if c.note(&users[i]) {
			c.emit(Event{Kind: UserUpdated, User: users[i]})
		}
	}
}

func (c *Client) emit(e Event) {
	if c.opt.OnEvent != nil {
		c.opt.OnEvent(e)
	}
}

// renew gives the server a new token, trying until it takes one or the connection ends.
func (c *Client) renew(ctx context.Context, l *link) {
	for attempt := 0; ; attempt++ {
		token, err := c.opt.Token(ctx)
		if err == nil {
			_, err = c.call(ctx, l, request{Type: "token", Token: token})
		}
		if err == nil || errors.Is(err, errLost) {
			return
		}
		timer := time.NewTimer(backoff(attempt, c.opt.BackoffBase, c.opt.BackoffLimit))
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return
		}
	}
}

// hear records that the peer is alive.
func (l *link) hear() { l.heard.Store(int64(time.Since(l.began))) }

// watch closes the connection once nothing, not even a ping, came for two of the server's ping intervals and 5 s.
func (l *link) watch(pingInterval time.Duration) *time.Timer {
	limit := 2*min(max(pingInterval, time.Second), 10*time.Minute) + 5*time.Second
	l.hear()
	var timer *time.Timer
	armed := make(chan struct{}) // timer is set
	timer = time.AfterFunc(limit, func() {
		<-armed
		if left := limit - (time.Since(l.began) - time.Duration(l.heard.Load())); left > 0 {
			timer.Reset(left)
			return
		}
		l.silent.Store(true)
		l.conn.CloseNow()
	})
	close(armed)
	return timer
}

var frames = sync.Pool{New: func() any { return new(bytes.Buffer) }}

// read waits for a frame and calls handle for each message in it.
func (l *link) read(ctx context.Context, handle func(*message) error) error {
	typ, r, err := l.conn.Reader(ctx)
	if err != nil {
		return err
	}
	l.hear()
	if typ != websocket.MessageText {
		return errors.New("binary frame")
	}
	buf := frames.Get().(*bytes.Buffer)
	buf.Reset()
	_, err = buf.ReadFrom(r)
	if err == nil {
		err = decode(buf.Bytes(), handle)
	}
	if buf.Cap() <= 64<<10 {
		frames.Put(buf)
	}
	return err
}

// Package client is the Go client for Rollcall's native protocol.
//
// A [Client] stays connected: when its connection is lost it comes back by itself, with full jitter or when the server
// asked it to, subscribes again with the revisions it has seen, and hands over what changed meanwhile. It hands over
// each user's revisions in strictly growing order, whatever the network does; the last one is the true state.
//
// An idle Client costs one goroutine.
package client

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/coder/websocket"
)

// ErrClosed is what calls return after Close or Drop.
var ErrClosed = errors.New("rollcall: client is closed")

// errLost ends calls that were under way when the connection was lost; they are made again on the next one.
var errLost = errors.New("connection lost")

// Options tunes a Client. Only Token is required.
type Options struct {
	// Token provides an access token. It is called before each connection and when a token is about to expire, by one
	// goroutine at a time, and should return when ctx ends. After an error it is called again, with backoff.
	Token func(ctx context.Context) (string, error)
	// Invisible connects without making the user online.
	Invisible bool
	// Batch lets the server put several messages in one frame.
	Batch bool

	// OnEvent is called with each event, in order. Like the other callbacks it is called by the goroutine that reads:
	// nothing is read, and nothing is queued here, until it returns; the server then conflates what waits. It must
	// return within a few seconds, and must not call a method that waits for the server.
	OnEvent func(Event)
	// OnConnect is called when a session begins, before its first event.
	OnConnect func(Welcome)
	// OnDisconnect is called when a connection was lost or could not be made, with the wait before the next attempt.
	OnDisconnect func(err error, wait time.Duration)

	// HTTPClient makes the connection; nil means one with small buffers, made for many connections. Header goes with it.
	HTTPClient *http.Client
	Header     http.Header
	// DialTimeout bounds an attempt to connect. Default 15 s.
	DialTimeout time.Duration
	// WelcomeTimeout is how long the gateway may take for its welcome then: more than it has new sessions wait while
	// its store is away, which is 30 s unless configured otherwise. Default 45 s.
	WelcomeTimeout time.Duration
	// BackoffBase and BackoffLimit bound the wait between attempts: the ceiling begins at the first, and doubles up to
	// the second. Default 500 ms and 30 s.
	BackoffBase, BackoffLimit time.Duration
	// MaxFrame is the largest frame that is accepted, in bytes. Default 32 MiB: the answer to a subscription may carry
	// the attributes of every user.
	MaxFrame int64
}

// writeTimeout bounds one write; a peer that takes nothing for so long is gone.
const writeTimeout = 10 * time.Second

// shared makes the connections of clients that bring no HTTP client. A connection's buffers live as long as it does.
var shared = sync.OnceValue(func() *http.Client {
	return &http.Client{Transport: &http.Transport{
		Proxy:               http.ProxyFromEnvironment,
		TLSHandshakeTimeout: 10 * time.Second,
		ReadBufferSize:      512,
		WriteBufferSize:     512,
		DisableKeepAlives:   true, // an answer that is no upgrade should not leave a connection behind
	}}
})

// Client is one user's connection to a Rollcall server. All methods may be called by any goroutine.
type Client struct {
	url    string
	opt    Options
	cancel context.CancelCauseFunc // with ErrClosed
	done   chan struct{}           // closed when run has returned

	mu      sync.Mutex    // guards the following; never held over I/O or a callback
	link    *link         // nil while there is no session
	ready   chan struct{} // closed when link is set, replaced when it is lost
	last    error         // why the last connection ended that was tried again
	err     error         // why the client ended
	enabled *bool         // reachability as last told
	nextID  uint64
	// seen holds the subscriptions: each identity's highest revision handed over, or unseen.
	seen map[string]int64
}

// unseen is the revision of a subscription that no snapshot or event has come for.
const unseen = -1

// Dial connects to url, like wss://presence.example.com/v1/connect, and returns once the session has begun. While the
// server cannot be reached it tries again until ctx ends; a refusal that would be repeated (a bad token) is returned
// at once. The client then lives until Close or Drop, or a later refusal of that kind, whatever becomes of ctx.
func Dial(ctx context.Context, url string, opt Options) (*Client, error) {
	if opt.Token == nil {
		return nil, errors.New("rollcall: Options.Token is required")
	}
	if opt.HTTPClient == nil {
		opt.HTTPClient = shared()
	}
	setDefault(&opt.DialTimeout, 15*time.Second)
	setDefault(&opt.WelcomeTimeout, 45*time.Second)
	setDefault(&opt.BackoffBase, 500*time.Millisecond)
	setDefault(&opt.BackoffLimit, 30*time.Second)
	setDefault(&opt.MaxFrame, 32<<20)

	runCtx, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	c := &Client{url: url, opt: opt, cancel: cancel, done: make(chan struct{}), ready: make(chan struct{})}
	go c.run(runCtx) // joined by Close and Drop through done

	if _, err := c.connected(ctx); err != nil {
		c.Drop()
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.last != nil && ctx.Err() != nil {
			err = fmt.Errorf("%w; last attempt: %w", err, c.last)
		}
		return nil, err
	}
	return c, nil
}

func setDefault[T int64 | time.Duration](p *T, value T) {
	if *p <= 0 {
		*p = value
	}
}

// connected waits for a session.
func (c *Client) connected(ctx context.Context) (*link, error) {
	for {
		c.mu.Lock()
		l, ready := c.link, c.ready
		c.mu.Unlock()
		if l != nil {
			return l, nil
		}
		select {
		case <-ready:
		case <-c.done:
			return nil, c.Err()
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// Subscribe asks to hear of users and returns their snapshots in the order asked. It waits for a connection, is
// repeated if the connection is lost meanwhile, and returns when answered or when ctx ends. Many identities are asked
// for in several requests; on an error, users holds the snapshots of those that succeeded. An event that came first
// may be newer than its user's snapshot: the higher Rev is the true one.
func (c *Client) Subscribe(ctx context.Context, identities ...string) (users []User, err error) {
	for _, identity := range identities {
		if !utf8.ValidString(identity) {
			return nil, fmt.Errorf("rollcall: identity %q is not valid UTF-8", identity) // JSON would change it
		}
	}
	for len(identities) > 0 {
		var some []string
		some, identities = chunk(identities)
		fresh := c.expect(some)
		m, err := c.request(ctx, request{Type: "subscribe", Identities: some})
		if err == nil && len(m.Users) != len(some) {
			err = fmt.Errorf("rollcall: %d snapshots for %d identities", len(m.Users), len(some))
		}
		if err != nil {
			c.forget(fresh)
			return users, err
		}
		users = append(users, m.Users...)
	}
	return users, nil
}

// Unsubscribe stops hearing of users: once it is called no further event of them is handed over, and it returns like
// Subscribe.
func (c *Client) Unsubscribe(ctx context.Context, identities ...string) error {
	c.forget(identities)
	for len(identities) > 0 {
		var some []string
		some, identities = chunk(identities)
		if _, err := c.request(ctx, request{Type: "unsubscribe", Identities: some}); err != nil {
			return err
		}
	}
	return nil
}

// Ping waits for the server's answer to a ping of the protocol.
func (c *Client) Ping(ctx context.Context) error {
	_, err := c.request(ctx, request{Type: "ping"})
	return err
}

// expect makes identities subscriptions and returns those that were not.
func (c *Client) expect(identities []string) (fresh []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.seen == nil {
		c.seen = make(map[string]int64, len(identities))
	}
	for _, identity := range identities {
		if _, ok := c.seen[identity]; !ok {
			c.seen[identity] = unseen
			fresh = append(fresh, identity)
		}
	}
	return fresh
}

func (c *Client) forget(identities []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, identity := range identities {
		delete(c.seen, identity)
	}
}

// note records that u is being handed over and tells whether it is news.
func (c *Client) note(u *User) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	last, ok := c.seen[u.Identity]
	if !ok || u.Rev <= last {
		return false
	}
	c.seen[u.Identity] = u.Rev
	return true
}

// request makes r on this connection, or on the next if it is lost before the answer.
func (c *Client) request(ctx context.Context, r request) (*message, error) {
	for {
		l, err := c.connected(ctx)
		if err != nil {
			return nil, err
		}
		if m, err := c.call(ctx, l, r); !errors.Is(err, errLost) {
			return m, err
		}
		select {
		case <-l.lost: // so that connected does not return it again
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// Close says bye if there is a connection, so that the user is offline at once if this was its last session, waits
// for the server to close (a few seconds at most), and ends the client. It may be called in any state, but not by a
// callback.
func (c *Client) Close() error {
	c.mu.Lock()
	l := c.link
	c.mu.Unlock()
	var err error
	if l != nil {
		l.leaving.Store(true)
		if err = l.write(context.Background(), request{Type: "bye"}); err == nil {
			timeout := time.NewTimer(5 * time.Second)
			defer timeout.Stop()
			select {
			case <-l.lost:
			case <-timeout.C:
				err = errors.New("rollcall: the server did not answer bye")
			}
		}
	}
	c.Drop()
	if errors.Is(err, errLost) {
		return nil
	}
	return err
}

// Drop breaks the connection without a word, as a crash would, and ends the client. It must not be called by a callback.
func (c *Client) Drop() {
	c.cancel(ErrClosed)
	<-c.done
}

// Done is closed when the client has ended: by Close, Drop, or a refusal that Err tells.
func (c *Client) Done() <-chan struct{} { return c.done }

// Err is nil while the client lives, ErrClosed after Close or Drop, and otherwise what ended it.
func (c *Client) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// run connects again and again until ctx ends or the server refuses for good.
func (c *Client) run(ctx context.Context) {
	defer close(c.done)
	for attempt := 0; ; attempt++ {
		lived, err := c.session(ctx)
		retry, hint, exact := retryRule(err)
		c.mu.Lock()
		switch {
		case ctx.Err() != nil || errors.Is(err, ErrClosed):
			c.err, retry = ErrClosed, false
		case retry:
			c.last = err
		default:
			c.err = err
		}
		c.mu.Unlock()
		if !retry {
			return
		}

		if lived > c.opt.BackoffLimit {
			attempt = 0 // what ended so long a session is no sign of overload
		}
		wait := hint
		if !exact {
			wait += backoff(attempt, c.opt.BackoffBase, c.opt.BackoffLimit)
		}
		if c.opt.OnDisconnect != nil {
			c.opt.OnDisconnect(err, wait)
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
		}
	}
}

// dial makes one connection.
func (c *Client) dial(ctx context.Context, onPing func()) (*websocket.Conn, error) {
	conn, resp, err := websocket.Dial(ctx, c.url, &websocket.DialOptions{ //nolint:bodyclose // Dial closes it
		HTTPClient:   c.opt.HTTPClient,
		HTTPHeader:   c.opt.Header,
		Subprotocols: []string{Protocol},
		OnPingReceived: func(context.Context, []byte) bool {
			onPing()
			return true
		},
	})
	if err != nil {
		if resp != nil && resp.StatusCode != http.StatusSwitchingProtocols {
			return nil, &StatusError{resp.StatusCode, retryAfter(resp.Header.Get("Retry-After"), time.Now())}
		}
		if e, ok := errors.AsType[*url.Error](err); ok {
			err = e.Err // what is around it names the library's steps, and an http URL that nobody asked for
		}
		return nil, fmt.Errorf("connect to %s: %w", c.url, err)
	}
	if conn.Subprotocol() != Protocol {
		conn.CloseNow()
		return nil, fmt.Errorf("the server does not speak %s", Protocol)
	}
	conn.SetReadLimit(c.opt.MaxFrame)
	return conn, nil
}

// Package twilsock is the protocol that the official Conversations SDKs speak, as far
// as reachability goes: Twilsock frames on a WebSocket, through which the SDK tunnels
// HTTP requests and gets the events of Sync maps. docs/twilio-sdk.md says what of the
// SDK works.
//
// Each user is a Sync map of three items. Nothing is kept for the maps: a map's SID
// is made of the identity and the ids of its events are the user's revisions, so that
// a client that comes back, to any node, says all that is needed to go on. A request
// that is wrong or not supported gets an answer with an HTTP status; a client that
// breaks the framing is closed.
package twilsock

import (
	"context"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rollcall-presence/rollcall/fanout"
	"github.com/rollcall-presence/rollcall/gateway"
	"github.com/rollcall-presence/rollcall/presence"
)

// slot is where updates keep their encoding in this protocol.
const slot = 1

// Requests as they are counted: those that the native protocol has too go by its names.
const (
	requestHello         = "hello"
	requestToken         = "token"
	requestBye           = "bye"
	requestReply         = "reply"
	requestTelemetry     = "telemetry"
	requestConfiguration = "configuration"
	requestUser          = "user"
	requestUpdateUser    = "update_user"
	requestConversations = "conversations"
	requestMap           = "map"
	requestMapItems      = "map_items"
	requestSubscribe     = "subscribe"
	requestUnsubscribe   = "unsubscribe"
	requestRegister      = "register_push"
	requestUnregister    = "unregister_push"
	requestContext       = "notification_context"
	requestUnsupported   = "unsupported"
	requestUnknown       = "unknown"
	requestMalformed     = "malformed"
)

// DefaultUsers is how many users the hosted service lets an SDK be subscribed to.
const DefaultUsers = 100

// Options tunes a Protocol. The zero value is ready for use.
type Options struct {
	// Origin is where clients reach this gateway, such as https://example.com, given
	// the request for the WebSocket: the one thing that the SDK asks past the tunnel,
	// media, it asks there. Default: what the request was sent to.
	Origin func(*http.Request) string
	// Users is to how many users the SDK subscribes at most; it drops the oldest by
	// itself, but after it has subscribed to the newer. Default DefaultUsers; half of the
	// session's limit of subscriptions leaves room for that.
	Users int
}

// Protocol implements gateway.Protocol. Make it with New.
type Protocol struct{ opt Options }

// New makes a Protocol.
func New(opt Options) *Protocol {
	if opt.Origin == nil {
		opt.Origin = gateway.Proxies(nil).Origin
	}
	if opt.Users <= 0 {
		opt.Users = DefaultUsers
	}
	return &Protocol{opt}
}

// Name implements gateway.Protocol: the SDK offers no subprotocol.
func (*Protocol) Name() string { return "" }

// Requests implements gateway.Protocol.
func (*Protocol) Requests() []string {
	return []string{
		requestHello, requestToken, requestBye, requestReply, requestTelemetry, requestConfiguration, requestUser, requestUpdateUser,
		requestConversations, requestMap, requestMapItems, requestSubscribe, requestUnsubscribe, requestRegister, requestUnregister,
		requestContext, requestUnsupported, requestUnknown, requestMalformed,
	}
}

// maxOrigin bounds what a session keeps of its request.
const maxOrigin = 300

// Open implements gateway.Protocol.
func (p *Protocol) Open(s *gateway.Session, r *http.Request) gateway.Handler {
	origin := p.opt.Origin(r)
	if len(origin) > maxOrigin {
		origin = "https://rollcall.invalid"
	}
	return &handler{session: s, users: p.opt.Users, origin: origin}
}

type handler struct {
	session *gateway.Session
	users   int
	origin  string

	// The following are owned by the reader.
	greeted bool
	refused bool // the newest token was
	paid    int  // reads of maps that count no more, since their user was just asked for

	welcomed atomic.Bool
	// blind tells that reachability was off when this client started: of users that it
	// comes to follow the SDK then does not read it, and takes it only from events.
	blind atomic.Bool
	owed  atomic.Int64 // frames that the client has yet to acknowledge

	mu sync.Mutex // guards the following
	// floors are of users whose events had to have ids above their revision, since the
	// client had such a one already: what follows must be above them too. Nil for
	// nearly every session.
	floors map[string]floor
}

// floor is what a client was told last of a user: the revision, and under which id.
type floor struct{ rev, id int64 }

// Message implements gateway.Handler.
func (h *handler) Message(ctx context.Context, text bool, data []byte) {
	m, err := decode(data)
	switch {
	case text || err != nil:
		h.session.CountRequest(requestMalformed)
		h.session.Close(gateway.CloseBadRequest, nil)
	case !h.greeted:
		h.first(ctx, &m)
	default:
		h.request(ctx, &m)
	}
}

// initPatience is how long the SDK waits for the answer to init, which is 30 s, less
// what that may be on its way.
const initPatience = 25 * time.Second

// first handles what comes before the session is open.
func (h *handler) first(ctx context.Context, m *message) {
	h.greeted = true
	if m.Method != methodInit {
		h.session.CountRequest(requestUnknown)
		h.session.Close(gateway.CloseBadRequest, nil)
		return
	}
	h.session.CountRequest(requestHello)
	id, given := m.ID, m.ContinuationToken
	h.session.Open(ctx, gateway.Hello{Token: m.Token, Patience: initPatience},
		func(w gateway.Welcome) []byte {
			h.welcomed.Store(true)
			c := continuationOf(given, w)
			h.blind.Store(!c.enabled)
			return encodeInit(id, given, c)
		},
		func(p *gateway.Problem) []byte { return encodeRefusal(id, p) })
}

func (h *handler) request(ctx context.Context, m *message) {
	switch m.Method {
	case methodReply:
		h.acknowledged()
		return
	case methodClose:
		h.session.CountRequest(requestBye)
		if h.refused || !h.welcomed.Load() {
			// The SDK's doing, not its user's, who may be back: with another token, or
			// because it does not wait any more to be let in.
			h.session.Close(gateway.CloseBye, nil)
			return
		}
		h.session.Bye(ctx)
		return
	case methodInit:
		h.session.CountRequest(requestHello)
		h.session.Close(gateway.CloseBadRequest, nil)
		return
	case methodMessage:
		h.tunnel(ctx, m)
		return
	}
	p := h.session.Allow()
	switch m.Method {
	case methodUpdate:
		h.session.CountRequest(requestToken)
		_, p = h.session.Renew(m.Token) // also beyond the rate: the SDK would close over it
		h.refused = p != nil
	case methodTelemetry:
		h.session.CountRequest(requestTelemetry)
		return // it wants no answer
	case methodPutCtx, methodDeleteCtx:
		h.session.CountRequest(requestContext)
	default:
		h.session.CountRequest(requestUnknown)
		if p == nil {
			p = &gateway.Problem{Code: gateway.ErrorUnknownType}
		}
	}
	result := statusOK
	if p != nil {
		h.session.CountError(p.Code)
		result = problemStatus(p)
	}
	h.session.Send(encode(header{Method: methodReply, ID: m.ID, Status: result}, nil))
}

// acknowledged takes the client's acknowledgement of a frame. Those that are owed
// are no requests; of others there are no more than of those.
func (h *handler) acknowledged() {
	h.session.CountRequest(requestReply)
	if h.owed.Add(-1) < 0 {
		h.owed.Add(1)
		_ = h.session.Allow() // closes who does not stop
	}
}

// Frame implements gateway.Handler.
func (h *handler) Frame(item *fanout.Item) []byte {
	switch {
	case item.Update != nil:
		frame := h.update(item.Update)
		if len(frame) > 0 {
			h.owed.Add(1)
		}
		return frame
	case item.Frame != nil:
		return item.Frame
	}
	return nil // the SDK is not told of the switch, but of what it means for each user
}

// Append implements gateway.Handler. Updates that follow each other become one
// notification.
func (h *handler) Append(dst []byte, items []fanout.Item) []byte {
	var run [][]byte // frames of updates
	flush := func() {
		switch {
		case len(run) == 1:
			dst = append(dst, run[0]...)
		case len(run) > 1:
			dst = append(dst, merge(run)...)
		default:
			return
		}
		h.owed.Add(1)
		run = run[:0]
	}
	for i := range items {
		if u := items[i].Update; u != nil {
			if frame := h.update(u); len(frame) > 0 {
				run = append(run, frame)
			}
			continue
		}
		flush()
		dst = append(dst, items[i].Frame...)
	}
	flush()
	return dst
}

// update is the frame of an update; empty where the SDK is told nothing of it.
func (h *handler) update(u *fanout.Update) []byte {
	h.mu.Lock()
	f, floored := h.floors[u.View.Identity]
	if floored && u.View.Rev <= f.id {
		defer h.mu.Unlock()
		if u.View.Rev <= f.rev {
			return nil // taken from the mailbox before a snapshot was read that is newer
		}
		f = floor{u.View.Rev, f.id + 1}
		h.floors[u.View.Identity] = f
		return encodeUpdate(u, f.id)
	}
	h.mu.Unlock()
	return u.Frame(slot, func(u *fanout.Update) []byte { return encodeUpdate(u, u.View.Rev) })
}

// Expiring implements gateway.Handler.
func (h *handler) Expiring(time.Duration) []byte {
	h.owed.Add(1)
	return encode(header{Method: "client_update", ID: frameID(), ClientUpdateType: "token_about_to_expire"}, nil)
}

// What the SDK does after a close frame with a status: 308, come back; 401, stay away
// until the application has another token. After a lost connection it comes back.
const (
	closeOffload = 308
	closeDenied  = 401
)

// Closing implements gateway.Handler. Where the application may have another token, the
// SDK gets no close frame: for 3 s after one it hears of no token, one that it is given
// then is neither sent nor refused. Without one it comes back; if its token is refused
// it tells the application, and takes another at once. That a token is no longer
// wanted is said as if it was about to expire, before it is refused for what it is.
func (h *handler) Closing(code gateway.CloseCode, retry time.Duration) []byte {
	s := status{Code: closeOffload, Status: "TEMPORARY_REDIRECT"}
	switch code {
	case gateway.CloseGoingAway, gateway.CloseRestart, gateway.CloseInternal, gateway.CloseUnavailable, gateway.CloseSlow,
		gateway.CloseRateLimited:
	case gateway.CloseBadToken:
		return h.Expiring(0)
	case gateway.CloseEnded:
		s = status{Code: closeDenied, Status: "ENDED"}
	default:
		return nil
	}
	var payload []byte
	if retry > 0 {
		payload = encodeBackoff(retry)
	}
	return encode(header{Method: methodClose, ID: frameID(), Status: &s}, payload)
}

// continuation is the token by which a client names itself when it comes back, for as
// long as its application runs. It stays the same, for whoever reads logs, and tells
// whether reachability was on when the client started, which the SDK asks only once.
type continuation struct {
	enabled  bool
	id       string // of the client's first session
	reissued bool
}

const (
	continuationOn  = "CT1"
	continuationOff = "CT0"
)

func continuationOf(given string, w gateway.Welcome) continuation {
	for _, prefix := range []string{continuationOn, continuationOff} {
		id, ok := strings.CutPrefix(given, prefix)
		if ok && len(id) == presence.SessionIDLen && strings.Trim(id, "0123456789abcdef") == "" {
			return continuation{enabled: prefix == continuationOn, id: id}
		}
	}
	return continuation{enabled: w.Service.Enabled, id: string(w.Session), reissued: true}
}

func (c continuation) String() string {
	if c.enabled {
		return continuationOn + c.id
	}
	return continuationOff + c.id
}

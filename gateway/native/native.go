// Package native is Rollcall's own protocol on WebSockets: text frames, one JSON
// object each. docs/protocol.md describes it.
//
// A request that is merely wrong gets an error frame with its id, and nothing is
// lost. A client that breaks the protocol itself (a frame that is not a JSON
// object, a binary frame, anything but one hello first) is closed.
package native

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"time"
	"unicode/utf8"

	"github.com/rollcall-presence/rollcall/fanout"
	"github.com/rollcall-presence/rollcall/gateway"
	"github.com/rollcall-presence/rollcall/presence"
)

// Name is the WebSocket subprotocol.
const Name = "rollcall.v1.json"

// slot is where updates keep their encoding in this protocol.
const slot = 0

// The requests, and what stands for all others in the metrics.
const (
	hello       = "hello"
	subscribe   = "subscribe"
	unsubscribe = "unsubscribe"
	token       = "token"
	register    = "register_push"
	unregister  = "unregister_push"
	ping        = "ping"
	bye         = "bye"

	unknown   = "unknown"
	malformed = "malformed"
)

// Protocol implements gateway.Protocol. Its zero value is ready for use.
type Protocol struct{}

// Name implements gateway.Protocol.
func (Protocol) Name() string { return Name }

// Requests implements gateway.Protocol.
func (Protocol) Requests() []string {
	return []string{hello, subscribe, unsubscribe, token, register, unregister, ping, bye, unknown, malformed}
}

// Open implements gateway.Protocol.
func (Protocol) Open(s *gateway.Session, _ *http.Request) gateway.Handler {
	return &handler{session: s}
}

type handler struct {
	session *gateway.Session
	greeted bool // owned by the reader
	batch   bool // set before anything can be written
}

// Message implements gateway.Handler.
func (h *handler) Message(ctx context.Context, text bool, data []byte) {
	if text && !utf8.Valid(data) {
		h.session.CountRequest(malformed)
		h.session.Close(gateway.CloseNotUTF8, nil)
		return
	}
	r, err := decode(data)
	switch {
	case !text, errors.Is(err, errMalformed):
		h.session.CountRequest(malformed)
		h.session.Close(gateway.CloseBadRequest, nil)
	case !h.greeted:
		h.first(ctx, &r, err)
	default:
		h.request(ctx, &r, err)
	}
}

// first handles what comes before the session is open. A stranger is refused for
// any mistake.
func (h *handler) first(ctx context.Context, r *request, err error) {
	h.greeted = true
	h.count(r.Type)
	switch {
	case r.Type != hello:
		h.session.Close(gateway.CloseBadRequest, nil)
		return
	case err != nil || r.Token == nil:
		h.refuse(r.ID, &gateway.Problem{Code: gateway.ErrorBadField, Close: gateway.CloseBadRequest})
		return
	case r.lone:
		h.refuse(r.ID, &gateway.Problem{Code: gateway.ErrorIdentityEncoding, Close: gateway.CloseBadRequest})
		return
	}
	h.batch = r.Batch
	id, known := r.ID, r.Known
	h.session.Open(ctx, gateway.Hello{
		Token:     *r.Token,
		Known:     known,
		Invisible: r.Invisible,
		Batch:     r.Batch,
	}, func(w gateway.Welcome) []byte { return encodeWelcome(w, known) },
		func(p *gateway.Problem) []byte { return encodeError(id, p) })
}

// refuse ends the session for its hello's problem.
func (h *handler) refuse(id json.RawMessage, p *gateway.Problem) {
	h.session.CountError(p.Code)
	h.session.Close(p.Close, encodeError(id, p))
}

func (h *handler) request(ctx context.Context, r *request, err error) {
	h.count(r.Type)
	if p := h.session.Allow(); p != nil {
		h.fail(r, p)
		return
	}
	if err != nil {
		h.fail(r, &gateway.Problem{Code: gateway.ErrorBadField})
		return
	}
	switch r.Type {
	case subscribe:
		h.subscribe(ctx, r)
	case unsubscribe:
		if h.checkIdentities(r) {
			h.unsubscribe(r)
		}
	case token:
		h.token(r)
	case register:
		h.registerPush(ctx, r)
	case unregister:
		h.unregisterPush(ctx, r)
	case ping:
		h.session.Send(plain("pong", r.ID))
	case bye:
		h.session.Bye(ctx)
	case hello:
		h.session.Close(gateway.CloseBadRequest, nil)
	default:
		h.fail(r, &gateway.Problem{Code: gateway.ErrorUnknownType})
	}
}

func (h *handler) subscribe(ctx context.Context, r *request) {
	if !h.checkIdentities(r) {
		return
	}
	p := h.session.Subscribe(ctx, r.Identities, nil, func(users []presence.Snapshot) []byte {
		return encodeSubscribed(r.ID, users)
	})
	if p != nil {
		h.fail(r, p)
	}
}

func (h *handler) unsubscribe(r *request) {
	if p := h.session.Unsubscribe(r.Identities); p != nil {
		h.fail(r, p)
		return
	}
	h.session.Send(plain("unsubscribed", r.ID))
}

func (h *handler) token(r *request) {
	if r.Token == nil {
		h.fail(r, &gateway.Problem{Code: gateway.ErrorBadField})
		return
	}
	expires, p := h.session.Renew(*r.Token)
	if p != nil {
		h.fail(r, p)
		return
	}
	h.session.Send(encodeTokenAccepted(r.ID, expires))
}

func (h *handler) registerPush(ctx context.Context, r *request) {
	if r.lone {
		h.fail(r, &gateway.Problem{Code: gateway.ErrorPushAddress})
		return
	}
	if most := int64(presence.MaxBindingLife / time.Second); r.ExpiresIn < 0 || r.ExpiresIn > most {
		h.fail(r, &gateway.Problem{Code: gateway.ErrorPushLife})
		return
	}
	b, p := h.session.RegisterPush(ctx, presence.Registration{
		Type: r.BindingType, Address: r.Address, Credential: r.Credential, MessageTypes: r.MessageTypes,
		Life: time.Duration(r.ExpiresIn) * time.Second,
	})
	if p != nil {
		h.fail(r, p)
		return
	}
	h.session.Send(encodePushRegistered(r.ID, &b))
}

func (h *handler) unregisterPush(ctx context.Context, r *request) {
	if r.lone || r.SID == "" && (r.BindingType == "" || r.Address == "") {
		h.fail(r, &gateway.Problem{Code: gateway.ErrorBadField})
		return
	}
	if p := h.session.UnregisterPush(ctx, r.SID, r.BindingType, r.Address); p != nil {
		h.fail(r, p)
		return
	}
	h.session.Send(plain("push_unregistered", r.ID))
}

// checkIdentities reports whether the request's list may be used; else it has
// answered.
func (h *handler) checkIdentities(r *request) bool {
	p := h.session.CheckIdentities(r.Identities)
	switch {
	case r.Identities == nil:
		p = &gateway.Problem{Code: gateway.ErrorBadField}
	case r.lone:
		p = &gateway.Problem{Code: gateway.ErrorIdentityEncoding}
	}
	if p != nil {
		h.fail(r, p)
	}
	return p == nil
}

// fail answers a request with an error.
func (h *handler) fail(r *request, p *gateway.Problem) {
	h.session.CountError(p.Code)
	h.session.Send(encodeError(r.ID, p))
}

func (h *handler) count(typ string) {
	switch typ {
	case hello, subscribe, unsubscribe, token, register, unregister, ping, bye:
	default:
		typ = unknown
	}
	h.session.CountRequest(typ)
}

// Frame implements gateway.Handler.
func (h *handler) Frame(item *fanout.Item) []byte {
	switch {
	case item.Update != nil:
		return item.Update.Frame(slot, encodeUpdate)
	case item.Frame != nil:
		return item.Frame
	}
	return serviceUpdated[item.ServiceEnabled]
}

const (
	batchHead = `{"type":"batch","messages":[`
	batchTail = `]}`
)

// Append implements gateway.Handler. Where the client allows it, pushes that follow
// each other become one batch; answers stay by themselves.
func (h *handler) Append(dst []byte, items []fanout.Item) []byte {
	for len(items) > 0 {
		pushes := 0
		if h.batch {
			pushes = leadingPushes(items)
		}
		if pushes < 2 {
			dst = append(dst, h.Frame(&items[0])...)
			items = items[1:]
			continue
		}
		n := len(batchHead) + pushes - 1 + len(batchTail)
		for i := range items[:pushes] {
			n += len(gateway.Payload(h.Frame(&items[i])))
		}
		dst = append(gateway.AppendTextHeader(dst, n), batchHead...)
		for i := range items[:pushes] {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = append(dst, gateway.Payload(h.Frame(&items[i]))...)
		}
		dst = append(dst, batchTail...)
		items = items[pushes:]
	}
	return dst
}

func leadingPushes(items []fanout.Item) int {
	i := slices.IndexFunc(items, func(item fanout.Item) bool { return item.Frame != nil })
	if i < 0 {
		return len(items)
	}
	return i
}

// Expiring implements gateway.Handler.
func (h *handler) Expiring(d time.Duration) []byte { return encodeExpiring(d) }

// Closing implements gateway.Handler: the close frame says it all.
func (h *handler) Closing(gateway.CloseCode, time.Duration) []byte { return nil }

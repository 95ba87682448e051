package gateway

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/rollcall-presence/rollcall/presence"
)

// Options says what a Server serves. Presence, Services, Hub and Tokens are
// required; the zero value of all else works.
type Options struct {
	Presence Registrar
	Services Services
	Hub      Hub
	Tokens   Tokens
	// Push is what registers devices for push. Nil refuses it, with ErrorPushOff.
	Push presence.Bindings
	// Users is where protocols that show users by themselves, or let them change their
	// profile, read and write. Nil answers ErrorInternal.
	Users Users
	// BeforeUserUpdate asks the service's backend whether a user may change itself, and
	// answers within seconds; if not it is ErrRejected, or ErrAsking if it cannot be
	// asked. Nil asks nobody.
	BeforeUserUpdate func(context.Context, presence.Service, presence.User, presence.UserUpdate) error

	// Sockets are the WebSocket endpoints, by path.
	Sockets map[string]Protocol
	// Routes are what else the public listener serves, by path prefix: "/v1" is /v1
	// and all below it, as it came. The longest prefix wins; the root redirects to
	// /console.
	Routes map[string]http.Handler

	// Origins are the browser origins that may connect besides the request's own
	// host: "https://app.example.com", or only a host, or a pattern with * such as
	// "https://*.example.com". A lone * allows all.
	Origins []string
	// Proxies are trusted to name the client in X-Forwarded-For. None by default.
	Proxies Proxies
	// TLSCert and TLSKey are PEM files; both or neither. They are read again when
	// they change.
	TLSCert, TLSKey string

	Limits Limits
	Timers Timers

	// Ready are checks of /readyz by name; a nil error is ready. They are called for
	// each request, concurrently, and should answer from memory.
	Ready map[string]func(context.Context) error
	// Metrics gets the gateway's metrics, and is what /metrics shows. Nil means a
	// registry of its own.
	Metrics *prometheus.Registry
	// Log is where lifecycle, refusals of note and, at debug level, each session's
	// end are told. Nil discards.
	Log *zap.Logger
}

// Limits bound what clients may take. Zero fields take the default.
type Limits struct {
	Connections       int // WebSockets on the node. Default 100,000
	Plain             int // TCP connections that are not, or not yet, WebSockets. Default 16,384
	Pending           int // WebSockets without a hello yet. Default 10,000
	PendingPerAddress int // of those, from one address. Default 1,000
	Waiting           int // WebSockets that wait for the store to be back. Default 10,000
	SessionsPerUser   int // on the node. Default 100
	AcceptRate        int // WebSockets a second. Default 2,000
	AcceptBurst       int // at once. Default 4,000
	Frame             int // bytes of a message from a client. Default 64 KiB
	Identities        int // in one request. Default 500
	Identity          int // bytes of one. Default, and at most, presence.MaxIdentity
	Attributes        int // bytes of a user's. Default presence.DefaultAttributes
	Subscriptions     int // of a session; the hub's own limit should be the same. Default 1,000
	RequestRate       int // requests a second of a session. Default 50
	RequestBurst      int // at once. Default 200
	Mailbox           int // bytes that may wait for a session. Default 256 KiB
}

// Timers are the gateway's times. Zero fields take the default.
type Timers struct {
	Hello time.Duration // from accept to hello. Default 10 s
	Ping  time.Duration // between pings of a session. Default 25 s; at least a second
	Pong  time.Duration // from a ping to anything from the client. Default 8 s; less than Ping
	// Write is for how long one write may make no progress. Default Ping + Pong: a
	// peer that takes nothing for as long as it takes to find a dead one is dead.
	Write   time.Duration
	Close   time.Duration // from a close frame to the client's. Default 5 s
	Request time.Duration // for the store to answer; less than Pong. Default 5 s, or half of Pong if that is less
	// Wait is for how long a new session waits for a store that is away. Default 30 s;
	// negative: not at all.
	Wait time.Duration
	// ExpiryWarning is how long before its token expires a client is told, or a tenth
	// of the token's life if that is less. Default 60 s.
	ExpiryWarning time.Duration
	// Batch is how long an update may wait for others at a session whose client takes
	// batches and was written to less than that ago. Default 100 ms, at which nobody
	// notices that somebody came or went; negative: not at all.
	Batch time.Duration
	// ReadyDelay is between failing readiness and closing the listener, for load
	// balancers to notice. Default 0.
	ReadyDelay time.Duration
	// Drain is over what time Shutdown spreads the closing of sessions, at most; it
	// is shorter for few sessions, and where Shutdown's context ends sooner. Default 15 s.
	Drain time.Duration
}

func (o Options) withDefaults() (Options, error) {
	var errs []error
	if o.Presence == nil || o.Services == nil || o.Hub == nil || o.Tokens == nil {
		errs = append(errs, errors.New("options: Presence, Services, Hub and Tokens are required"))
	}
	if (o.TLSCert == "") != (o.TLSKey == "") {
		errs = append(errs, errors.New("TLSCert and TLSKey go together"))
	}
	if o.Metrics == nil {
		o.Metrics = prometheus.NewRegistry()
	}
	if o.Log == nil {
		o.Log = zap.NewNop()
	}
	l := &o.Limits
	for _, f := range []struct {
		name string
		v    *int
		def  int
	}{
		{"Connections", &l.Connections, 100_000},
		{"Plain", &l.Plain, 16_384},
		{"Pending", &l.Pending, 10_000},
		{"PendingPerAddress", &l.PendingPerAddress, 1_000},
		{"Waiting", &l.Waiting, 10_000},
		{"SessionsPerUser", &l.SessionsPerUser, 100},
		{"AcceptRate", &l.AcceptRate, 2_000},
		{"AcceptBurst", &l.AcceptBurst, 4_000},
		{"Frame", &l.Frame, 64 << 10},
		{"Identities", &l.Identities, 500},
		{"Identity", &l.Identity, presence.MaxIdentity},
		{"Attributes", &l.Attributes, presence.DefaultAttributes},
		{"Subscriptions", &l.Subscriptions, 1_000},
		{"RequestRate", &l.RequestRate, 50},
		{"RequestBurst", &l.RequestBurst, 200},
		{"Mailbox", &l.Mailbox, 256 << 10},
	} {
		if *f.v = cmp.Or(*f.v, f.def); *f.v < 0 || *f.v > 1<<30 {
			errs = append(errs, fmt.Errorf("options: Limits.%s must be from 1 to 2^30", f.name))
		}
	}
	t := &o.Timers
	t.Hello = cmp.Or(t.Hello, 10*time.Second)
	t.Ping = cmp.Or(t.Ping, 25*time.Second)
	t.Pong = cmp.Or(t.Pong, 8*time.Second)
	t.Write = cmp.Or(t.Write, t.Ping+t.Pong)
	t.Close = cmp.Or(t.Close, 5*time.Second)
	t.Request = cmp.Or(t.Request, min(5*time.Second, t.Pong/2))
	t.Wait = cmp.Or(t.Wait, 30*time.Second)
	t.ExpiryWarning = cmp.Or(t.ExpiryWarning, time.Minute)
	t.Drain = cmp.Or(t.Drain, 15*time.Second)
	t.Batch = cmp.Or(t.Batch, 100*time.Millisecond)
	if t.Ping < time.Second || t.Pong <= 0 || t.Pong >= t.Ping || t.Request >= t.Pong ||
		min(t.Hello, t.Write, t.Close, t.Request, t.ExpiryWarning, t.Drain) <= 0 || t.ReadyDelay < 0 {
		errs = append(errs, errors.New("Timers: Request < Pong < Ping, Ping at least a second, none negative"))
	}
	for _, pattern := range o.Origins {
		if err := checkOrigin(pattern); err != nil {
			errs = append(errs, err)
		}
	}
	return o, errors.Join(errs...)
}

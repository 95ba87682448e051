// Package rest is the REST API below /v1: services, their configuration, users, and
// what notifies them, in the shape of Twilio's Conversations v1, so that the unmodified helper
// libraries drive it. openapi.yaml at the top of the project describes it.
//
// Every request is authenticated, every answer but a 204 is one JSON object, and no
// answer redirects. Each operation is one entry of the table in route.go.
package rest

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"net/http"
	"net/netip"
	"runtime/debug"
	"slices"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/rollcall-presence/rollcall/presence"
)

// Credentials decides who may call.
type Credentials interface {
	// Admit lets a request from an address in with its user name and password, and
	// tells for which account (AC SID). Errors are KindUnauthenticated or KindLimited.
	Admit(from netip.Addr, user, password string) (account string, err error)
	// Good reports whether the password still is the user's. It counts for nothing,
	// and is for callers that were let in and stay.
	Good(user, password string) bool
}

// Services is what the API needs of the stored services. Errors carry a
// presence.Kind; here and in Users, a service or user that is not there is
// presence.ErrNoService or presence.ErrNoUser.
type Services interface {
	CreateService(ctx context.Context, s presence.Service) (presence.Service, error)
	Service(ctx context.Context, sid string) (presence.Service, error)
	ListServices(ctx context.Context, cursor string, limit int) (presence.Page[presence.Service], error)
	UpdateService(ctx context.Context, sid string, u presence.ServiceUpdate) (presence.Service, error)
	DeleteService(ctx context.Context, sid string) error
}

// Users is what the API needs of the stored users.
type Users interface {
	CreateUser(ctx context.Context, k presence.Key, u presence.UserUpdate) (presence.User, error)
	// User returns the user of a service that has the SID or identity, and the service.
	User(ctx context.Context, service, name string) (presence.Service, presence.User, error)
	ListUsers(ctx context.Context, service, cursor string, limit int) (presence.Page[presence.User], error)
	UpdateUser(ctx context.Context, k presence.Key, u presence.UserUpdate) (presence.User, error)
	DeleteUser(ctx context.Context, k presence.Key) error
}

// Store is where the resources live.
type Store interface {
	Services
	Users
	Roles
	Account
	Notifications
	Bindings
	PushCredentials
	Keys
	Revocations
	Presence
	Sessions
	Webhooks
}

// Options tunes the API. The zero value is ready for use.
type Options struct {
	// Origin is the scheme and host, without a slash at the end, that the client of
	// a request sees; URLs in answers begin with it. Helper libraries follow page
	// URLs with their credentials attached, so it must never name a stranger.
	// Default: the request's own Host, https if it came over TLS.
	Origin func(*http.Request) string
	// Client is the address that a request counts for. Default: the peer's.
	Client func(*http.Request) netip.Addr
	// MaxIdentity is the longest identity of a new user, in bytes. Default, and at
	// most, presence.MaxIdentity.
	MaxIdentity int
	// MaxAttributes is the longest attributes text of a user, in bytes. Default
	// presence.DefaultAttributes. It bounds request bodies too.
	MaxAttributes int
	// Timeout bounds a request's work on the store; past it the answer is 503.
	// Default 8s, below the 10s after which the helper libraries give up.
	Timeout time.Duration
	// MaxStreams is how many event streams the node serves at a time. Default 1000.
	MaxStreams int
	// Draining, if set, is closed when the node is about to stop: event streams end, and
	// no other begins.
	Draining <-chan struct{}
	// Hooks checks targets of webhooks, and asks them before changes. Nil: every target
	// is good, and none is asked.
	Hooks Hooks
	// Log gets a line for each change made (who, what, which resource) and for each
	// request that fails on our side; never secrets, names or attributes. May be nil.
	Log *zap.Logger
	// Metrics is where the metrics are registered. May be nil.
	Metrics prometheus.Registerer
}

// New returns the handler of everything below /v1 but the sockets. It routes on
// the escaped path, so that a%2Fb is one identity: whatever stands in front must
// hand requests on as they came, and not clean their paths as http.ServeMux does.
func New(store Store, credentials Credentials, opt Options) http.Handler {
	if opt.Origin == nil {
		opt.Origin = requestOrigin
	}
	if opt.Client == nil {
		opt.Client = peer
	}
	if opt.MaxAttributes == 0 {
		opt.MaxAttributes = presence.DefaultAttributes
	}
	if opt.MaxIdentity <= 0 {
		opt.MaxIdentity = presence.MaxIdentity
	}
	if opt.Timeout == 0 {
		opt.Timeout = 8 * time.Second
	}
	if opt.Hooks == nil {
		opt.Hooks = noHooks{}
	}
	if opt.Log == nil {
		opt.Log = zap.NewNop()
	}
	if opt.MaxStreams == 0 {
		opt.MaxStreams = 1000
	}
	m := newMetrics(opt.Metrics)
	return &api{
		store: store, credentials: credentials, opt: opt, metrics: m,
		feeds: &feeds{store: store, max: opt.MaxStreams, draining: opt.Draining, metrics: m, of: map[string]*feed{}},
	}
}

func requestOrigin(r *http.Request) string {
	if r.TLS != nil {
		return "https://" + r.Host
	}
	return "http://" + r.Host
}

func peer(r *http.Request) netip.Addr {
	a, _ := netip.ParseAddrPort(r.RemoteAddr)
	return a.Addr().Unmap()
}

type api struct {
	store       Store
	credentials Credentials
	opt         Options
	metrics     *metrics
	feeds       *feeds
}

// call is one request on its way through an operation.
type call struct {
	*api
	ctx        context.Context //nolint:containedctx // of the request, for as long as it
	r          *http.Request
	id         string // RQ SID
	account    string
	credential string // SID that authenticated
	vars       map[string]string
	of         string // SID of the service that it is about, where there is one
	form       form
}

func (a *api) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	start := time.Now()
	var b [16]byte
	_, _ = rand.Read(b[:])
	c := &call{api: a, r: r, id: "RQ" + hex.EncodeToString(b[:])}
	op, vars, allowed := match(r.Method, r.URL.EscapedPath())
	c.vars = vars

	ctx, cancel := context.WithTimeout(r.Context(), a.opt.Timeout)
	defer cancel()
	c.ctx = ctx
	var status int
	var body any
	if result, err := c.serve(w, op, allowed); err != nil {
		e := c.failure(err, op)
		status, body = e.Status, e
		e.headers(w.Header(), allowed)
	} else {
		status, body = op.status, result
	}

	h := w.Header()
	h.Set("Twilio-Request-Id", c.id)
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	a.metrics.observe(op.name, status, time.Since(start))
	if run, ok := body.(stream); ok {
		run(w)
		return
	}
	if status == http.StatusNoContent {
		w.WriteHeader(status)
		return
	}
	h.Set("Content-Type", "application/json; charset=utf-8")
	if e, ok := body.(encoded); ok {
		h.Set("Content-Length", strconv.Itoa(e.Len()))
		w.WriteHeader(status)
		_, _ = e.WriteTo(w)
		buffers.Put(e.Buffer)
		return
	}
	w.WriteHeader(status)
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	_ = enc.Encode(body) // the client may have left; nobody is there to tell
}

// serve authenticates, and runs the operation. A panic becomes an error.
func (c *call) serve(w http.ResponseWriter, op operation, allowed []string) (result any, err error) {
	defer func() {
		if p := recover(); p != nil {
			c.opt.Log.Error("panic in a REST operation", zap.String("operation", op.name), zap.String("request", c.id),
				zap.Any("panic", p), zap.ByteString("stack", debug.Stack()))
			err = errInternal
		}
	}()
	user, password, _ := c.r.BasicAuth()
	account, err := c.credentials.Admit(c.opt.Client(c.r), user, password)
	switch {
	case err != nil:
		return nil, err
	case op.handle == nil && allowed == nil:
		return nil, c.notFound()
	case op.handle == nil:
		return nil, errMethod
	}
	c.account, c.credential = account, user
	if c.r.Method == http.MethodPost {
		// A form may spell each byte of the attributes in three.
		if c.form, err = readForm(w, c.r, int64(3*c.opt.MaxAttributes+16<<10)); err != nil {
			return nil, err
		}
	}
	return op.handle(c)
}

// failure makes the answer of an error, and logs what is ours to mend.
func (c *call) failure(err error, op operation) *Error {
	e, ok := errors.AsType[*Error](err)
	if !ok {
		e = c.errorOf(err)
	}
	fields := []zap.Field{zap.String("operation", op.name), zap.String("request", c.id), zap.Error(err)}
	switch {
	case errors.Is(err, errInternal) || c.r.Context().Err() != nil: // logged; or the client left, which is no fault
	case e.Status == http.StatusServiceUnavailable:
		c.opt.Log.Warn("REST request not served", fields...)
	case e.Status >= http.StatusInternalServerError:
		c.opt.Log.Error("REST request failed", fields...)
	}
	return e
}

// audit logs a change that was made.
func (c *call) audit(what string, resource ...zap.Field) {
	c.opt.Log.Info("resource changed", append([]zap.Field{
		zap.String("change", what), zap.String("credential", c.credential), zap.String("request", c.id),
		zap.Strings("parameters", c.form.taken),
	}, resource...)...)
}

// url is the absolute URL of a path below the API's origin.
func (c *call) url(path string) string { return c.opt.Origin(c.r) + path }

// date is a time as the API writes it.
func date(t time.Time) string { return t.UTC().Format(dateFormat) }

const dateFormat = "2006-01-02T15:04:05Z"

// links are absolute URLs below base, by name.
func links(base string, paths map[string]string) map[string]string {
	for name, path := range paths {
		paths[name] = base + path
	}
	return paths
}

// metrics of the API. Its labels are operations and statuses, never resources.
type metrics struct {
	requests *prometheus.CounterVec
	seconds  *prometheus.HistogramVec
	streamMetrics
}

func newMetrics(reg prometheus.Registerer) *metrics {
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "rollcall_rest_requests_total", Help: "REST requests answered, by operation and HTTP status.",
		}, []string{"operation", "status"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "rollcall_rest_request_seconds", Help: "Time from a REST request's header to its answer, by operation.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 10},
		}, []string{"operation"}),
		streamMetrics: newStreamMetrics(reg),
	}
	if reg != nil {
		reg.MustRegister(m.requests, m.seconds)
	}
	for _, op := range slices.Concat(operations, []operation{unmatched}) {
		m.seconds.WithLabelValues(op.name)
		for _, status := range op.statuses() {
			m.requests.WithLabelValues(op.name, strconv.Itoa(status))
		}
	}
	return m
}

func (m *metrics) observe(op string, status int, d time.Duration) {
	m.requests.WithLabelValues(op, strconv.Itoa(status)).Inc()
	m.seconds.WithLabelValues(op).Observe(d.Seconds())
}

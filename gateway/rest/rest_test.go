package rest_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"

	"github.com/alicebob/miniredis/v2"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/redis/go-redis/v9"
	"github.com/twilio/twilio-go"
	twilioclient "github.com/twilio/twilio-go/client"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/rollcall-presence/rollcall/auth"
	"github.com/rollcall-presence/rollcall/gateway/rest"
	"github.com/rollcall-presence/rollcall/internal/rate"
	"github.com/rollcall-presence/rollcall/internal/testkit"
	"github.com/rollcall-presence/rollcall/presence"
	"github.com/rollcall-presence/rollcall/presence/redisstore"
)

const (
	account = "AC00112233445566778899aabbccddeeff"
	authTok = "authTokenSecret"
	keySID  = "SKffeeddccbbaa99887766554433221100"
	secret  = "keySecretSecret"
	noSID   = "IS00000000000000000000000000000000"
)

// fixture is the API on a real store, served over loopback.
type fixture struct {
	t       testing.TB
	mini    *miniredis.Miniredis // nil on a real redis-server
	store   *redisstore.Store
	server  *httptest.Server
	keyring *auth.Keyring
	logs    *observer.ObservedLogs
	metrics *prometheus.Registry
	twilio  *twilio.RestClient // every answer it gets is checked, see transport
	service string             // SID of the default service
}

// each runs a test on miniredis and on a real redis-server.
func each(t *testing.T, test func(*testing.T, *fixture)) {
	t.Run("miniredis", func(t *testing.T) {
		t.Parallel()
		test(t, newMini(t))
	})
	t.Run("redis", func(t *testing.T) {
		t.Parallel()
		c := redis.NewClient(&redis.Options{Addr: testkit.Redis(t).Addr})
		t.Cleanup(func() { _ = c.Close() })
		test(t, serve(t, c, rest.Options{}))
	})
}

func newMini(t testing.TB) *fixture {
	t.Helper()
	m, c := testkit.Mini(t)
	f := serve(t, c, rest.Options{})
	f.mini = m
	return f
}

func serve(t testing.TB, client redis.UniversalClient, opt rest.Options) *fixture {
	t.Helper()
	f := &fixture{t: t, store: redisstore.New(client, redisstore.Options{Partitions: 16}), metrics: prometheus.NewRegistry()}
	if err := f.store.Init(context.Background(), account); err != nil {
		t.Fatal(err)
	}
	var err error
	if f.service, err = f.store.DefaultService(context.Background()); err != nil {
		t.Fatal(err)
	}
	core, logs := observer.New(zapcore.DebugLevel)
	if opt.Hooks == nil {
		opt.Hooks = &hookGate{}
	}
	f.logs, opt.Log, opt.Metrics = logs, zap.New(core), f.metrics
	f.keyring = auth.NewKeyring(auth.StaticKeys{keySID: {SID: keySID, Secret: secret, Account: account}}, f.store, auth.KeyringOptions{})
	f.server = httptest.NewServer(rest.New(f.store, guard(f.keyring, auth.GuardOptions{Failures: 1000, Credential: plenty, Address: plenty}), opt))
	t.Cleanup(f.server.Close)
	f.twilio = f.client(account, authTok)
	return f
}

var plenty = rate.Limit{PerSecond: 1e6, Burst: 1e6}

func guard(keys auth.Keys, opt auth.GuardOptions) *auth.Guard {
	return auth.NewGuard(auth.Basic{Account: account, Token: authTok, Keys: keys}, opt)
}

func credentials() *auth.Guard {
	return guard(auth.StaticKeys{keySID: {SID: keySID, Secret: secret, Account: account}}, auth.GuardOptions{Credential: plenty, Address: plenty})
}

// client is the unmodified helper library, led here by its transport.
func (f *fixture) client(user, password string) *twilio.RestClient {
	target, err := url.Parse(f.server.URL)
	if err != nil {
		f.t.Fatal(err)
	}
	c := &twilioclient.Client{
		Credentials: twilioclient.NewCredentials(user, password),
		HTTPClient:  &http.Client{Transport: transport{f.t, target}},
	}
	c.SetAccountSid(account)
	return twilio.NewRestClientWithParams(twilio.ClientParams{Client: c})
}

// transport leads requests to the server and checks each answer against the
// published document, and against ours.
type transport struct {
	t      testing.TB
	target *url.URL
}

func (tr transport) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.URL.Scheme, r.URL.Host, r.Host = tr.target.Scheme, tr.target.Host, tr.target.Host
	resp, err := http.DefaultTransport.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	body, err := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	if err != nil {
		return nil, err
	}
	resp.Body = io.NopCloser(bytes.NewReader(body))
	if err := checkAnswer(r.Method, r.URL.EscapedPath(), resp, body); err != nil {
		tr.t.Errorf("%s %s: %d %s: %v", r.Method, r.URL, resp.StatusCode, body, err)
	}
	return resp, nil
}

// documents are the published OpenAPI document and our own.
var documents = sync.OnceValues(func() (testkit.Documents, error) {
	return testkit.ReadDocuments("testdata/twilio_conversations_v1.json", "../../openapi.yaml")
})

func checkAnswer(method, path string, resp *http.Response, body []byte) error {
	docs, err := documents()
	if err != nil {
		return err
	}
	return docs.Check(method, path, resp, body)
}

// answer is what a raw request got.
type answer struct {
	status int
	header http.Header
	body   map[string]any
}

// do sends a raw request as the account; the answer is checked as the library's are.
func (f *fixture) do(t testing.TB, method, path, form string, edit ...func(*http.Request)) answer {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, f.server.URL+path, strings.NewReader(form))
	if err != nil {
		t.Fatal(err)
	}
	r.SetBasicAuth(account, authTok)
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	for _, e := range edit {
		e(r)
	}
	resp, err := http.DefaultTransport.RoundTrip(r) // which follows no redirect
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if method != http.MethodHead {
		if err := checkAnswer(method, r.URL.EscapedPath(), resp, body); err != nil {
			t.Errorf("%s %s: %d %s: %v", method, path, resp.StatusCode, body, err)
		}
	}
	a := answer{status: resp.StatusCode, header: resp.Header}
	if len(body) > 0 {
		if err := json.Unmarshal(body, &a.body); err != nil {
			t.Fatalf("%s %s: %v", method, path, err)
		}
	}
	return a
}

// connect gives a user a live session, or ends it.
func (f *fixture) connect(t *testing.T, service, identity string, online bool) {
	t.Helper()
	s, err := f.store.Service(t.Context(), service)
	if err != nil {
		t.Fatal(err)
	}
	k := presence.Key{Service: service, Identity: identity}
	id := presence.SessionID("0123456789abcdef01234567")
	if online {
		_, err = f.store.Register(t.Context(), f.store.Partition(k), "node", []presence.Held{{Key: k, ID: id, Service: s}})
	} else {
		_, err = f.store.End(t.Context(), f.store.Partition(k), "node", []presence.Ended{{Key: k, ID: id, Service: s}})
	}
	if err != nil {
		t.Fatal(err)
	}
}

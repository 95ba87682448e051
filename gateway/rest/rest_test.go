package rest_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/alicebob/miniredis/v2"
	"github.com/getkin/kin-openapi/openapi3"
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
var documents = sync.OnceValues(func() (docs [2]*openapi3.T, err error) {
	for i, file := range []string{"testdata/twilio_conversations_v1.json", "../../openapi.yaml"} {
		data, err := os.ReadFile(file)
		if err != nil {
			return docs, err
		}
		if docs[i], err = openapi3.NewLoader().LoadFromData(data); err != nil {
			return docs, fmt.Errorf("%s: %w", file, err)
		}
	}
	// Its own example of a service without webhooks has a null here.
	docs[0].Components.Schemas["service_webhook_configuration_enum_method"].Value.Nullable = true
	return docs, nil
})

var pathName = regexp.MustCompile(`\\\{\w+\\\}`)

// operationOf finds what a document says of a request; nil if nothing.
func operationOf(doc *openapi3.T, method, path string) *openapi3.Operation {
	for pattern, item := range doc.Paths.Map() {
		re := "^" + pathName.ReplaceAllString(regexp.QuoteMeta(pattern), "[^/]+") + "$"
		if regexp.MustCompile(re).MatchString(path) {
			return item.GetOperation(method)
		}
	}
	return nil
}

var requestID = regexp.MustCompile(`^RQ[0-9a-f]{32}$`)

func checkAnswer(method, path string, resp *http.Response, body []byte) error {
	docs, err := documents()
	if err != nil {
		return err
	}
	if id := resp.Header.Get("Twilio-Request-Id"); !requestID.MatchString(id) {
		return fmt.Errorf("Twilio-Request-Id %q", id)
	}
	if resp.StatusCode == http.StatusNoContent {
		if len(body) > 0 {
			return fmt.Errorf("a 204 with a body")
		}
		return nil
	}
	if ct := resp.Header.Get("Content-Type"); ct != "application/json; charset=utf-8" {
		return fmt.Errorf("Content-Type %q", ct)
	}
	var value any
	if err := json.Unmarshal(body, &value); err != nil {
		return err
	}
	if resp.StatusCode >= 400 {
		return docs[1].Components.Schemas["Error"].Value.VisitJSON(value)
	}
	for _, doc := range docs {
		op := operationOf(doc, method, path)
		if op == nil {
			continue
		}
		described := op.Responses.Status(resp.StatusCode)
		if described == nil {
			return fmt.Errorf("status is not in %s", doc.Info.Title)
		}
		schema := described.Value.Content.Get("application/json").Schema.Value
		if err := schema.VisitJSON(value, openapi3.VisitAsResponse()); err != nil {
			return fmt.Errorf("%s: %w", doc.Info.Title, err)
		}
		if err := complete(schema, value, "answer"); err != nil {
			return fmt.Errorf("%s: %w", doc.Info.Title, err)
		}
	}
	return nil
}

// complete reports a member that a schema names and the value lacks.
func complete(schema *openapi3.Schema, value any, at string) error {
	switch v := value.(type) {
	case map[string]any:
		for name, property := range schema.Properties {
			member, ok := v[name]
			if !ok {
				return fmt.Errorf("%s lacks %s", at, name)
			}
			if err := complete(property.Value, member, at+"."+name); err != nil {
				return err
			}
		}
	case []any:
		for _, item := range v {
			if err := complete(schema.Items.Value, item, at+"[]"); err != nil {
				return err
			}
		}
	}
	return nil
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

package e2e

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twilio/twilio-go"
	twilioclient "github.com/twilio/twilio-go/client"
	conversations "github.com/twilio/twilio-go/rest/conversations/v1"

	"github.com/rollcall-presence/rollcall/internal/testkit"
	"github.com/rollcall-presence/rollcall/internal/testkit/rig"
)

var update = flag.Bool("update", false, "write docs/rest.md anew")

var documents = sync.OnceValues(func() (testkit.Documents, error) {
	return testkit.ReadDocuments("../../gateway/rest/testdata/twilio_conversations_v1.json", "../../openapi.yaml")
})

// contract is gateways on one store that the helper library is led to, each request
// to the next of them in turn. Every answer is held against the published document
// and ours, and what was asked is remembered.
type contract struct {
	t     *testing.T
	nodes []*rig.Node
	turn  atomic.Uint64
	docs  testkit.Documents
	api   *conversations.ApiService // the library, as the account
	main  *tenant                   // of the default service

	mu    sync.Mutex                 // guards the following
	asked map[string]map[string]bool // operation -> parameters of the requests that succeeded
	// listen, if set, hears each answer.
	listen func(r *http.Request, body []byte)
}

// contracts runs a test on one gateway with the embedded store, and on two that share
// a real Redis.
func contracts(t *testing.T, test func(*testing.T, *contract)) {
	for name, stores := range map[string]func(*testing.T) []string{
		"embedded": func(*testing.T) []string { return []string{"embedded"} },
		"redis": func(t *testing.T) []string {
			redisURL := "redis://" + testkit.Redis(t).Addr
			return []string{redisURL, redisURL}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			docs, err := documents()
			if err != nil {
				t.Fatal(err)
			}
			c := &contract{t: t, docs: docs, asked: map[string]map[string]bool{}}
			for _, store := range stores(t) {
				c.nodes = append(c.nodes, rig.Start(t, store, contractSettings...))
			}
			c.api = c.library(rig.Account, rig.AuthToken)
			conf, err := c.api.FetchConfiguration()
			if err != nil {
				t.Fatal(err)
			}
			c.main = c.furnish(t, *conf.DefaultChatServiceSid, "main")
			test(t, c)
		})
	}
}

// contractSettings are the environment of the gateways.
var contractSettings = []string{"ROLLCALL_LINGER=1s", "ROLLCALL_LOCKOUT_FAILURES=1000", "ROLLCALL_WEBHOOK_ALLOWED_NETWORKS=127.0.0.0/8"}

// library is the unmodified helper library, with credentials of its user's choice.
func (c *contract) library(user, password string) *conversations.ApiService {
	return c.rest(user, password).ConversationsV1
}

func (c *contract) rest(user, password string) *twilio.RestClient {
	base := &twilioclient.Client{Credentials: twilioclient.NewCredentials(user, password), HTTPClient: &http.Client{Transport: c, Timeout: 20 * time.Second}}
	base.SetAccountSid(rig.Account)
	return twilio.NewRestClientWithParams(twilio.ClientParams{Client: base})
}

// RoundTrip leads a request to the next gateway and checks the answer.
func (c *contract) RoundTrip(r *http.Request) (*http.Response, error) {
	var form []byte
	if r.Body != nil {
		var err error
		if form, err = io.ReadAll(r.Body); err != nil {
			return nil, err
		}
	}
	to := c.nodes[c.turn.Add(1)%uint64(len(c.nodes))].Addr
	r = r.Clone(r.Context())
	r.URL.Scheme, r.URL.Host, r.Host = "http", to, to
	r.Body = io.NopCloser(bytes.NewReader(form))
	resp, err := http.DefaultTransport.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	var body []byte
	if resp.Header.Get("Content-Type") != "text/event-stream" { // which has no end
		body, err = io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if err != nil {
			return nil, err
		}
		resp.Body = io.NopCloser(bytes.NewReader(body))
	}
	if err := c.docs.Check(r.Method, r.URL.EscapedPath(), resp, body); err != nil {
		c.t.Errorf("%s %s %.200s: %d %.1000s: %v", r.Method, r.URL, form, resp.StatusCode, body, err)
	}
	c.mu.Lock()
	listen := c.listen
	c.mu.Unlock()
	if listen != nil {
		listen(r, body)
	}
	if resp.StatusCode < 300 {
		c.note(r, form)
	}
	return resp, nil
}

// note remembers a request that succeeded.
func (c *contract) note(r *http.Request, form []byte) {
	own := c.docs.Own()
	op := own.Find(r.Method, r.URL.EscapedPath())
	if op == nil {
		return // which Check has told
	}
	params, _ := url.ParseQuery(string(form))
	for name := range r.URL.Query() {
		params[name] = nil
	}
	for name := range r.Header {
		params[name] = nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.asked[op.OperationID] == nil {
		c.asked[op.OperationID] = map[string]bool{}
	}
	for name := range params {
		c.asked[op.OperationID][name] = true
	}
}

// do makes a request by the library's own means, for what it has no method for, and
// returns its error as the library makes it. params are a query or a form as written.
func (c *contract) do(method, path, params string) (object, error) {
	return c.doAs(rig.Account, rig.AuthToken, method, path, params)
}

// object is the body of a success.
type object map[string]any

func (c *contract) doAs(user, password, method, path, params string, header ...string) (object, error) {
	values, err := url.ParseQuery(params)
	if err != nil {
		return nil, err
	}
	const base = "https://conversations.twilio.com"
	lib, headers := c.rest(user, password), map[string]any{"Content-Type": "application/x-www-form-urlencoded"}
	for i := 0; i < len(header); i += 2 {
		headers[header[i]] = header[i+1]
	}
	var resp *http.Response
	switch method {
	case http.MethodPost:
		resp, err = lib.Post(base+path, values, headers, "")
	case http.MethodGet:
		resp, err = lib.Get(base+path, values, headers, "")
	default:
		resp, err = lib.Delete(base+path, values, headers, "")
	}
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err != nil || len(body) == 0 {
		return nil, err
	}
	return decode(body)
}

// must is do for what has to succeed.
func (c *contract) must(t *testing.T, method, path, params string) object {
	t.Helper()
	a, err := c.do(method, path, params)
	if err != nil {
		t.Fatalf("%s %s %s: %v", method, path, params, err)
	}
	return a
}

// wantError fails unless err is the library's decoded error of that status and code.
func wantError(t *testing.T, what string, err error, status, code int) {
	t.Helper()
	e, ok := errors.AsType[*twilioclient.TwilioRestError](err)
	if !ok || e.Status != status || e.Code != code || e.Message == "" || e.MoreInfo != fmt.Sprintf("https://www.twilio.com/docs/errors/%d", code) {
		t.Errorf("%s: %v; want %d with code %d", what, err, status, code)
	}
}

// refusal is a request that an operation refuses with a code of its own. What every
// operation refuses, TestContract adds.
type refusal struct {
	what         string
	params       string
	status, code int
	// prepare makes what it takes, and says what to ask for then: a path, empty for the
	// operation's own with what the main tenant has, and parameters.
	prepare func(t *testing.T, c *contract) (path, params string)
	byKey   bool // not as the account itself, but with an API key
	hooked  bool // webhooks are to be told
}

// operation is what is shown of one operation of openapi.yaml.
type operation struct {
	id string
	// params are what it needs to get as far as looking for what its path names.
	params  string
	run     func(t *testing.T, c *contract)
	refuses []refusal
}

// operations is the table: one entry for each operation, which docs/rest.md lists.
var operations = slices.Concat(serviceOperations, roleOperations, userOperations, bindingOperations, hookOperations, accessOperations, readOperations)

// TestContract drives each operation through the unmodified library, and holds that
// none is missing: neither an operation nor a parameter of either document.
func TestContract(t *testing.T) {
	contracts(t, func(t *testing.T, c *contract) {
		ran := 0
		for _, op := range operations {
			t.Run(op.id, func(t *testing.T) {
				ran++
				at := c.operation(t, op.id)
				op.run(t, c)
				for _, r := range op.refuses {
					path, params := "", r.params
					if r.prepare != nil {
						path, params = r.prepare(t, c)
					}
					if path == "" {
						path = c.main.path(at.Path)
					}
					user, password := rig.Account, rig.AuthToken
					if r.byKey {
						user, password = rig.KeySID, rig.KeySecret
					}
					_, err := c.doAs(user, password, at.Method, path, params, "X-Twilio-Webhook-Enabled", fmt.Sprint(r.hooked))
					wantError(t, r.what, err, r.status, r.code)
				}
				c.refusesAsAll(t, at, op.params)
			})
		}
		if ran < len(operations) {
			return // -run names some
		}
		for _, doc := range c.docs {
			for _, op := range doc.Operations {
				own := c.docs.Own().Find(op.Method, strings.NewReplacer("{", "", "}", "").Replace(op.Path))
				if own == nil {
					t.Errorf("%s: %s is not served", doc.Info.Title, op.OperationID)
					continue
				}
				asked, ok := c.asked[own.OperationID]
				if !ok {
					t.Errorf("%s was never asked with success", own.OperationID)
					continue
				}
				for _, name := range op.Parameters {
					if !asked[name] && !asked[http.CanonicalHeaderKey(name)] {
						t.Errorf("%s was never asked with %s", own.OperationID, name)
					}
				}
			}
		}
	})
}

// TestPageSizes asks every list for more than it gives in a page: it gives its most.
func TestPageSizes(t *testing.T) {
	most := map[string]float64{"Users": 50, "Roles": 50, "Presence": 500}
	contracts(t, func(t *testing.T, c *contract) {
		lists := 0
		for _, op := range c.docs.Own().Operations {
			if !slices.Contains(op.Parameters, "PageSize") {
				continue
			}
			lists++
			want := most[op.Path[strings.LastIndex(op.Path, "/")+1:]]
			if want == 0 {
				want = 100
			}
			query := ""
			if slices.Contains(op.Parameters, "Online") {
				query = "&Online=true"
			}
			for size, want := range map[string]float64{"": 50, "PageSize=1": 1, "PageSize=1000": want, "PageSize=" + strings.Repeat("9", 30): 0} {
				a, err := c.do(op.Method, c.main.path(op.Path), size+query)
				if want == 0 {
					wantError(t, op.OperationID+" with "+size, err, 400, 20001)
				} else if err != nil || a["meta"].(map[string]any)["page_size"] != want {
					t.Errorf("%s with %q: %v, %v; want pages of %v", op.OperationID, size, a["meta"], err, want)
				}
			}
		}
		if lists < 10 {
			t.Errorf("%d lists; the test looks at nothing", lists)
		}
	})
}

// operation finds an operation of openapi.yaml.
func (c *contract) operation(t *testing.T, id string) testkit.Operation {
	t.Helper()
	for _, op := range c.docs.Own().Operations {
		if op.OperationID == id {
			return op
		}
	}
	t.Fatalf("openapi.yaml has no %s", id)
	return testkit.Operation{}
}

// refusesAsAll tries what any operation refuses: names of nothing in its path, and a
// body without bounds.
func (c *contract) refusesAsAll(t *testing.T, op testkit.Operation, params string) {
	t.Helper()
	for _, name := range names(op.Path) {
		prefix := c.main.of(name.collection)[:2]
		for _, stranger := range []string{prefix + strings.Repeat("0", 32), "nobody", prefix + "1", "%00", "%FF", strings.Repeat("x", 300)} {
			path := c.main.pathBut(op.Path, name, stranger)
			_, err := c.do(op.Method, path, params)
			wantError(t, op.Method+" "+path, err, 404, 20404)
		}
	}
	if op.Method == http.MethodPost {
		_, err := c.do(op.Method, c.main.path(op.Path), "Unknown="+strings.Repeat("x", 1<<20))
		wantError(t, "a body of a megabyte", err, 413, 20001)
	}
}

// name is one {name} of a path, which stands for one of a collection.
type name struct{ as, collection string }

func names(pattern string) (all []name) {
	segments := strings.Split(pattern, "/")
	for i, s := range segments {
		if strings.HasPrefix(s, "{") {
			all = append(all, name{s, segments[i-1]})
		}
	}
	return all
}

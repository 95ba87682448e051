package console_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/rollcall-presence/rollcall/gateway/console"
	"github.com/rollcall-presence/rollcall/presence"
)

const (
	service = "IS0123456789abcdef0123456789ABCDEF"
	other   = "ISffffffffffffffffffffffffffffffff"
)

var expires = time.Date(2030, 1, 2, 3, 4, 5, 678e6, time.FixedZone("", 3600))

// backend stands for auth and presence; calls tells what reached it.
type backend struct {
	calls  []string
	counts map[string]int
	err    error
}

func (b *backend) handler() http.Handler {
	return console.Handler(console.Options{
		Authenticate: func(r *http.Request) error {
			switch user, secret, _ := r.BasicAuth(); {
			case user == "ACbusy":
				return &presence.Error{Kind: presence.KindLimited, Retry: 1500 * time.Millisecond}
			case user != "AC1" || secret != "right":
				return &presence.Error{Kind: presence.KindUnauthenticated}
			}
			return nil
		},
		Mint: func(svc, identity string, ttl time.Duration) (string, time.Time, error) {
			b.calls = append(b.calls, "mint "+svc+" "+identity+" "+ttl.String())
			return "the.jwt", expires, b.err
		},
		Sessions: func(_ context.Context, svc string, identities []string) (map[string]int, error) {
			b.calls = append(b.calls, "sessions "+svc+" "+strings.Join(identities, ","))
			return b.counts, b.err
		},
		Linger: func(_ context.Context, svc string) (time.Duration, error) {
			b.calls = append(b.calls, "linger "+svc)
			return 7500 * time.Millisecond, b.err
		},
	})
}

func get(target string) *http.Request {
	return httptest.NewRequest(http.MethodGet, target, http.NoBody)
}

func form(pairs ...string) *http.Request {
	values := url.Values{}
	for i := 0; i < len(pairs); i += 2 {
		values.Add(pairs[i], pairs[i+1])
	}
	r := httptest.NewRequest(http.MethodPost, "/console/api/token", strings.NewReader(values.Encode()))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	return r
}

func signed(r *http.Request) *http.Request {
	r.SetBasicAuth("AC1", "right")
	return r
}

func do(h http.Handler, r *http.Request) *http.Response {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w.Result()
}

func body(t *testing.T, res *http.Response) []byte {
	t.Helper()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// problem checks that the answer is an error of the REST API's shape.
func problem(t *testing.T, res *http.Response, status, code int) {
	t.Helper()
	var got struct {
		Code, Status int
		Message      string
	}
	if err := json.Unmarshal(body(t, res), &got); err != nil {
		t.Fatal(err)
	}
	if res.StatusCode != status || got.Status != status || got.Code != code || got.Message == "" {
		t.Errorf("answered %d with %+v; want status %d, code %d and a message", res.StatusCode, got, status, code)
	}
	if got := res.Header.Get("Content-Type"); got != "application/json; charset=utf-8" {
		t.Errorf("Content-Type = %q; want JSON", got)
	}
}

// Everything the page refers to is there, with a type a browser accepts under
// nosniff: what is missing or mistyped leaves a blank page.
func TestPageIsWhole(t *testing.T) {
	h := new(backend).handler()
	types := map[string]string{
		"html": "text/html; charset=utf-8", "js": "text/javascript; charset=utf-8",
		"css": "text/css; charset=utf-8", "svg": "image/svg+xml",
	}
	refers := regexp.MustCompile(`(?:src|href)="console/([^"]+)"|from '\./([^']+)'`)
	seen := map[string]bool{}
	var visit func(path, ext string)
	visit = func(path, ext string) {
		if seen[path] {
			return
		}
		seen[path] = true
		res := do(h, get(path))
		if res.StatusCode != http.StatusOK || res.Header.Get("Content-Type") != types[ext] {
			t.Errorf("GET %s = %d, %s; want 200, %s", path, res.StatusCode, res.Header.Get("Content-Type"), types[ext])
		}
		for _, m := range refers.FindAllStringSubmatch(string(body(t, res)), -1) {
			name := m[1] + m[2]
			visit("/console/"+name, name[strings.LastIndex(name, ".")+1:])
		}
	}
	visit("/console", "html")
	if !seen["/console/socket.js"] || !seen["/console/style.css"] {
		t.Errorf("the page refers to %v; want at least socket.js and style.css", seen)
	}
}

func TestHeaders(t *testing.T) {
	h := new(backend).handler()
	for _, path := range []string{"/console", "/console/app.js", "/console/api/token", "/console/nothing"} {
		header := do(h, get(path)).Header
		for name, want := range map[string]string{
			"X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer", "X-Frame-Options": "DENY",
			"Cross-Origin-Resource-Policy": "same-origin",
		} {
			if got := header.Get(name); got != want {
				t.Errorf("%s: %s = %q; want %q", path, name, got, want)
			}
		}
		policy := header.Get("Content-Security-Policy")
		for _, want := range []string{"default-src 'none'", "script-src 'self'", "connect-src 'self'", "frame-ancestors 'none'", "require-trusted-types-for 'script'"} {
			if !strings.Contains(policy, want) {
				t.Errorf("%s: policy %q lacks %q", path, policy, want)
			}
		}
		if strings.Contains(policy, "unsafe") {
			t.Errorf("%s: policy %q allows something unsafe", path, policy)
		}
	}
}

func TestAssetsAreRevalidated(t *testing.T) {
	h := new(backend).handler()
	plain := do(h, get("/console/app.js"))
	r := get("/console/app.js")
	r.Header.Set("Accept-Encoding", "br, gzip")
	zipped := do(h, r)
	if zipped.Header.Get("Content-Encoding") != "gzip" || zipped.Header.Get("Vary") != "Accept-Encoding" {
		t.Fatalf("headers %v; want a gzip variant that varies by Accept-Encoding", zipped.Header)
	}
	z, err := gzip.NewReader(zipped.Body)
	if err != nil {
		t.Fatal(err)
	}
	unzipped, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	if want := body(t, plain); !bytes.Equal(unzipped, want) {
		t.Errorf("the gzip variant holds %d bytes that differ from the plain %d", len(unzipped), len(want))
	}
	tag, zippedTag := plain.Header.Get("ETag"), zipped.Header.Get("ETag")
	if tag == "" || zippedTag == "" || tag == zippedTag {
		t.Errorf("ETags %q and %q; want two that differ", tag, zippedTag)
	}
	if got := plain.Header.Get("Cache-Control"); got != "no-cache" {
		t.Errorf("Cache-Control = %q; want no-cache", got)
	}
	r = get("/console/app.js")
	r.Header.Set("If-None-Match", tag)
	if again := do(h, r); again.StatusCode != http.StatusNotModified || len(body(t, again)) != 0 {
		t.Errorf("with the same ETag: %d; want 304 and no body", again.StatusCode)
	}
	r = httptest.NewRequest(http.MethodHead, "/console", http.NoBody)
	if head := do(h, r); head.StatusCode != http.StatusOK || len(body(t, head)) != 0 {
		t.Errorf("HEAD /console = %d; want 200 and no body", head.StatusCode)
	}
}

func TestRouting(t *testing.T) {
	h := new(backend).handler()
	if res := do(h, get("/console/")); res.StatusCode != http.StatusPermanentRedirect || res.Header.Get("Location") != "/console" {
		t.Errorf("GET /console/ = %d to %q; want a redirect to /console", res.StatusCode, res.Header.Get("Location"))
	}
	problem(t, do(h, get("/console/missing.js")), 404, 20404)
	problem(t, do(h, signed(get("/console/api/missing"))), 404, 20404)
	for path, allow := range map[string]string{
		"/console": "GET, HEAD", "/console/app.js": "GET, HEAD", "/console/api/services/" + service + "/settings": "GET",
		"/console/api/services/" + service + "/sessions": "GET", "/console/api/token": "POST",
	} {
		res := do(h, signed(httptest.NewRequest(http.MethodPut, path, http.NoBody)))
		problem(t, res, 405, 20004)
		if got := res.Header.Get("Allow"); got != allow {
			t.Errorf("PUT %s: Allow = %q; want %q", path, got, allow)
		}
	}
}

func TestEndpointsNeedCredentials(t *testing.T) {
	b := new(backend)
	h := b.handler()
	wrong := form("ServiceSid", service, "Identity", "ada")
	wrong.SetBasicAuth("AC1", "wrong")
	for _, r := range []*http.Request{
		wrong, form("ServiceSid", service, "Identity", "ada"), get("/console/api/services/" + service + "/settings"),
		get("/console/api/services/" + service + "/sessions?Identity=ada"),
	} {
		res := do(h, r)
		problem(t, res, 401, 20003)
		if res.Header.Get("WWW-Authenticate") != "" {
			t.Errorf("%s: WWW-Authenticate is sent; a browser would open its own dialogue", r.URL)
		}
	}
	busy := get("/console/api/services/" + service + "/settings")
	busy.SetBasicAuth("ACbusy", "right")
	res := do(h, busy)
	problem(t, res, 429, 20429)
	if res.Header.Get("Retry-After") != "2" {
		t.Errorf("locked out: Retry-After = %q; want 2", res.Header.Get("Retry-After"))
	}
	if len(b.calls) != 0 {
		t.Errorf("without credentials the calls %v were made; want none", b.calls)
	}
}

func TestToken(t *testing.T) {
	b := new(backend)
	longest := strings.Repeat("x", 254) + "é"
	res := do(b.handler(), signed(form("ServiceSid", service, "Identity", longest)))
	if got, want := string(body(t, res)), `{"token":"the.jwt","expires_at":"2030-01-02T02:04:05Z"}`+"\n"; res.StatusCode != 200 || got != want {
		t.Errorf("answered %d %s; want 200 %s", res.StatusCode, got, want)
	}
	if got := res.Header.Get("Cache-Control"); got != "no-store" {
		t.Errorf("Cache-Control = %q; want no-store: it is a secret", got)
	}
	if diff := cmp.Diff([]string{"mint " + service + " " + longest + " 1h0m0s"}, b.calls); diff != "" {
		t.Errorf("calls (-want +got):\n%s", diff)
	}
}

func TestTokenRefused(t *testing.T) {
	inQuery := form()
	inQuery.URL.RawQuery = "ServiceSid=" + service + "&Identity=ada"
	malformed := httptest.NewRequest(http.MethodPost, "/console/api/token", strings.NewReader("Identity=%zz"))
	malformed.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	for name, tt := range map[string]struct {
		r            *http.Request
		status, code int
	}{
		"no service":        {form("Identity", "ada"), 400, 20001},
		"not a service SID": {form("ServiceSid", "IS../../etc", "Identity", "ada"), 400, 20001},
		"no identity":       {form("ServiceSid", service), 400, 50204},
		"long identity":     {form("ServiceSid", service, "Identity", strings.Repeat("x", 257)), 400, 50207},
		"not UTF-8":         {form("ServiceSid", service, "Identity", "a\xff"), 400, 20001},
		"in the query":      {inQuery, 400, 20001},
		"malformed":         {malformed, 400, 20001},
		"too large":         {form("ServiceSid", service, "Identity", strings.Repeat("x", 5000)), 413, 20001},
	} {
		t.Run(name, func(t *testing.T) {
			b := new(backend)
			problem(t, do(b.handler(), signed(tt.r)), tt.status, tt.code)
			if len(b.calls) != 0 {
				t.Errorf("calls %v; want none", b.calls)
			}
		})
	}
}

func TestSessions(t *testing.T) {
	b := &backend{counts: map[string]int{"a&b=c": 2, "not asked": 9}}
	query := url.Values{"Identity": {"a&b=c", "grace"}}
	res := do(b.handler(), signed(get("/console/api/services/"+service+"/sessions?"+query.Encode())))
	if got, want := string(body(t, res)), `{"sessions":{"a\u0026b=c":2,"grace":0}}`+"\n"; res.StatusCode != 200 || got != want {
		t.Errorf("answered %d %s; want 200 %s", res.StatusCode, got, want)
	}
	if diff := cmp.Diff([]string{"sessions " + service + " a&b=c,grace"}, b.calls); diff != "" {
		t.Errorf("calls (-want +got):\n%s", diff)
	}
}

func TestServiceEndpointsRefuse(t *testing.T) {
	many := url.Values{}
	for range 501 {
		many.Add("Identity", "x")
	}
	for name, tt := range map[string]struct {
		target       string
		status, code int
	}{
		"settings of no SID":  {"MG" + service[2:] + "/settings", 404, 20404},
		"not a service SID":   {"MG" + service[2:] + "/sessions", 404, 20404},
		"too many identities": {service + "/sessions?" + many.Encode(), 400, 20001},
		"empty identity":      {service + "/sessions?Identity=", 400, 50204},
		"malformed query":     {service + "/sessions?Identity=%zz", 400, 20001},
	} {
		t.Run(name, func(t *testing.T) {
			b := new(backend)
			problem(t, do(b.handler(), signed(get("/console/api/services/"+tt.target))), tt.status, tt.code)
			if len(b.calls) != 0 {
				t.Errorf("calls %v; want none", b.calls)
			}
		})
	}
}

// A failure below is answered without its text, which may name hosts and keys.
func TestFailuresBelow(t *testing.T) {
	b := new(backend)
	h := b.handler()
	sessions := func() *http.Request {
		return signed(get("/console/api/services/" + other + "/sessions?Identity=ada"))
	}
	mint := func() *http.Request { return signed(form("ServiceSid", other, "Identity", "ada")) }

	settings := func() *http.Request { return signed(get("/console/api/services/" + other + "/settings")) }

	cause := errors.New("dial redis-7.internal: refused")
	for _, tt := range []struct {
		err          error
		status, code int
	}{
		{fmt.Errorf("read it: %w", presence.ErrNoService), 404, 20404},
		{&presence.Error{Op: "read", Kind: presence.KindUnavailable, Err: cause}, 503, 20503},
		{cause, 500, 20500},
	} {
		b.err = tt.err
		for _, ask := range []func() *http.Request{sessions, mint, settings} {
			problem(t, do(h, ask()), tt.status, tt.code)
			res := do(h, ask())
			if got := string(body(t, res)); strings.Contains(got, "redis") {
				t.Errorf("the answer %s tells of the inside", got)
			}
			if retry := res.Header.Get("Retry-After"); (retry != "") != (tt.status == 503) {
				t.Errorf("Retry-After = %q with status %d; want it with 503 alone", retry, tt.status)
			}
		}
	}
}

func TestSettings(t *testing.T) {
	res := do(new(backend).handler(), signed(get("/console/api/services/"+service+"/settings")))
	if got, want := string(body(t, res)), `{"linger_ms":7500}`+"\n"; res.StatusCode != 200 || got != want {
		t.Errorf("answered %d %s; want 200 %s", res.StatusCode, got, want)
	}
}

func TestHandlerNeedsItsOptions(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("Handler without options did not panic")
		}
	}()
	console.Handler(console.Options{})
}

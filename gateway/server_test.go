package gateway_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rollcall-presence/rollcall/gateway"
	"github.com/rollcall-presence/rollcall/presence"
)

// TestDrain: readiness fails first, then nobody new is let in, and the sessions are
// closed one after the other, each handed over.
func TestDrain(t *testing.T) {
	tune := func(o *gateway.Options) { o.Timers.ReadyDelay = 3 * time.Second }
	bubble(t, tune, func(t *testing.T, n *node) {
		const sessions = 50
		var peers []*peer
		for i := range sessions {
			peers = append(peers, n.connect(fmt.Sprint("user-", i)))
		}
		if resp, body := n.get(n.admin, "/readyz", nil); resp.StatusCode != 200 || body != "ready\n" {
			t.Fatalf("readyz = %d %q; want 200", resp.StatusCode, body)
		}
		begin := time.Now()
		done := make(chan time.Duration)
		ctx, cancel := context.WithTimeout(t.Context(), 25*time.Second)
		defer cancel()
		go func() { n.Shutdown(ctx); done <- time.Since(begin) }()
		time.Sleep(time.Second)
		if resp, body := n.get(n.admin, "/readyz", nil); resp.StatusCode != 503 || body != "draining\n" {
			t.Errorf("readyz = %d %q; want 503, draining", resp.StatusCode, body)
		}
		if _, resp, err := n.tryDial(nil); err == nil || resp == nil || resp.StatusCode != 503 || resp.Header.Get("Retry-After") == "" {
			t.Errorf("a connection during the drain: %v, %v; want 503 with Retry-After", resp, err)
		}
		peers[0].send(`{"type":"ping"}`)
		peers[0].want("pong") // nobody was closed yet

		hints := map[int64]bool{}
		for _, p := range peers {
			var hint struct {
				MS int64 `json:"retry_after_ms"`
			}
			if err := json.Unmarshal([]byte(p.wantClose(gateway.CloseRestart)), &hint); err != nil {
				t.Fatal(err)
			}
			hints[hint.MS] = true
		}
		if took := <-done; took < 3*time.Second+sessions*20*time.Millisecond-100*time.Millisecond || took > 10*time.Second {
			t.Errorf("drained in %v; want the delay and 20 ms a session", took)
		}
		if len(hints) < sessions/2 {
			t.Errorf("%d different hints for %d sessions; want them spread", len(hints), sessions)
		}
		ends := n.store.ended()
		slot := map[time.Time]int{}
		for _, e := range ends {
			if e.How != presence.EndDrain {
				t.Errorf("end of %v = %v; want EndDrain", e.Key, e.How)
			}
			slot[e.At.Truncate(100*time.Millisecond)]++
		}
		for at, got := range slot {
			if got > 7 {
				t.Errorf("%d sessions closed within 100 ms at %v; want them spread", got, at)
			}
		}
		if len(ends) != sessions || n.value("rollcall_drained_sessions_total") != sessions {
			t.Errorf("%d ends; want %d", len(ends), sessions)
		}
	})
}

// TestDrainDeadline: what is left when the context ends is closed at once, and
// Serve returns although a client answers nothing.
func TestDrainDeadline(t *testing.T) {
	bubble(t, nil, func(t *testing.T, n *node) {
		for i := range 100 {
			p := n.dial(nil)
			p.send(`{"type":"hello","token":"` + mint(t, service, fmt.Sprint("user-", i), time.Hour) + `"}`)
		}
		synctest.Wait()
		begin := time.Now()
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel) // a second signal
		n.Shutdown(ctx)
		if took := time.Since(begin); took > 7*time.Second {
			t.Errorf("Shutdown took %v; want a second, and the time to give up writing", took)
		}
		for _, e := range n.store.ended() {
			if e.How != presence.EndDrain {
				t.Errorf("end of %v = %v; want EndDrain", e.Key, e.How)
			}
		}
	})
}

// spy is a protocol that tells of its sessions.
type spy struct {
	gateway.Protocol
	opened func(*gateway.Session)
}

func (p spy) Open(s *gateway.Session, r *http.Request) gateway.Handler {
	p.opened(s)
	return p.Protocol.Open(s, r)
}

// TestWokenAfterItsEnd: who closes a session, or has something for it, may wake its
// writer when the reader has ended it meanwhile.
func TestWokenAfterItsEnd(t *testing.T) {
	var s *gateway.Session
	tune := func(o *gateway.Options) {
		o.Sockets["/v1/connect"] = spy{o.Sockets["/v1/connect"], func(opened *gateway.Session) { s = opened }}
	}
	bubble(t, tune, func(t *testing.T, n *node) {
		n.dial(nil).send(`{"type":"hello","token":"` + mint(t, service, "alice", time.Hour) + `"}`)
		synctest.Wait() // the writer waits: nobody reads
		n.stop()
		before := n.value("rollcall_writers_started_total")
		gateway.Wake(s)
		gateway.Wake(s)
		synctest.Wait()
		if got := n.value("rollcall_writers_started_total"); got != before {
			t.Errorf("%v writers were started after the end", got-before)
		}
	})
}

func TestAdmin(t *testing.T) {
	sick := errors.New("no probe came back")
	var mu sync.Mutex
	tune := func(o *gateway.Options) {
		o.Ready = map[string]func(context.Context) error{"bus": func(context.Context) error {
			mu.Lock()
			defer mu.Unlock()
			return sick
		}}
		o.Routes = map[string]http.Handler{"/v1": http.NotFoundHandler()}
	}
	bubble(t, tune, func(t *testing.T, n *node) {
		if resp, body := n.get(n.admin, "/readyz", nil); resp.StatusCode != 503 || body != "bus: no probe came back\n" {
			t.Errorf("readyz = %d %q; want 503 and why", resp.StatusCode, body)
		}
		mu.Lock()
		sick = nil
		mu.Unlock()
		for _, path := range []string{"/readyz", "/healthz", "/metrics", "/debug/pprof/", "/debug/pprof/cmdline"} {
			if resp, _ := n.get(n.admin, path, nil); resp.StatusCode != 200 {
				t.Errorf("GET %s on the admin listener = %d; want 200", path, resp.StatusCode)
			}
			if resp, _ := n.get(n.public, path, nil); resp.StatusCode != 404 {
				t.Errorf("GET %s on the public listener = %d; want 404", path, resp.StatusCode)
			}
		}
		if resp, _ := n.get(n.public, "/", nil); resp.StatusCode != 302 || resp.Header.Get("Location") != "/console" {
			t.Errorf("GET / = %d to %q; want a redirect to /console", resp.StatusCode, resp.Header.Get("Location"))
		}
	})
}

// TestPingsSpread: sessions that came at the same moment are pinged all over the
// interval.
func TestPingsSpread(t *testing.T) {
	bubble(t, nil, func(t *testing.T, n *node) {
		const sessions = 200
		for i := range sessions {
			n.connect(fmt.Sprint("user-", i))
		}
		most, before := 0., n.value("rollcall_writers_started_total")
		for range 25 {
			time.Sleep(time.Second)
			now := n.value("rollcall_writers_started_total")
			most, before = max(most, now-before), now
		}
		if most > 30 { // 8 on average
			t.Errorf("%v of %d sessions were pinged in one second of 25", most, sessions)
		}
	})
}

func TestOptions(t *testing.T) {
	_, err := gateway.New(gateway.Options{
		TLSCert: "cert.pem",
		Limits:  gateway.Limits{Frame: -1},
		Timers:  gateway.Timers{Ping: time.Second, Pong: 2 * time.Second},
		Origins: []string{"[", ""},
	})
	for _, want := range []string{"Presence", "TLSKey", "Limits.Frame", "Pong < Ping", `"["`, `""`} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("New() = %v; want it to tell of %s", err, want)
		}
	}
}

// TestTLSReload: a new pair is used once both files are there; a broken one leaves
// the old in use.
func TestTLSReload(t *testing.T) {
	dir := t.TempDir()
	cert, certKey := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	writePair(t, cert, certKey, 1)
	tune := func(o *gateway.Options) { o.TLSCert, o.TLSKey = cert, certKey }
	bubble(t, tune, func(t *testing.T, n *node) {
		wantSerial := func(want int64) {
			t.Helper()
			raw, err := n.public.dial(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			c := tls.Client(raw, &tls.Config{InsecureSkipVerify: true})
			if err := c.HandshakeContext(t.Context()); err != nil {
				t.Fatal(err)
			}
			if got := c.ConnectionState().PeerCertificates[0].SerialNumber.Int64(); got != want {
				t.Errorf("serial = %d; want %d", got, want)
			}
			_ = raw.Close()
		}
		wantSerial(1)
		if err := os.WriteFile(cert, []byte("half written"), 0o600); err != nil {
			t.Fatal(err)
		}
		time.Sleep(3 * time.Second)
		wantSerial(1)
		writePair(t, cert, certKey, 2)
		wantSerial(1) // not looked at again yet
		time.Sleep(3 * time.Second)
		wantSerial(2)
		if err := os.Remove(certKey); err != nil {
			t.Fatal(err)
		}
		time.Sleep(3 * time.Second)
		wantSerial(2)
	})
}

func writePair(t *testing.T, cert, certKey string, serial int64) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: strings.Repeat("x", int(serial))}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &k.PublicKey, k)
	if err != nil {
		t.Fatal(err)
	}
	der2, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	for name, block := range map[string]*pem.Block{cert: {Type: "CERTIFICATE", Bytes: der}, certKey: {Type: "PRIVATE KEY", Bytes: der2}} {
		if err := os.WriteFile(name, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// TestPlainConnections: connections that never become anything are bounded, and
// end by themselves.
func TestPlainConnections(t *testing.T) {
	bubble(t, func(o *gateway.Options) { o.Limits.Plain = 2 }, func(t *testing.T, n *node) {
		var open []net.Conn
		for range 3 {
			c, err := n.public.dial(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			open = append(open, c)
		}
		synctest.Wait()
		if got := n.value("rollcall_shed_total", "plain_connections"); got != 1 {
			t.Errorf("shed = %v; want 1", got)
		}
		time.Sleep(11 * time.Second) // for a header
		for i, c := range open {
			if _, err := c.Read(make([]byte, 512)); err == nil {
				t.Errorf("connection %d is still open", i)
			}
			_ = c.Close()
		}
		n.connect("alice")
	})
}

// TestStopWhileStoreHangs: a store that does not answer holds up neither the end of
// Serve nor the next sessions' ends for long.
func TestStopWhileStoreHangs(t *testing.T) {
	hung := &hungStore{}
	tune := func(o *gateway.Options) { hung.Registrar, o.Presence = o.Presence, hung }
	bubble(t, tune, func(t *testing.T, n *node) {
		for i := range 300 {
			n.connect(fmt.Sprint("user-", i))
		}
		begin := time.Now()
		n.stop()
		if took := time.Since(begin); took > 15*time.Second {
			t.Errorf("stopped after %v; want within 15 s", took)
		}
		if got := hung.told.Load(); got != 300 {
			t.Errorf("presence was told of %d ends; want all 300", got)
		}
	})
}

// hungStore answers no end of a session before the caller gives up.
type hungStore struct {
	gateway.Registrar
	told atomic.Int64
}

func (h *hungStore) Close(ctx context.Context, _ presence.Key, _ presence.SessionID, _ presence.End, _ time.Time) error {
	h.told.Add(1)
	<-ctx.Done()
	return ctx.Err()
}

func TestHousehold(t *testing.T) {
	for in, want := range map[string]string{"192.0.2.7": "192.0.2.7", "2001:db8:1:2:3::4": "2001:db8:1:2::"} {
		if got := gateway.Household(netip.MustParseAddr(in)).String(); got != want {
			t.Errorf("household(%s) = %s; want %s", in, got, want)
		}
	}
	if got := gateway.Household(netip.Addr{}); got.IsValid() {
		t.Errorf("household of no address = %v; want none", got)
	}
}

// TestRoutes: what is below a route's prefix reaches it as it came, and nothing is
// redirected but the root.
func TestRoutes(t *testing.T) {
	tell := func(name string) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = fmt.Fprint(w, name+" "+r.URL.EscapedPath()) })
	}
	tune := func(o *gateway.Options) {
		o.Routes = map[string]http.Handler{"/v1": tell("rest"), "/console": tell("page")}
	}
	bubble(t, tune, func(t *testing.T, n *node) {
		for path, want := range map[string]string{
			"/v1": "rest /v1", "/v1/Users/..": "rest /v1/Users/..", "/v1/Users//x": "rest /v1/Users//x",
			"/v1/Users/a%2Fb": "rest /v1/Users/a%2Fb", "/console": "page /console", "/console/app.js": "page /console/app.js",
		} {
			if resp, body := n.get(n.public, path, nil); resp.StatusCode != 200 || body != want {
				t.Errorf("GET %s = %d %q; want %q", path, resp.StatusCode, body, want)
			}
		}
		if resp, _ := n.get(n.public, "/v10", nil); resp.StatusCode != 404 {
			t.Errorf("GET /v10 = %d; want 404", resp.StatusCode)
		}
	})
}

package load

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rollcall-presence/rollcall/internal/load/wire"
)

func TestProcesses(t *testing.T) {
	machine := limits{files: 1200, ports: 28_000}
	one, many := []string{"ws://10.0.0.1/"}, []string{"ws://10.0.0.1/", "ws://10.0.0.2/"}
	for name, tt := range map[string]struct {
		limits limits
		opt    Options
		want   int
		err    string
	}{
		"few":                           {machine, Options{Settings: Settings{Sessions: 10, URLs: one}}, 1, ""},
		"as many as a process takes":    {machine, Options{Settings: Settings{Sessions: 900, Actors: 100, URLs: one}}, 1, ""},
		"one more":                      {machine, Options{Settings: Settings{Sessions: 901, Actors: 100, URLs: one}}, 2, ""},
		"more processes on demand":      {machine, Options{Settings: Settings{Sessions: 10, URLs: one}, Processes: 5}, 5, ""},
		"not fewer than needed":         {machine, Options{Settings: Settings{Sessions: 5000, URLs: one}, Processes: 2}, 5, ""},
		"the bare loop's too":           {machine, Options{Settings: Settings{Sessions: 1000, URLs: one}, Bare: true}, 2, ""},
		"hardly any files":              {limits{200, 28_000}, Options{Settings: Settings{Sessions: 1, URLs: one}}, 0, "may open 200 files here, and needs 200 beside its connections: raise the limit (ulimit -n)"},
		"too many processes":            {limits{300, 1e6}, Options{Settings: Settings{Sessions: 25_601, URLs: one}}, 0, "may open 300 files here, so 25601 connections take 257 processes; 256 are the most: raise the limit"},
		"nodes hold fewer":              {machine, Options{Settings: Settings{Sessions: 2001}, Nodes: 2}, 0, "so there is room for 2000 sessions at 2 nodes; 2001 are asked for: start more nodes"},
		"the bare loop holds fewer":     {machine, Options{Settings: Settings{Sessions: 1001}, Nodes: 2, Bare: true}, 0, "so the bare loop holds 1000 connections; 1001 are asked for"},
		"the ports of an address":       {limits{1e5, 28_000}, Options{Settings: Settings{Sessions: 28_000, URLs: one}}, 1, ""},
		"no more ports":                 {limits{1e5, 28_000}, Options{Settings: Settings{Sessions: 28_000, Actors: 1, URLs: one}}, 0, "has 28000 ports toward a node, so there is room for 28000 connections; 28001 are asked for: give more local addresses (--from)"},
		"ports toward each node":        {limits{1e5, 28_000}, Options{Settings: Settings{Sessions: 56_000, URLs: many}}, 1, ""},
		"ports of each address":         {limits{1e5, 28_000}, Options{Settings: Settings{Sessions: 56_000, URLs: one}, From: []string{"10.0.0.8", "10.0.0.9"}}, 1, ""},
		"loopback has addresses":        {limits{1e6, 28_000}, Options{Settings: Settings{Sessions: 500_000, URLs: []string{"ws://127.0.0.1:1/"}}}, 1, ""},
		"but not if some are asked for": {limits{1e6, 28_000}, Options{Settings: Settings{Sessions: 500_000, URLs: []string{"ws://127.0.0.1:1/"}}, From: []string{"127.0.0.1"}}, 0, "28000 ports"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := tt.opt.processes(tt.limits)
			if got != tt.want || (err == nil) != (tt.err == "") || err != nil && !strings.Contains(err.Error(), tt.err) {
				t.Errorf("processes = %d, %v; want %d, %q", got, err, tt.want, tt.err)
			}
		})
	}
}

func TestReadLimits(t *testing.T) {
	l, err := readLimits()
	if err != nil || l.files < spareFiles || l.ports < 1000 {
		t.Errorf("readLimits = %+v, %v", l, err)
	}
}

// Toward loopback each process has addresses of its own, as many as its connections take;
// elsewhere it has those that were given.
func TestFrom(t *testing.T) {
	l := limits{ports: 28_000}
	o := Options{Settings: Settings{Sessions: 250_000, URLs: []string{"ws://127.0.0.1:1/", "ws://localhost:2/"}}}
	seen := map[string]bool{}
	for i := range 5 {
		list := o.from(i, 5, l)
		if len(list) != 3 { // 50,000 connections
			t.Errorf("process %d has %v", i, list)
		}
		for _, a := range list {
			if ip := net.ParseIP(a); !ip.IsLoopback() || seen[a] {
				t.Errorf("process %d has %s, which is no loopback address or another's", i, a)
			}
			seen[a] = true
		}
	}
	for i := range 300 {
		for _, a := range o.from(i, 300, l) {
			if net.ParseIP(a) == nil {
				t.Errorf("process %d has %s", i, a)
			}
		}
	}
	o.From = []string{"127.0.0.9"}
	if got := o.from(1, 2, l); len(got) != 1 || got[0] != "127.0.0.9" {
		t.Errorf("with --from it is %v", got)
	}
	o.From, o.URLs = nil, append(o.URLs, "ws://example.org/")
	if got := o.from(1, 2, l); got != nil {
		t.Errorf("toward another machine it is %v", got)
	}
}

// Sessions are spread evenly over the pairs of a local address and a node.
func TestRoutesAreEven(t *testing.T) {
	w := &worker{part: part{From: []string{"127.1.0.1", "127.1.0.2", "127.1.0.3", "127.1.0.4"}}, bare: &url.URL{Host: "bare"}}
	for _, raw := range []string{"ws://a/", "ws://b/"} {
		u, _ := url.Parse(raw)
		w.urls = append(w.urls, u)
	}
	pairs := map[string]int{}
	for i := range uint32(80) {
		to, from := w.route(&session{user: i})
		pairs[to.Host+from.String()]++
	}
	if len(pairs) != 8 {
		t.Errorf("the pairs are %v; want 8", pairs)
	}
	for p, n := range pairs {
		if n != 10 {
			t.Errorf("%s has %d of 80 sessions; want 10", p, n)
		}
	}
	s := &session{user: 4}
	s.shift.Add(1)
	if to, _ := w.route(s); to.Host != "b" {
		t.Errorf("after a failure the session goes to %s; want the other node", to.Host)
	}
	if to, _ := w.route(&session{user: 4, bare: true}); to.Host != "bare" {
		t.Errorf("the bare loop's session goes to %s", to.Host)
	}
	w.part.From = nil
	if _, from := w.route(s); from != nil {
		t.Errorf("it comes from %v; want any address", from)
	}
}

// Some failures are for good, others pass.
func TestHopeless(t *testing.T) {
	dial := func(call string, err error) error {
		return &net.OpError{Op: "dial", Net: "tcp", Addr: &net.TCPAddr{}, Err: os.NewSyscallError(call, err)}
	}
	for _, tt := range []struct {
		err    error
		reason string // what it is counted as
		want   string // in why it is for good, empty if it is not
	}{
		{&wire.RefusedError{Status: 404}, "404", "404"},
		{&wire.RefusedError{Status: 401}, "401", "401"},
		{&wire.RefusedError{Status: 301}, "301", "301"},
		{&wire.RefusedError{Status: 429}, "429", ""},
		{&wire.RefusedError{Status: 408}, "408", ""},
		{&wire.RefusedError{Status: 503, RetryAfter: time.Second}, "503", ""},
		{&wire.RefusedError{Status: 502}, "502", ""},
		{&wire.ClosedError{Code: 3500}, "3500", "3500"},
		{&wire.ClosedError{Code: 3505}, "3505", "3505"},
		{&wire.ClosedError{Code: 3001, Reason: `{"retry_after_ms":5}`}, "3001", ""},
		{&wire.ClosedError{Code: 1012}, "1012", ""},
		{&wire.ClosedError{Code: 1006, Err: io.EOF}, "EOF", ""},
		{&wire.ClosedError{Code: 1006, Err: dial("read", syscall.ECONNRESET)}, "read: connection reset by peer", ""},
		{&refusalError{20107, "Invalid Access Token signature"}, "error 20107: Invalid Access Token signature", "Invalid Access Token signature"},
		{&refusalError{105, "Too many subscriptions; none was added"}, "error 105: Too many subscriptions; none was added", "error 105"},
		{&refusalError{101, "Temporarily unavailable"}, "error 101: Temporarily unavailable", ""},
		{&refusalError{120, "too"}, "error 120: too", ""},
		{dial("connect", syscall.ECONNREFUSED), "connect: connection refused", ""},
		{dial("connect", syscall.ETIMEDOUT), "connect: connection timed out", ""},
		{dial("connect", syscall.EADDRNOTAVAIL), "connect: cannot assign requested address", "ports of the local address are used up: give more local addresses (--from)"},
		{dial("bind", syscall.EADDRINUSE), "bind: address already in use", "ports of the local address are used up"},
		{dial("bind", syscall.EADDRNOTAVAIL), "bind: cannot assign requested address", "--from is none of this machine"},
		{dial("socket", syscall.EMFILE), "socket: too many open files", "raise the limit on open files (ulimit -n)"},
		{dial("socket", syscall.ENFILE), "socket: too many open files in system", "raise the limit on open files"},
		{&net.OpError{Op: "dial", Err: &net.AddrError{Err: "mismatched local address type"}}, "mismatched local address type", "of another kind"},
		{&net.OpError{Op: "dial", Err: &net.DNSError{Err: "no such host", Name: "x", IsNotFound: true}}, "lookup x: no such host", "no such host"},
		{&net.OpError{Op: "dial", Err: &net.DNSError{Err: "server misbehaving", Name: "x", IsTemporary: true}}, "lookup x: server misbehaving", ""},
		{&tls.CertificateVerificationError{Err: errors.New("expired")}, "tls: failed to verify certificate: expired", "expired"},
		{tls.RecordHeaderError{Msg: "first record does not look like a TLS handshake"}, "tls: first record does not look like a TLS handshake", "TLS"},
		{fmt.Errorf("%w: it is not HTTP/1.1", wire.ErrProtocol), "the answer to the handshake is wrong: it is not HTTP/1.1", "not HTTP/1.1"},
		{errSilent, "no answer within a minute", ""},
	} {
		if got := reason(tt.err); got != tt.reason {
			t.Errorf("the reason of %v is %q; want %q", tt.err, got, tt.reason)
		}
		for _, err := range []error{tt.err, fmt.Errorf("wrapped: %w", tt.err)} {
			if why := hopeless(err); (why == nil) != (tt.want == "") || why != nil && !strings.Contains(why.Error(), tt.want) {
				t.Errorf("hopeless(%v) = %v; want %q", err, why, tt.want)
			}
		}
	}
}

// How long to wait: as long as the server says, or a random time that grows up to 30 s.
func TestBackoff(t *testing.T) {
	for range 50 {
		if d := backoff(&wire.RefusedError{Status: 503, RetryAfter: 2 * time.Second}, 9); d < 2*time.Second || d >= 4*time.Second {
			t.Errorf("after a 503 with Retry-After 2: %v", d)
		}
		if d := backoff(&wire.ClosedError{Code: 1012, Reason: `{"retry_after_ms":700}`}, 9); d != 700*time.Millisecond {
			t.Errorf("after a close with 700 ms: %v", d)
		}
		if d := backoff(&wire.ClosedError{Code: 1012, Reason: `soon`}, 9); d < 0 || d > 500*time.Millisecond {
			t.Errorf("after a close with another reason: %v", d)
		}
		if d := backoff(io.EOF, 0); d < 0 || d > 500*time.Millisecond {
			t.Errorf("after the first failure: %v", d)
		}
		if d := backoff(io.EOF, 1000); d < 0 || d > 30*time.Second {
			t.Errorf("after a thousand failures: %v", d)
		}
	}
	if d := hint(`{"retry_after_ms":9223372036854775807}`); d < 0 || d > time.Hour {
		t.Errorf("after a close with a silly time: %v", d)
	}
}

// Nothing but failures ends the run after a while; a success in between begins anew.
func TestConsider(t *testing.T) {
	var why error
	w := &worker{patience: time.Hour, fail: func(err error) { why = err }}
	for range 3 {
		if w.consider(io.EOF); why != nil {
			t.Fatalf("failed with %v at once", why)
		}
	}
	w.failing.Store(time.Now().Add(-2 * time.Hour).UnixNano())
	if w.consider(io.EOF); why == nil || !errors.Is(why, io.EOF) || !strings.Contains(why.Error(), "no connection was made for 1h") {
		t.Errorf("failed with %v", why)
	}
	why = nil
	w.failing.Store(0) // as after a success
	if w.consider(io.EOF); why != nil {
		t.Errorf("failed with %v", why)
	}
	if w.consider(&wire.RefusedError{Status: 404}); why == nil {
		t.Error("a 404 does not fail it")
	}
}

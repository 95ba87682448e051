package gateway_test

import (
	"bufio"
	"bytes"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/rollcall-presence/rollcall/gateway"
	"github.com/rollcall-presence/rollcall/gateway/native"
)

const upgradeRequest = "GET /v1/connect HTTP/1.1\r\nHost: rollcall.test:8080\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n" +
	"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"

// ask sends a request in parts, each once the node has taken in the one before, and returns the
// answer.
func (n *node) ask(parts ...string) (*http.Response, string) {
	n.t.Helper()
	c, err := n.public.dial(n.t.Context())
	if err != nil {
		n.t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	_ = c.SetDeadline(time.Now().Add(time.Minute))
	for _, part := range parts {
		if _, err := io.WriteString(c, part); err != nil {
			n.t.Fatalf("write %q: %v", part, err)
		}
		synctest.Wait()
	}
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		n.t.Fatalf("answer to %q: %v", parts, err)
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode == http.StatusSwitchingProtocols {
		return resp, ""
	}
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		n.t.Fatal(err)
	}
	return resp, string(body)
}

// TestDoor: whether the door lets somebody in or the HTTP server, the answer is the same; and what
// the door does not take, the HTTP server answers.
func TestDoor(t *testing.T) {
	bubble(t, nil, func(t *testing.T, n *node) {
		for name, parts := range map[string][]string{
			"at once":                    {upgradeRequest + "\r\n"},
			"byte by byte":               strings.Split(upgradeRequest+"\r\n", ""),
			"by parts":                   {upgradeRequest[:60], upgradeRequest[60:], "\r\n"},
			"with a query":               {strings.Replace(upgradeRequest, "/v1/connect", "/v1/connect?x=1", 1) + "\r\n"},
			"a long one":                 {upgradeRequest + "Cookie: " + strings.Repeat("x", 4<<10) + "\r\n\r\n"},
			"not ASCII":                  {upgradeRequest + "X-Name: zo\u00eb\r\n\r\n"},
			"an empty body":              {upgradeRequest + "Content-Length: 0\r\n\r\n"},
			"a subprotocol":              {upgradeRequest + "Sec-WebSocket-Protocol: x, " + native.Name + "\r\n\r\n"},
			"a subprotocol, behind none": {upgradeRequest + "Sec-WebSocket-Protocol:\r\nSec-WebSocket-Protocol: " + native.Name + "\r\n\r\n"},
			"its own origin":             {upgradeRequest + "Origin: http://rollcall.test:8080\r\n\r\n"},
		} {
			resp, _ := n.ask(parts...)
			got := resp.Header.Clone()
			got.Del("Sec-Websocket-Protocol")
			got.Del("Date") // which the HTTP server adds
			want := http.Header{"Connection": {"Upgrade"}, "Upgrade": {"websocket"}, "Sec-Websocket-Accept": {"ICX+Yqv66kxgM0FcWaLWlFLwTAI="}}
			if diff := cmp.Diff(want, got); resp.StatusCode != 101 || diff != "" {
				t.Errorf("%s: %d; want 101 (-want +got):\n%s", name, resp.StatusCode, diff)
			}
			if got := resp.Header.Get("Sec-Websocket-Protocol"); (got == native.Name) != strings.HasPrefix(name, "a subprotocol") {
				t.Errorf("%s: subprotocol %q", name, got)
			}
		}
		for _, tc := range []struct {
			name   string
			status int
			text   string
			parts  []string
		}{
			{"another origin", 403, "20403", []string{upgradeRequest + "Origin: https://evil.test\r\n\r\n"}},
			{"another subprotocol", 400, "20400", []string{upgradeRequest + "Sec-WebSocket-Protocol: other\r\n\r\n"}},
			{"no upgrade", 426, "", []string{"GET /v1/connect HTTP/1.1\r\nHost: a\r\n\r\n"}},
			{"a short key", 400, "", []string{strings.Replace(upgradeRequest, "AAAA==", "==", 1) + "\r\n"}},
			{"an old version", 400, "", []string{strings.Replace(upgradeRequest, "13", "8", 1) + "\r\n"}},
			{"no host", 400, "", []string{strings.Replace(upgradeRequest, "Host: rollcall.test:8080\r\n", "", 1) + "\r\n"}},
			{"two hosts", 400, "", []string{upgradeRequest + "Host: b\r\n\r\n"}},
			{"a bad header", 400, "", []string{upgradeRequest + "A b: c\r\n\r\n"}},
			{"a folded header", 400, "", []string{upgradeRequest + "A : c\r\n\r\n"}},
			{"HTTP/1.0", 426, "", []string{strings.Replace(upgradeRequest, "HTTP/1.1", "HTTP/1.0", 1) + "\r\n"}},
			{"POST", 405, "", []string{strings.Replace(upgradeRequest, "GET", "POST", 1) + "Content-Length: 0\r\n\r\n"}},
			{"no HTTP", 400, "", []string{"hello\r\n\r\n"}},
			{"another path", 404, "", []string{"GET /nothing HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"}},
			{"another path, by parts", 404, "", []string{"GET /noth", "ing HTTP/1.1\r\nHost: a\r\nConnection: close\r\n", "\r\n"}},
		} {
			if resp, body := n.ask(tc.parts...); resp.StatusCode != tc.status || !strings.Contains(body, tc.text) {
				t.Errorf("%s: %d %q; want %d", tc.name, resp.StatusCode, body, tc.status)
			}
		}
		if got := n.value("rollcall_shed_total", "handshake"); got != 5 {
			t.Errorf("shed for their handshake: %v; want each of 5 counted once", got)
		}
		if got := n.value("rollcall_shed_total", "origin"); got != 1 {
			t.Errorf("shed for their origin: %v; want 1", got)
		}
	})
}

// TestDoorEarly: what comes with the request is the session's.
func TestDoorEarly(t *testing.T) {
	bubble(t, nil, func(t *testing.T, n *node) {
		c, err := n.public.dial(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		var b bytes.Buffer
		b.WriteString(upgradeRequest + "\r\n")
		writeFrame(t, &b, 0x81, `{"type":"hello","token":"`+mint(t, service, "alice", time.Hour)+`"}`)
		writeFrame(t, &b, 0x81, `{"type":"ping","id":7}`)
		go func() { _, _ = c.Write(b.Bytes()) }()
		r := bufio.NewReader(c)
		resp, err := http.ReadResponse(r, nil)
		if err != nil || resp.StatusCode != 101 {
			t.Fatalf("answer = %v, %v; want 101", resp, err)
		}
		_ = resp.Body.Close()
		all, want := "", []string{`"type":"welcome"`, `{"type":"pong","id":7}`}
		for _, w := range want {
			for !strings.Contains(all, w) {
				buf := make([]byte, 1024)
				k, err := r.Read(buf)
				if err != nil {
					t.Fatalf("read %q: %v; want %s in it", all, err, w)
				}
				all += string(buf[:k])
			}
		}
		_ = c.Close()
	})
}

// TestDoorCloses: who has asked for nothing does not hold up the node's end.
func TestDoorCloses(t *testing.T) {
	bubble(t, nil, func(t *testing.T, n *node) {
		c, err := n.public.dial(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		begin := time.Now()
		n.stop()
		if took := time.Since(begin); took != 0 {
			t.Errorf("stopped after %v; want at once", took)
		}
		if _, err := c.Read(make([]byte, 1)); err == nil {
			t.Error("the connection is still open")
		}
	})
}

// FuzzRequest: what the door reads, net/http reads alike.
func FuzzRequest(f *testing.F) {
	f.Add([]byte(upgradeRequest + "\r\n"))
	f.Add([]byte(upgradeRequest + "Origin: http://a\r\nX-Forwarded-For: 1.2.3.4\r\nx-forwarded-for: ::1\r\n\r\nrest"))
	f.Add([]byte(upgradeRequest + "Transfer-Encoding: chunked\r\n\r\n"))
	f.Add([]byte(upgradeRequest + "Pragma: no-cache\r\n\r\n"))
	f.Add([]byte(upgradeRequest + "Pragma: no-cache\r\nCache-Control: no-cache\r\nSec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n\r\n"))
	f.Add([]byte("GET /v1/connect HTTP/1.1\nHost: a\n\n"))
	f.Add([]byte("GET /v1/connect HTTP/1.1\r\nHost: a\r\n b\r\nA:\r\n\r\n"))
	f.Add([]byte("GET /v1/connect HTTP/1.1\rHost: a\r\nA: b\r\n\r\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		got, rest := gateway.ReadPlain(native.Protocol{}, "/v1/connect", data)
		if got == nil {
			return
		}
		b := bufio.NewReader(bytes.NewReader(data))
		want, err := http.ReadRequest(b)
		if err != nil {
			t.Fatalf("%q: net/http: %v", data, err)
		}
		left, err := io.ReadAll(b)
		if err != nil || !bytes.Equal(left, rest) || want.Body != http.NoBody || want.ContentLength != 0 || len(want.TransferEncoding) > 0 {
			t.Fatalf("%q: %q came after it; want %q", data, rest, left)
		}
		type request struct {
			Method, URI, Path, Proto, Host string
			Header                         http.Header
		}
		look := func(r *http.Request) request {
			return request{r.Method, r.RequestURI, r.URL.String(), r.Proto, r.Host, r.Header}
		}
		if diff := cmp.Diff(look(want), look(got)); diff != "" {
			t.Fatalf("%q (-net/http +door):\n%s", data, diff)
		}
	})
}

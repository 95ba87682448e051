package main

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/rollcall-presence/rollcall/auth"
	"github.com/rollcall-presence/rollcall/client"
	"github.com/rollcall-presence/rollcall/configs"
)

const service = "IS00000000000000000000000000000001"

// invoke runs a command that ends by itself.
func invoke(t *testing.T, args []string, env ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs strings.Builder
	code = run(t.Context(), args, env, &out, &errs)
	return code, out.String(), errs.String()
}

func TestCommandLine(t *testing.T) {
	for name, tc := range map[string]struct {
		args, env   []string
		code        int
		out, errOut string // a part of what is printed
	}{
		"help":             {args: []string{"--help"}, out: "usage: rollcall [command]"},
		"serve help":       {args: []string{"serve", "--help"}, out: "-ping-interval"},
		"token help":       {args: []string{"token", "-h"}, out: "usage: rollcall token --service IS... --identity NAME [flags]"},
		"watch help":       {args: []string{"watch", "--help"}, out: "-json"},
		"config help":      {args: []string{"config", "--help"}, out: "usage: rollcall config check|print"},
		"version help":     {args: []string{"version", "--help"}, out: "usage: rollcall version"},
		"healthcheck help": {args: []string{"healthcheck", "--help"}, out: "usage: rollcall healthcheck [flags]"},
		"version":          {args: []string{"version"}, out: "rollcall "},
		"no such command":  {args: []string{"start"}, code: exitUsage, errOut: `rollcall: there is no command "start": see rollcall --help`},
		"no such flag":     {args: []string{"--lingr", "3s"}, code: exitUsage, errOut: "-lingr; --help lists"},
		"argument":         {args: []string{"serve", "now"}, code: exitUsage, errOut: `takes no argument "now"`},
		"two mistakes":     {env: []string{"ROLLCALL_LINGER=x", "ROLLCALL_TYPO=1"}, code: exitUsage, errOut: "rollcall: ROLLCALL_LINGER"},
		"config":           {args: []string{"config"}, code: exitUsage, errOut: "check and print"},
		"config check":     {args: []string{"config", "check", "--linger", "20s"}, out: "lost         23s "},
		"bad config":       {args: []string{"config", "check", "--lease-ttl=1s"}, code: exitUsage, errOut: "rollcall: lease_ttl: is 1s"},
		"config print":     {args: []string{"config", "print"}, env: []string{"ROLLCALL_PONG_TIMEOUT=4s"}, out: "pong_timeout: 4s\n"},
		"token for nobody": {args: []string{"token", "--service", service}, code: exitUsage, errOut: "--identity is required"},
		"token nowhere":    {args: []string{"token", "--identity", "alice"}, code: exitUsage, errOut: "--service is required"},
		"token too long":   {args: []string{"token", "--identity", "alice", "--service", service, "--ttl", "25h"}, code: exitUsage, errOut: "24 hours"},
		"watch nobody":     {args: []string{"watch", "--service", service}, code: exitUsage, errOut: "nobody to watch"},
		"watch nowhere":    {args: []string{"watch", "alice"}, code: exitUsage, errOut: "--service is required"},
		"watch, late flag": {args: []string{"watch", "--service", service, "alice", "--json"}, code: exitUsage, errOut: "write flags before"},
		"watch, bad URL":   {args: []string{"watch", "--service", service, "--url", "localhost:8080", "alice"}, code: exitUsage, errOut: "--url is"},
		"nothing to ask":   {args: []string{"healthcheck", "--admin-addr", "127.0.0.1:1"}, code: exitFailed, errOut: "no gateway answers on admin_addr 127.0.0.1:1"},
	} {
		t.Run(name, func(t *testing.T) {
			code, out, errOut := invoke(t, tc.args, tc.env...)
			if code != tc.code || !strings.Contains(out, tc.out) || !strings.Contains(errOut, tc.errOut) || (code == exitOK) != (errOut == "") {
				t.Errorf("rollcall %q exits with %d (want %d), prints\n%s(want %q)\nand errors\n%s(want %q)",
					tc.args, code, tc.code, out, tc.out, errOut, tc.errOut)
			}
		})
	}
}

func TestConfigPrintMasksSecrets(t *testing.T) {
	code, out, _ := invoke(t, []string{"config", "print"})
	if code != exitOK || strings.Contains(out, configs.DevAuthToken) || strings.Contains(out, configs.DevAPIKeySecret) {
		t.Errorf("config print exits with %d and prints\n%s", code, out)
	}
}

func TestToken(t *testing.T) {
	code, out, errOut := invoke(t, []string{"token", "--service", service, "--identity", "alice", "--ttl", "5m"})
	if code != exitOK {
		t.Fatalf("token exits with %d: %s", code, errOut)
	}
	key := auth.Key{SID: configs.DevAPIKeySID, Secret: configs.DevAPIKeySecret, Account: configs.DevAccountSID}
	claims, err := auth.NewVerifier(auth.StaticKeys{key.SID: key}).Verify(strings.TrimSpace(out), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if left := time.Until(claims.Expires); claims.Identity != "alice" || claims.Service != service || left > 5*time.Minute || left < 4*time.Minute {
		t.Errorf("claims = %+v; want alice in %s for 5m", claims, service)
	}
}

func TestHealthcheck(t *testing.T) {
	ready := true
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/readyz" || !ready {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	}))
	defer server.Close()
	addr := strings.TrimPrefix(server.URL, "http://")
	if code, _, errOut := invoke(t, []string{"healthcheck", "--admin-addr", addr}); code != exitOK {
		t.Errorf("healthcheck of a ready gateway exits with %d: %s", code, errOut)
	}
	ready = false
	if code, _, errOut := invoke(t, []string{"healthcheck", "--admin-addr", addr}); code != exitFailed || !strings.Contains(errOut, "not ready") {
		t.Errorf("healthcheck of a gateway that is not ready exits with %d: %s", code, errOut)
	}
}

func TestReachable(t *testing.T) {
	for addr, want := range map[string]string{
		":9090": "127.0.0.1:9090", "0.0.0.0:1": "127.0.0.1:1", "[::]:1": "[::1]:1", "10.0.0.1:2": "10.0.0.1:2", "localhost:3": "localhost:3",
	} {
		if got := reachable(addr); got != want {
			t.Errorf("reachable(%q) = %q; want %q", addr, got, want)
		}
	}
}

func TestConnectURL(t *testing.T) {
	cfg := configs.Config{Addr: ":8080"}
	for server, want := range map[string]string{
		"":                           "ws://127.0.0.1:8080/v1/connect",
		"https://p.example":          "wss://p.example/v1/connect",
		"http://p.example:81/":       "ws://p.example:81/v1/connect",
		"wss://p.example/x/connect":  "wss://p.example/x/connect",
		"ws://p.example/v1/connect/": "ws://p.example/v1/connect/",
	} {
		if got, err := connectURL(server, cfg); got != want || err != nil {
			t.Errorf("connectURL(%q) = %q, %v; want %q", server, got, err, want)
		}
	}
	cfg.TLSCert = "cert.pem"
	if got, _ := connectURL("", cfg); got != "wss://127.0.0.1:8080/v1/connect" {
		t.Errorf("with TLS connectURL is %q; want wss", got)
	}
	cfg.PublicURL = "https://presence.example.com"
	if got, _ := connectURL("", cfg); got != "wss://presence.example.com/v1/connect" {
		t.Errorf("with public_url connectURL is %q", got)
	}
}

// lines is a writer that hands over each line as it comes.
type lines struct {
	mu   sync.Mutex
	rest string
	each chan string
}

func newLines() *lines { return &lines{each: make(chan string, 100)} }

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.rest += string(p)
	for {
		line, rest, ok := strings.Cut(l.rest, "\n")
		if !ok {
			return len(p), nil
		}
		l.rest = rest
		l.each <- line
	}
}

// next waits for a line that has every part in it.
func (l *lines) next(t *testing.T, parts ...string) string {
	t.Helper()
	select {
	case line := <-l.each:
		for _, part := range parts {
			if !strings.Contains(line, part) {
				t.Errorf("the line is %q; want %q in it", line, part)
			}
		}
		return line
	case <-t.Context().Done():
		t.Fatal("no line came")
	case <-time.After(20 * time.Second):
		t.Fatalf("no line with %q came", parts)
	}
	return ""
}

// fakeGateway serves each connection of the native protocol with the next of talks, after hello and welcome.
func fakeGateway(t *testing.T, talks ...func(*websocket.Conn)) (url string) {
	t.Helper()
	next := make(chan func(*websocket.Conn), len(talks))
	for _, talk := range talks {
		next <- talk
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn, err := websocket.Accept(w, r, &websocket.AcceptOptions{Subprotocols: []string{client.Protocol}})
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.CloseNow()
		var hello struct {
			Token     string
			Invisible bool
		}
		read(t, conn, &hello)
		if hello.Token == "" || !hello.Invisible {
			t.Errorf("hello = %+v; want a token, invisible", hello)
		}
		send(t, conn, `{"type":"welcome","identity":"rollcall-watch","reachability_enabled":true,"ping_interval_ms":25000}`)
		(<-next)(conn)
	}))
	t.Cleanup(server.Close)
	return server.URL
}

func read(t *testing.T, conn *websocket.Conn, v any) {
	t.Helper()
	_, data, err := conn.Read(context.Background())
	if err == nil {
		err = json.Unmarshal(data, v)
	}
	if err != nil {
		t.Error(err)
	}
}

func send(t *testing.T, conn *websocket.Conn, text string) {
	t.Helper()
	if err := conn.Write(context.Background(), websocket.MessageText, []byte(text)); err != nil {
		t.Error(err)
	}
}

// tellOfTwo answers a subscription with alice online and a hostile name unknown, then tells of a change.
func tellOfTwo(t *testing.T) func(*websocket.Conn) {
	return func(conn *websocket.Conn) {
		var subscribe struct{ Identities []string }
		read(t, conn, &subscribe)
		if len(subscribe.Identities) != 2 {
			t.Errorf("subscribed to %q; want two", subscribe.Identities)
		}
		send(t, conn, `{"type":"subscribed","id":1,"users":[{"identity":"alice","is_online":true,"is_notifiable":false,"rev":5},`+
			`{"identity":"\u001b[2J","is_online":null,"is_notifiable":null,"rev":0}]}`)
	}
}

func bye(t *testing.T, conn *websocket.Conn) {
	var m struct{ Type string }
	read(t, conn, &m)
	if m.Type != "bye" {
		t.Errorf("watch ends with %q; want bye", m.Type)
	}
	conn.Close(websocket.StatusNormalClosure, "bye")
}

func TestWatch(t *testing.T) {
	shown := make(chan struct{})
	url := fakeGateway(t, func(conn *websocket.Conn) {
		tellOfTwo(t)(conn)
		<-shown
		send(t, conn, `{"type":"user.updated","update_reasons":["reachabilityOnline"],"user":{"identity":"alice","is_online":false,"rev":6}}`)
		send(t, conn, `{"type":"service.updated","reachability_enabled":false}`)
		conn.Close(1012, `{"retry_after_ms":1}`)
	}, func(conn *websocket.Conn) {
		send(t, conn, `{"type":"error","code":101,"message":"odd\u001b"}`)
		bye(t, conn)
	})
	ctx, cancel := context.WithCancel(t.Context())
	out, notes, code := newLines(), newLines(), make(chan int)
	go func() {
		code <- run(ctx, []string{"watch", "--service", service, "--url", url, "alice", "\x1b[2J"}, nil, out, notes)
	}()
	notes.next(t, "connected to ws://127.0.0.1:", "as rollcall-watch")
	out.next(t, "alice  ", "online", "push: no", "rev 5")
	out.next(t, `"\x1b[2J"`, "unknown", "push: ?")
	close(shown)
	out.next(t, "alice", "offline", "rev 6", "reachabilityOnline")
	out.next(t, "reachability is off")
	notes.next(t, "(1012)", "trying again in")
	notes.next(t, "connected")
	out.next(t, "reachability is on") // the second welcome says so
	out.next(t, `odd\x1b`)
	cancel()
	if got := <-code; got != exitOK {
		t.Errorf("a watch that is interrupted exits with %d; want 0", got)
	}
}

func TestWatchJSON(t *testing.T) {
	url := fakeGateway(t, func(conn *websocket.Conn) {
		tellOfTwo(t)(conn)
		send(t, conn, `{"type":"user.updated","update_reasons":["attributes"],"user":{"identity":"alice","rev":7,"attributes":"{}"}}`)
		send(t, conn, `{"type":"service.updated","reachability_enabled":true}`)
		bye(t, conn)
	})
	ctx, cancel := context.WithCancel(t.Context())
	out, code := newLines(), make(chan int)
	go func() {
		code <- run(ctx, []string{"watch", "--service", service, "--url", url, "--json", "alice", "bob"}, nil, out, io.Discard)
	}()
	got := make(map[string]int)
	for range 4 {
		var line struct {
			Type                string
			UpdateReasons       []string `json:"update_reasons"`
			ReachabilityEnabled bool     `json:"reachability_enabled"`
			User                client.User
		}
		if err := json.Unmarshal([]byte(out.next(t)), &line); err != nil {
			t.Fatal(err)
		}
		got[line.Type]++
		if line.Type == "user.updated" && (line.User.Rev != 7 || len(line.UpdateReasons) != 1 || line.User.Attributes != "{}") {
			t.Errorf("user.updated = %+v", line)
		}
		if line.Type == "user.updated" && got["snapshot"] == 0 {
			got["snapshot"]++ // alice's snapshot is older by now and not shown
		}
		if got["snapshot"] == 2 && got["user.updated"] == 1 && got["service.updated"] == 1 {
			break
		}
	}
	if got["snapshot"] != 2 || got["user.updated"] != 1 || got["service.updated"] != 1 {
		t.Errorf("lines by type = %v; want both snapshots, the update and the switch", got)
	}
	cancel()
	if got := <-code; got != exitOK {
		t.Errorf("watch exits with %d; want 0", got)
	}
}

func TestWatchRefused(t *testing.T) {
	url := fakeGateway(t, func(conn *websocket.Conn) { conn.Close(3503, "ended by the operator") })
	code, _, errOut := invoke(t, []string{"watch", "--service", service, "--url", url, "alice"})
	if code != exitFailed || !strings.Contains(errOut, "ended by the operator (3503)") {
		t.Errorf("watch exits with %d: %s; want 1 and the reason", code, errOut)
	}
}

func TestColourful(t *testing.T) {
	file, err := os.Create(filepath.Join(t.TempDir(), "out"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	terminal, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0) // a character device, like a terminal
	if err != nil {
		t.Fatal(err)
	}
	defer terminal.Close()
	for name, tc := range map[string]struct {
		out  io.Writer
		env  []string
		want bool
	}{
		"terminal": {terminal, []string{"NO_COLOR="}, true},
		"asked":    {terminal, []string{"NO_COLOR=1"}, false},
		"file":     {file, nil, false},
		"buffer":   {new(strings.Builder), nil, false},
	} {
		if got := colourful(tc.out, tc.env); got != tc.want {
			t.Errorf("%s: colourful = %v; want %v", name, got, tc.want)
		}
	}
}

// TestWatchSaysWhatToDo: a refusal is one line that tells how to go on.
func TestWatchSaysWhatToDo(t *testing.T) {
	refuse := func(code int) string {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			conn, err := websocket.Accept(w, r, &websocket.AcceptOptions{Subprotocols: []string{client.Protocol}})
			if err != nil {
				t.Error(err)
				return
			}
			defer conn.CloseNow()
			send(t, conn, `{"type":"error","code":`+strconv.Itoa(code)+`,"message":"No"}`)
			conn.Close(3500, "bad token")
		}))
		t.Cleanup(server.Close)
		return server.URL
	}
	stranger := httptest.NewServer(http.NotFoundHandler())
	defer stranger.Close()
	for name, tc := range map[string]struct {
		url, identity string
		code          int
		want          string
	}{
		"no such service": {refuse(112), "alice", exitFailed, "GET /v1/Services lists those there are"},
		"another key":     {refuse(20103), "alice", exitFailed, "refuses the access token: No (20103); give watch the account and API key"},
		"not a gateway":   {stranger.URL, "alice", exitFailed, "it answers 404; check --url"},
		"no identity":     {stranger.URL, "", exitUsage, `cannot watch "": identity is empty`},
	} {
		t.Run(name, func(t *testing.T) {
			code, _, errOut := invoke(t, []string{"watch", "--service", service, "--url", tc.url, tc.identity})
			if code != tc.code || !strings.Contains(errOut, tc.want) || strings.Count(errOut, "rollcall: ") != 1 || strings.Count(errOut, "\n") != 1 {
				t.Errorf("watch exits with %d: %s; want %d and one line with %q", code, errOut, tc.code, tc.want)
			}
		})
	}
}

// TestServeWithoutRedis: the end is one line, and the log stays JSON, whoever writes to it.
func TestServeWithoutRedis(t *testing.T) {
	code, _, errOut := invoke(t, []string{"serve", "--addr", "127.0.0.1:0", "--admin-addr", "127.0.0.1:0"},
		"ROLLCALL_REDIS_URL=redis://127.0.0.1:1", "ROLLCALL_ACCOUNT_SID=AC"+strings.Repeat("a", 32), "ROLLCALL_AUTH_TOKEN=t",
		"ROLLCALL_API_KEY_SID=SK"+strings.Repeat("a", 32), "ROLLCALL_API_KEY_SECRET=s")
	lines := strings.Split(strings.TrimSpace(errOut), "\n")
	last := lines[len(lines)-1]
	if code != exitFailed || !strings.HasPrefix(last, "rollcall: the store at redis://127.0.0.1:1: ") || !strings.HasSuffix(last, "ROLLCALL_REDIS_URL names it)") {
		t.Errorf("serve exits with %d: %s", code, last)
	}
	for _, line := range lines[:len(lines)-1] {
		if !json.Valid([]byte(line)) {
			t.Errorf("the log has a line that is no JSON: %s", line)
		}
	}
}

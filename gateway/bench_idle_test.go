package gateway_test

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/rollcall-presence/rollcall/auth"
	"github.com/rollcall-presence/rollcall/fanout"
	"github.com/rollcall-presence/rollcall/gateway"
	"github.com/rollcall-presence/rollcall/gateway/native"
	"github.com/rollcall-presence/rollcall/gateway/twilsock"
	"github.com/rollcall-presence/rollcall/internal/testkit"
	"github.com/rollcall-presence/rollcall/presence"
	"github.com/rollcall-presence/rollcall/presence/redisstore"
)

// What an idle session with one subscription may cost.
const (
	idleBytes      = 12 << 10
	idleGoroutines = 1
)

// idleClient names the variable that makes this test binary the client of
// BenchmarkIdle: the server's address, the service and the protocol, so that the memory
// of the clients' ends is not counted.
const idleClient = "ROLLCALL_IDLE_CLIENT"

func TestMain(m *testing.M) {
	if v := os.Getenv(idleClient); v != "" {
		args := strings.Split(v, ",")
		if err := serveIdleClients(args[0], args[1], idleProtocols[args[2]]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// BenchmarkIdle measures what an idle authenticated session with one subscription
// costs a node: resident memory, goroutines, and the time to let one in. All of it
// is real, on a redis-server; the clients are another process.
func BenchmarkIdle(b *testing.B) {
	for _, row := range []struct {
		protocol string
		sessions int
	}{{"native", 10_000}, {"native", 2_000}, {"twilsock", 2_000}} {
		b.Run(fmt.Sprintf("protocol=%s/sessions=%d", row.protocol, row.sessions), func(b *testing.B) {
			if os.Getenv(idleFresh) == "" {
				benchmarkFresh(b)
				return
			}
			benchmarkIdle(b, row.protocol, row.sessions)
		})
	}
}

// idleFresh is set in a process that does one row of BenchmarkIdle: what an earlier one
// left behind, a later one would find and need not take.
const idleFresh = "ROLLCALL_IDLE_FRESH"

// benchmarkFresh runs the benchmark in a process of its own, and reports what that does.
func benchmarkFresh(b *testing.B) {
	b.Helper()
	pattern := "^" + strings.ReplaceAll(b.Name(), "/", "$/^") + "$"
	cmd := exec.CommandContext(b.Context(), os.Args[0], "-test.run", "^$", "-test.bench", pattern, "-test.benchtime", "1x")
	cmd.Env = append(os.Environ(), idleFresh+"=1")
	out, err := cmd.CombinedOutput()
	for b.Loop() { // everything was measured; the time says nothing
	}
	b.ReportMetric(0, "ns/op")
	for line := range strings.Lines(string(out)) {
		fields := strings.Fields(line)
		switch {
		case strings.Contains(line, b.Name()):
			for i := 2; i+1 < len(fields); i += 2 {
				if v, err := strconv.ParseFloat(fields[i], 64); err == nil {
					b.ReportMetric(v, fields[i+1])
				}
			}
		case len(fields) > 6:
			_, _ = os.Stdout.WriteString(line)
		}
	}
	if err != nil {
		b.Fatalf("%v\n%s", err, out)
	}
}

func benchmarkIdle(b *testing.B, protocol string, sessions int) {
	const warm = 500
	srv, addr, sid := idleNode(b)
	connect := idleClients(b, addr, sid, protocol)

	connect(warm)
	base, goroutines := resident(b), runtime.NumGoroutine()
	began := time.Now()
	connect(sessions)
	took := time.Since(began)
	peak := float64(statusKB(b, "VmRSS:")<<10-base) / float64(sessions)
	rss := float64(resident(b)-base) / float64(sessions)
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	each := float64(runtime.NumGoroutine()-goroutines) / float64(sessions)
	if got := srv.Sessions(); got != warm+sessions {
		b.Fatalf("%d sessions; want %d", got, warm+sessions)
	}

	for b.Loop() { // everything was measured; the time says nothing
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(rss, "B/session")
	b.ReportMetric(each, "goroutines/session")
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	_, _ = fmt.Fprintln(w, "\nprotocol\tsessions\tRSS B/session\tbefore GC\theap in use B\tstacks B\tgoroutines\thellos/s\t")
	_, _ = fmt.Fprintf(w, "%s\t%d\t%.0f\t%.0f\t%d\t%d\t%.3f\t%.0f\t\n", protocol, sessions, rss, peak,
		m.HeapInuse/uint64(warm+sessions), m.StackInuse/uint64(warm+sessions), each, float64(sessions)/took.Seconds())
	_ = w.Flush()
	if rss > idleBytes || each > idleGoroutines+0.01 {
		b.Errorf("an idle session costs %.0f B and %.3f goroutines; want at most %d and %d", rss, each, idleBytes, idleGoroutines)
	}
}

// idleClients starts a process of clients; a call has so many more come, and returns
// when they have.
func idleClients(b *testing.B, addr, sid, protocol string) (connect func(n int)) {
	b.Helper()
	cmd := exec.CommandContext(b.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), idleClient+"="+addr+","+sid+","+protocol)
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = stdin.Close(); _ = cmd.Wait() })
	answers := bufio.NewScanner(stdout)
	return func(n int) {
		if _, err := fmt.Fprintln(stdin, n); err != nil {
			b.Fatal(err)
		}
		if !answers.Scan() || answers.Text() != "connected" {
			b.Fatalf("the client says %q", answers.Text())
		}
	}
}

// idleNode is a node on a redis-server of its own.
func idleNode(b *testing.B) (srv *gateway.Server, addr, sid string) {
	b.Helper()
	client := testkit.Redis(b).Client()
	b.Cleanup(func() { _ = client.Close() })
	redis := redisstore.New(client, redisstore.Options{})
	if err := redis.Init(b.Context(), key.Account); err != nil {
		b.Fatal(err)
	}
	made, err := redis.CreateService(b.Context(), presence.Service{Account: key.Account, FriendlyName: "idle"})
	if err != nil {
		b.Fatal(err)
	}
	dir := presence.NewDirectory(redis, 3*time.Second)
	hub := fanout.NewHub(direct{}, redis, dir, fanout.Options{})
	dir.Watch(hub.ServiceChanged)
	tracker := presence.NewTracker(redis, dir, presence.TrackerOptions{Node: "idle"})
	srv, err = gateway.New(gateway.Options{
		Presence: tracker, Services: dir, Hub: hub,
		Tokens:  auth.NewVerifier(auth.StaticKeys{key.SID: key}),
		Users:   redis,
		Sockets: map[string]gateway.Protocol{"/v1/connect": native.Protocol{}, "/v3/wsconnect": twilsock.New(twilsock.Options{})},
		Limits:  gateway.Limits{AcceptRate: 1_000_000, AcceptBurst: 1_000_000},
	})
	if err != nil {
		b.Fatal(err)
	}
	l, err := (&net.ListenConfig{}).Listen(b.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	for _, serve := range []func(context.Context) error{dir.Serve, hub.Serve, tracker.Serve} {
		wg.Go(func() { _ = serve(ctx) })
	}
	wg.Go(func() { _ = srv.Serve(ctx, l, nil) })
	b.Cleanup(func() { cancel(); wg.Wait() })
	return srv, l.Addr().String(), made.SID
}

// resident is the process's resident memory after all that can be given back was.
func resident(b *testing.B) int {
	b.Helper()
	for range 3 { // a collection halves a stack that is too large
		runtime.GC()
	}
	debug.FreeOSMemory()
	return statusKB(b, "VmRSS:") << 10
}

func statusKB(b *testing.B, field string) int {
	b.Helper()
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		b.Fatal(err)
	}
	for line := range strings.Lines(string(status)) {
		if rest, ok := strings.CutPrefix(line, field); ok {
			kb, err := strconv.Atoi(strings.TrimSuffix(strings.TrimSpace(rest), " kB"))
			if err != nil {
				b.Fatal(err)
			}
			return kb
		}
	}
	b.Fatalf("no %s in /proc/self/status", field)
	return 0
}

// serveIdleClients opens as many sessions as each line of standard input says, and
// keeps them until it ends.
func serveIdleClients(addr, sid string, p idleProtocol) error {
	opened := 0
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		n, err := strconv.Atoi(lines.Text())
		if err != nil {
			return err
		}
		var wg sync.WaitGroup
		next := make(chan int)
		errs := make(chan error, n)
		for range min(32, n) {
			wg.Go(func() {
				for i := range next {
					if err := openIdle(addr, sid, p, i); err != nil {
						errs <- err
					}
				}
			})
		}
		for i := range n {
			next <- opened + i
		}
		close(next)
		wg.Wait()
		opened += n
		close(errs)
		if err, failed := <-errs; failed {
			return err
		}
		fmt.Println("connected")
	}
	return nil
}

// idleProtocol is how clients of a protocol come in: where, what they say one after the
// other, and what they do with each message that comes, which is done if it answers that.
type idleProtocol struct {
	path, subprotocol string
	op                byte
	say               func(token, sid, me, other string) []string
	hear              func(message string, say func(string) error) (done bool, err error)
	leave             string // said in the end by one who does not stay; one of a few users
}

func init() {
	native, twilsock := idleProtocols["native"], idleProtocols["twilsock"]
	both := native.say
	native.say = func(token, sid, me, _ string) []string { return both(token, sid, me, "bob") }
	idleProtocols["watcher"] = native
	native.say = func(token, sid, me, other string) []string { return both(token, sid, me, other)[:1] }
	native.leave = `{"type":"bye"}`
	idleProtocols["native-visit"] = native
	all := twilsock.say
	twilsock.say = func(token, sid, me, other string) []string { return all(token, sid, me, other)[:1] }
	twilsock.leave = testkit.TwilsockText(`{"id":"TM","method":"close"}`, "")
	idleProtocols["twilsock-visit"] = twilsock
}

var idleProtocols = map[string]idleProtocol{
	"native": {
		path: "/v1/connect", subprotocol: native.Name, op: 0x81,
		say: func(token, _, _, other string) []string {
			return []string{`{"type":"hello","token":"` + token + `"}`, `{"type":"subscribe","id":1,"identities":["` + other + `"]}`}
		},
		hear: func(message string, _ func(string) error) (bool, error) {
			if strings.HasPrefix(message, `{"type":"error"`) {
				return false, fmt.Errorf("answered %q", message)
			}
			return true, nil
		},
	},
	// As the SDK begins, but that it is not subscribed to its own user: one subscription, as above.
	"twilsock": {
		path: "/v3/wsconnect", op: 0x82,
		say: func(token, sid, me, other string) []string {
			get := func(path string) string {
				return testkit.TwilsockText(`{"id":"TM","method":"message","http_request":{"method":"GET","path":"`+path+`","params":{"Include":"items"}}}`, "")
			}
			return []string{
				testkit.TwilsockText(`{"id":"TM","method":"init","token":"`+token+`"}`, ""), get("/Client/v2/Configuration"), get("/v3/Maps/MPc" + testkit.UserMap(me)[3:]), get("/v3/Maps/" + testkit.UserMap(me)),
				get("/Client/v2/Services/" + sid + "/Users/" + me + "/Conversations"), get("/Client/v2/Services/" + sid + "/Users/" + other), get("/v3/Maps/" + testkit.UserMap(other)),
				testkit.TwilsockText(`{"id":"TM","method":"message","http_request":{"method":"POST","path":"/v4/Subscriptions"}}`, subscriptionsBody("establish", object(testkit.UserMap(other), "null"))),
			}
		},
		hear: func(message string, say func(string) error) (bool, error) {
			if strings.Contains(message, `"method":"reply"`) {
				if !strings.Contains(message, `"code":20`) {
					return false, fmt.Errorf("answered %q", message)
				}
				return true, nil
			}
			_, rest, _ := strings.Cut(message, `"id":"`)
			id, _, _ := strings.Cut(rest, `"`)
			return false, say(testkit.TwilsockText(`{"id":"`+id+`","method":"reply","status":{"code":200,"status":"OK"}}`, ""))
		},
	},
}

// openIdle opens one session, which subscribes to another user and then only
// answers pings, and acknowledges.
func openIdle(addr, sid string, p idleProtocol, i int) error {
	if p.leave != "" {
		i %= 64
	}
	me, other := "user-"+strconv.Itoa(i), "user-"+strconv.Itoa(i/2)
	token, err := auth.Mint(key, sid, me, time.Now(), time.Hour)
	if err != nil {
		return err
	}
	c, err := (&net.Dialer{}).DialContext(context.Background(), "tcp", addr)
	if err != nil {
		return err
	}
	r := bufio.NewReader(c)
	head := "GET " + p.path + " HTTP/1.1\r\nHost: " + addr + "\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" +
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
	if p.subprotocol != "" {
		head += "Sec-WebSocket-Protocol: " + p.subprotocol + "\r\n"
	}
	if _, err := io.WriteString(c, head+"\r\n"); err != nil {
		return err
	}
	resp, err := http.ReadResponse(r, nil)
	if err != nil {
		return err
	}
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusSwitchingProtocols {
		return errors.New(resp.Status)
	}
	say := func(m string) error {
		_, err := c.Write(masked(p.op, m))
		return err
	}
	for _, m := range p.say(token, sid, me, other) {
		if err := say(m); err != nil {
			return err
		}
		for done := false; !done; {
			message, err := nextMessage(c, r)
			if err == nil {
				done, err = p.hear(string(message), say)
			}
			if err != nil {
				return err
			}
		}
	}
	if p.leave != "" {
		defer func() { _ = c.Close() }()
		if err := say(p.leave); err != nil {
			return err
		}
		for {
			if op, _, err := nextFrame(r); err != nil || op == 0x88 {
				return err
			}
		}
	}
	go func() {
		for {
			message, err := nextMessage(c, r)
			if err != nil {
				return
			}
			_, _ = p.hear(string(message), say)
		}
	}()
	return nil
}

// nextMessage is the payload of the next text or binary frame. It answers pings.
func nextMessage(c net.Conn, r *bufio.Reader) ([]byte, error) {
	for {
		op, payload, err := nextFrame(r)
		if err != nil || op == 0x81 || op == 0x82 {
			return payload, err
		}
		if op == 0x89 {
			if _, err := c.Write([]byte{0x8a, 0x80, 0, 0, 0, 0}); err != nil {
				return nil, err
			}
		}
	}
}

// masked is a frame of a client, under a mask of zeros.
func masked(op byte, s string) []byte {
	b := []byte{op, 0x80 | 126}
	b = binary.BigEndian.AppendUint16(b, uint16(len(s)))
	return append(append(b, 0, 0, 0, 0), s...)
}

// nextFrame reads a frame of the server.
func nextFrame(r *bufio.Reader) (op byte, payload []byte, err error) {
	var h [4]byte
	if _, err := io.ReadFull(r, h[:2]); err != nil {
		return 0, nil, err
	}
	n := int(h[1])
	if n == 126 {
		if _, err := io.ReadFull(r, h[2:]); err != nil {
			return 0, nil, err
		}
		n = int(binary.BigEndian.Uint16(h[2:]))
	}
	payload = make([]byte, n)
	_, err = io.ReadFull(r, payload)
	return h[0], payload, err
}

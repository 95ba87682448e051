package client_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"net/http/httptest"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/coder/websocket"

	"github.com/rollcall-presence/rollcall/client"
)

func FuzzDecode(f *testing.F) {
	for _, s := range []string{
		`{"type":"welcome","session":"s","service_sid":"IS1","identity":"me","reachability_enabled":true,"ping_interval_ms":25000,"user":{"identity":"me","sid":null,"rev":0},"users":[]}`,
		`{"type":"subscribed","id":1,"users":[{"identity":"a","sid":"US1","attributes":"{}","friendly_name":null,"is_online":null,"is_notifiable":true,"rev":5,"date_last_online":"2026-01-02T03:04:05Z"}]}`,
		update("alice", 9),
		`{"type":"batch","messages":[{"type":"pong","id":1},{"type":"error","code":105,"message":"m"}]}`,
		`{"type":"batch","messages":[{"type":"batch"}]}`,
		`{"type":"token.expiring","expires_in_ms":-1}`,
		`{"id":18446744073709551616}`,
		`null`, `[]`, `{"user":{"date_last_online":"yesterday"}}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, frame []byte) {
		before := bytes.Clone(frame)
		types, err := client.Decode(frame)
		if !bytes.Equal(before, frame) {
			t.Error("Decode changed the frame")
		}
		if err == nil && slices.Contains(types, "batch") {
			t.Errorf("Decode handed over a batch: %q", types)
		}
		if err == nil && !json.Valid(frame) {
			t.Error("Decode accepted what is not JSON")
		}
	})
}

func FuzzChunk(f *testing.F) {
	f.Add("alice", 1200)
	f.Add(strings.Repeat("\u2028", 80), 900)
	f.Add(strings.Repeat("<\x00\"", 80), 700)
	f.Add("", 501)
	f.Fuzz(func(t *testing.T, identity string, n int) {
		if !utf8.ValidString(identity) || n < 1 || n > 2000 || len(identity) > 256 {
			return
		}
		known, err := json.Marshal(map[string]int64{identity: math.MaxInt32 << 20})
		if err != nil {
			t.Fatal(err)
		}
		if size := client.EncodedSize(identity); size < len(known)-len("{}") {
			t.Errorf("EncodedSize(%q) = %d, but %s takes more", identity, size, known)
		}
		rest := slices.Repeat([]string{identity}, n)
		for total := 0; len(rest) > 0; {
			var first []string
			first, rest = client.Chunk(rest)
			if total += len(first); len(first) == 0 || total+len(rest) != n {
				t.Fatalf("Chunk of %d lost some: %d so far, %d left", n, total, len(rest))
			}
			data, err := json.Marshal(first)
			if err != nil || len(first) > client.MaxIdentities || len(data) > client.MaxNamed {
				t.Errorf("a chunk of %d identities in %d bytes, error %v", len(first), len(data), err)
			}
		}
	})
}

func TestBackoff(t *testing.T) {
	const base, limit = 500 * time.Millisecond, 30 * time.Second
	for _, attempt := range []int{0, 1, 3, 5, 6, 7, 40, 63, 64, math.MaxInt} {
		ceiling := limit
		if attempt < 6 {
			ceiling = base << attempt
		}
		low, high := limit, time.Duration(0)
		for range 2000 {
			wait := client.Backoff(attempt, base, limit)
			low, high = min(low, wait), max(high, wait)
		}
		if low < 0 || low > ceiling/10 || high > ceiling || high < ceiling*9/10 {
			t.Errorf("attempt %d waits %v to %v; want all of 0 to %v", attempt, low, high, ceiling)
		}
	}
}

func TestRetryAfter(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for header, want := range map[string]time.Duration{
		"": 0, "0": 0, "7": 7 * time.Second, "-1": 0, "soon": 0, "1.5": 0,
		"Fri, 02 Jan 2026 03:04:35 GMT": 30 * time.Second,
		"Fri, 02 Jan 2026 03:04:00 GMT": 0,
	} {
		if got := client.RetryAfter(header, now); got != want {
			t.Errorf("RetryAfter(%q) = %v; want %v", header, got, want)
		}
	}
}

// TestIdleCost connects over real sockets: what an idle client costs is one goroutine.
func TestIdleCost(t *testing.T) {
	gone := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn, err := websocket.Accept(w, r, &websocket.AcceptOptions{Subprotocols: []string{client.Protocol}})
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.CloseNow()
		if _, _, err := conn.Read(r.Context()); err != nil {
			t.Error(err)
			return
		}
		if err := conn.Write(r.Context(), websocket.MessageText, []byte(`{"type":"welcome","ping_interval_ms":25000}`)); err != nil {
			t.Error(err)
			return
		}
		<-gone
	}))
	defer server.Close()

	const n = 20
	before := runtime.NumGoroutine()
	var clients []*client.Client
	for range n {
		c, err := client.Dial(t.Context(), "ws"+strings.TrimPrefix(server.URL, "http"), options(nil))
		if err != nil {
			t.Fatal(err)
		}
		clients = append(clients, c)
	}
	// On the server each has one that serves, and none more once the handshake's are gone.
	want := before + 2*n
	for deadline := time.Now().Add(10 * time.Second); runtime.NumGoroutine() > want; runtime.Gosched() {
		if time.Now().After(deadline) {
			stacks := make([]byte, 1<<16)
			t.Fatalf("%d goroutines; want %d: one here and one on the server for each client\n%s", runtime.NumGoroutine(), want, stacks[:runtime.Stack(stacks, true)])
		}
	}
	close(gone)
	for _, c := range clients {
		c.Drop()
	}
}

func BenchmarkDecode(b *testing.B) {
	for _, n := range []int{1, 100} {
		frame := []byte(`{"type":"batch","messages":[` + strings.Repeat(update("alice", 9)+",", n-1) + update("alice", 9) + `]}`)
		b.Run(fmt.Sprintf("updates=%d", n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := client.Decode(frame); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

package webhook_test

import (
	"context"
	"encoding/binary"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/rollcall-presence/rollcall/webhook"
)

func TestGuard(t *testing.T) {
	for _, c := range []struct {
		addr   string
		public bool
	}{
		{"8.8.8.8", true},
		{"93.184.216.34", true},
		{"172.15.255.255", true},
		{"172.32.0.0", true},
		{"100.63.255.255", true},
		{"100.128.0.0", true},
		{"192.0.1.1", true},
		{"198.17.255.255", true},
		{"198.20.0.0", true},
		{"223.255.255.255", true},
		{"2606:2800:220:1::1", true},
		{"2a00:1450::1", true},
		{"64:ff9b::808:808", true},
		{"::ffff:0:808:808", true},
		{"2002:808:808::1", true},
		{"::ffff:8.8.8.8", true},

		{"127.0.0.1", false},
		{"127.255.255.254", false},
		{"0.0.0.0", false},
		{"0.1.2.3", false},
		{"10.0.0.1", false},
		{"172.16.0.1", false},
		{"172.31.255.255", false},
		{"192.168.1.1", false},
		{"169.254.169.254", false},
		{"100.64.0.1", false},
		{"100.127.255.255", false},
		{"192.0.0.192", false},
		{"192.0.2.1", false},
		{"192.88.99.1", false},
		{"198.18.0.1", false},
		{"198.19.255.255", false},
		{"198.51.100.1", false},
		{"203.0.113.1", false},
		{"224.0.0.1", false},
		{"239.255.255.255", false},
		{"240.0.0.1", false},
		{"255.255.255.255", false},
		{"::", false},
		{"::1", false},
		{"::7f00:1", false},
		{"::ffff:127.0.0.1", false},
		{"::ffff:10.0.0.1", false},
		{"fc00::1", false},
		{"fd12:3456::1", false},
		{"fe80::1", false},
		{"fe80::1%eth0", false},
		{"fec0::1", false},
		{"ff02::1", false},
		{"64:ff9b::7f00:1", false},
		{"64:ff9b::a00:1", false},
		{"64:ff9b:1::1", false},
		{"::ffff:0:7f00:1", false},
		{"2002:7f00:1::1", false},
		{"2002:a9fe:a9fe::1", false},
		{"2001::1", false},
		{"2001:db8::1", false},
		{"100::1", false},
		{"3fff::1", false},
		{"5f00::1", false},
	} {
		err := webhook.Check(netip.MustParseAddr(c.addr))
		if (err == nil) != c.public || err != nil && !errors.Is(err, webhook.ErrBlocked) {
			t.Errorf("%s: %v; want public %v", c.addr, err, c.public)
		}
	}
	ten := netip.MustParsePrefix("10.1.0.0/16")
	for addr, ok := range map[string]bool{"10.1.2.3": true, "::ffff:10.1.2.3": true, "10.2.0.1": false, "64:ff9b::a01:203": true} {
		if err := webhook.Check(netip.MustParseAddr(addr), ten); (err == nil) != ok {
			t.Errorf("%s with 10.1.0.0/16 allowed: %v; want %v", addr, err, ok)
		}
	}
}

func TestCheckURL(t *testing.T) {
	d := webhook.New(noQueue{}, nil, webhook.Options{AllowedNetworks: []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16")}})
	for url, want := range map[string]error{
		"https://example.com/hook?a=b#c": nil, "http://example.com": nil, "http://user:pass@example.com:8080/": nil, "http://8.8.8.8/": nil,
		"http://10.1.2.3/": nil, "http://[2606:2800:220:1::1]:8080/": nil, "HTTP://EXAMPLE.COM": nil,
		"": webhook.ErrURL, "example.com/hook": webhook.ErrURL, "/hook": webhook.ErrURL, "ftp://example.com/": webhook.ErrURL,
		"file:///etc/passwd": webhook.ErrURL, "gopher://example.com": webhook.ErrURL, "http://": webhook.ErrURL, "http:///x": webhook.ErrURL,
		"http:example.com": webhook.ErrURL, "http://exa mple.com/": webhook.ErrURL, "http://example.com/\n": webhook.ErrURL, "http://%zz/": webhook.ErrURL,
		"http://example.com/\xff": webhook.ErrURL, "http://example.com/" + string(make([]byte, webhook.MaxURL)): webhook.ErrURL,
		"http://127.0.0.1:9090/metrics": webhook.ErrBlocked, "http://[::1]/": webhook.ErrBlocked, "http://[::ffff:127.0.0.1]/": webhook.ErrBlocked,
		"http://169.254.169.254/latest/meta-data": webhook.ErrBlocked, "http://10.2.0.1/": webhook.ErrBlocked, "http://0.0.0.0/": webhook.ErrBlocked,
		"http://localhost:6379/": webhook.ErrBlocked, "http://LOCALHOST./": webhook.ErrBlocked, "http://[fe80::1%25eth0]/": webhook.ErrBlocked,
	} {
		if err := d.CheckURL(url); !errors.Is(err, want) || (err == nil) != (want == nil) {
			t.Errorf("CheckURL(%q) = %v; want %v", url, err, want)
		}
	}
}

// noQueue is a queue of nothing.
type noQueue struct{ webhook.Queue }

func (noQueue) Partitions() int { return 1 }

// nameServer answers every A question with what addrs says at that time, from a UDP
// socket on loopback. It counts the questions.
func nameServer(t *testing.T, addr func(n int) netip.Addr) (*net.Resolver, *atomic.Int32) {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var asked atomic.Int32
	var wg sync.WaitGroup
	wg.Go(func() {
		buf := make([]byte, 512)
		for {
			n, from, err := conn.ReadFrom(buf)
			if err != nil {
				return
			}
			q := buf[:n]
			end := 12
			for q[end] != 0 { // the labels of the name
				end += int(q[end]) + 1
			}
			question := q[12 : end+5]
			isA := binary.BigEndian.Uint16(q[end+1:]) == 1
			answer := append([]byte{q[0], q[1], 0x81, 0x80, 0, 1, 0, 0, 0, 0, 0, 0}, question...)
			if isA {
				a := addr(int(asked.Add(1))).As4()
				answer[7] = 1
				answer = append(answer, 0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4)
				answer = append(answer, a[:]...)
			}
			_, _ = conn.WriteTo(answer, from)
		}
	})
	t.Cleanup(func() { _ = conn.Close(); wg.Wait() })
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "udp", conn.LocalAddr().String())
	}}, &asked
}

// A name that led to an allowed address when it was first called, and to a forbidden
// one later, is refused at the dial: the address that is called is the one checked.
func TestRebinding(t *testing.T) {
	w := newWorld(t)
	var calls atomic.Int32
	target := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { calls.Add(1) }))
	t.Cleanup(target.Close)
	_, port, _ := net.SplitHostPort(target.Listener.Addr().String())
	var inside atomic.Bool
	resolver, asked := nameServer(t, func(int) netip.Addr {
		if inside.Load() {
			return netip.MustParseAddr("127.0.0.2") // where the target listens not, and nothing may go
		}
		return netip.MustParseAddr("127.0.0.1")
	})
	w.start(webhook.Options{AllowedNetworks: []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")}, Resolver: resolver})
	sid := w.service("http://rebind.example.com:"+port+"/", "onReachabilityChanged")
	w.online(sid, "ada")
	w.until("it is delivered while the name leads to an allowed address", func() bool { return calls.Load() == 1 })
	w.d.CloseIdle()
	inside.Store(true)
	before := asked.Load()
	w.online(sid, "bob")
	w.until("the other address is refused", func() bool {
		return w.metric("rollcall_webhook_attempts_total", "onReachabilityChanged", "blocked") >= 1
	})
	if calls.Load() != 1 || asked.Load() == before {
		t.Errorf("%d calls, the name was resolved %d times; want one call, and the name resolved again", calls.Load(), asked.Load())
	}
}

package e2e

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/rollcall-presence/rollcall/internal/testkit"
	"github.com/rollcall-presence/rollcall/internal/testkit/rig"
)

// Whatever a client sends that says it were an SDK, it gets an answer or is closed, that is
// counted, and those who live all the while, in either protocol, go on hearing of the others.
func TestSDKBadInput(t *testing.T) {
	n := rig.Start(t, "embedded", "ROLLCALL_HELLO_TIMEOUT=1s", "ROLLCALL_LINGER=1s", "ROLLCALL_LOG_LEVEL=debug")
	sid := n.NewService()
	by := stand(t, n, sid)
	witness := n.SDKSession(t, sid, "witness")
	witness.Subscribe(beacon)
	witness.Note("map_item_updated")
	witness.Note("subscription_established")
	var told []bool // whether the beacon was online, as the witness heard
	var listens sync.WaitGroup
	listens.Go(func() {
		for {
			f, err := witness.Take()
			if err != nil {
				if !errors.Is(err, net.ErrClosed) && !errors.Is(err, io.EOF) {
					t.Errorf("the witness: %v", err)
				}
				return
			}
			events, _ := f.Payload["events"].([]any)
			for _, e := range events {
				e, _ := e.(map[string]any)
				if data, _ := e["item_data"].(map[string]any); e["item_key"] == "reachability" {
					is, _ := data["online"].(bool)
					told = append(told, is)
				}
			}
		}
	})
	before := heap(t, n)
	t.Run("strangers", func(t *testing.T) { sdkStrangers(t, n) })
	t.Run("framing", func(t *testing.T) { sdkFraming(t, n, sid) })
	t.Run("requests", func(t *testing.T) { sdkRequests(t, n, sid) })
	t.Run("subscriptions", func(t *testing.T) { sdkSubscriptions(t, n, sid) })
	t.Run("floods", func(t *testing.T) { sdkFloods(t, n, sid) })
	by.undisturbed(t)
	_ = witness.Close()
	listens.Wait()
	for i := 1; i < len(told); i++ {
		if told[i] == told[i-1] {
			t.Errorf("the witness heard %v; want true and false in turn", told)
			break
		}
	}
	if len(told) < 10 {
		t.Errorf("the witness heard of %d changes; the test shows less than it should", len(told))
	}
	rig.Eventually(t, "every session is gone", func() error {
		m := n.Metrics()
		if c, s := m["rollcall_connections"], m["rollcall_subscriptions"]; c != 0 || s != 0 {
			return fmt.Errorf("%v connections and %v subscriptions are left", c, s)
		}
		return nil
	})
	// The users that were made stay: some MiB of them are in the embedded store, which is in the same process.
	rig.Eventually(t, "the memory is back", func() error {
		if grown := heap(t, n) - before; grown > 32<<20 {
			return fmt.Errorf("%.0f bytes more are in use", grown)
		}
		return nil
	})
	if body := admin(t, n, "/readyz"); body != "ready\n" {
		t.Errorf("readyz = %q", body)
	}
	if strings.Contains(n.Log(), "panic") {
		t.Error("the log tells of a panic")
	}
}

// heap is what a node's heap has in use after a collection.
func heap(t *testing.T, n *rig.Node) float64 {
	t.Helper()
	admin(t, n, "/debug/pprof/heap?gc=1")
	return n.Metric("go_memstats_heap_alloc_bytes")
}

func admin(t *testing.T, n *rig.Node, path string) string {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+n.Admin+path, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}

// sdkEnds wants the connection closed with the code, whatever was said before.
func sdkEnds(t *testing.T, c *rig.SDK, code int) (said []testkit.Twilsock) {
	t.Helper()
	for {
		f, err := c.Take()
		if err == nil {
			said = append(said, f)
			continue
		}
		if e, ok := errors.AsType[rig.CloseError](err); !ok || e.Code != code {
			t.Fatalf("got %v; want a close with %d", err, code)
		}
		_ = c.Close() // the node need not wait for the answer
		return said
	}
}

// lies are frames whose framing is wrong, and how that is counted.
var lies = []struct {
	name string
	send []byte
	end  int
	sort string
}{
	{"text", rig.Frame(rig.OpText, []byte(testkit.TwilsockText(`{"id":"1","method":"init"}`, ""))), 3501, requestOf("malformed")},
	{"nothing", rig.Frame(rig.OpBinary, nil), 3501, requestOf("malformed")},
	{"HTTP", rig.Frame(rig.OpBinary, []byte("GET / HTTP/1.1\r\n\r\n")), 3501, requestOf("malformed")},
	{"length too small", rig.Frame(rig.OpBinary, []byte("TWILSOCK V3.0 27\r\n{\"id\":\"TM1\",\"method\":\"init\"}\r\n")), 3501, requestOf("malformed")},
	{"length too large", rig.Frame(rig.OpBinary, []byte("TWILSOCK V3.0 29\r\n{\"id\":\"TM1\",\"method\":\"init\"}\r\n")), 3501, requestOf("malformed")},
	{"length of 9 MB", rig.Frame(rig.OpBinary, []byte("TWILSOCK V3.0 9999999\r\n{}\r\n")), 3501, requestOf("malformed")},
	{"length beyond 2^64", rig.Frame(rig.OpBinary, []byte("TWILSOCK V3.0 18446744073709551644\r\n{}\r\n")), 3501, requestOf("malformed")},
	{"negative length", rig.Frame(rig.OpBinary, []byte("TWILSOCK V3.0 -2\r\n{}\r\n")), 3501, requestOf("malformed")},
	{"payload of 2 GB", rig.Frame(rig.OpBinary, []byte("TWILSOCK V3.0 36\r\n{\"id\":\"1\",\"payload_size\":2147483647} \r\n")), 3501, requestOf("malformed")},
	{"payload beyond 2^63", rig.Frame(rig.OpBinary, []byte("TWILSOCK V3.0 45\r\n{\"id\":\"1\",\"payload_size\":9223372036854775808}\r\n")), 3501, requestOf("malformed")},
	{"negative payload", rig.Frame(rig.OpBinary, []byte("TWILSOCK V3.0 28\r\n{\"id\":\"1\",\"payload_size\":-1}\r\n")), 3501, requestOf("malformed")},
	{"deep header", rig.Frame(rig.OpBinary, []byte(testkit.TwilsockText(`{"id":"1","x":`+strings.Repeat("[", 32_000)+strings.Repeat("]", 32_000)+`}`, ""))), 3501, requestOf("malformed")},
	{"header that never closes", rig.Frame(rig.OpBinary, []byte(testkit.TwilsockText(`{"id":"1","x":`+strings.Repeat(`{"a":`, 12_000), ""))), 3501, requestOf("malformed")},
	{"not UTF-8", rig.Frame(rig.OpBinary, []byte(testkit.TwilsockText("{\"id\":\"\xff\xfe\"}", ""))), 3501, requestOf("malformed")},
	{"half a character", rig.Frame(rig.OpBinary, []byte(testkit.TwilsockText("{\"id\":\"\xed\xa0\x80\"}", ""))), 3501, requestOf("malformed")},
	{"trailing bytes", rig.Frame(rig.OpBinary, []byte(testkit.TwilsockText(`{"id":"1","method":"init"}`, "")+"more")), 3501, requestOf("malformed")},
	{"70 KiB", rig.Frame(rig.OpBinary, []byte(testkit.TwilsockText(`{"id":"1","x":"`+strings.Repeat("x", 70<<10)+`"}`, ""))), 1009, serverClose(1009)},
	{"70 KiB in parts", append(rig.Frame(0x02, make([]byte, 35<<10)), rig.Frame(0x80, make([]byte, 35<<10))...), 1009, serverClose(1009)},
	{"claims to be huge", append([]byte{rig.OpBinary, 0xff, 0, 0, 0xff, 0, 0, 0, 0, 0, 0, 0, 0, 0}, make([]byte, 64<<10+1)...), 1009, serverClose(1009)},
	{"not masked", []byte{rig.OpBinary, 2, '{', '}'}, 1002, serverClose(1002)},
}

func sdkStrangers(t *testing.T, n *rig.Node) {
	for _, tt := range lies {
		t.Run(tt.name, func(t *testing.T) {
			c := n.RawSDK(t)
			n.Counts(func() {
				c.Bytes(tt.send)
				if said := sdkEnds(t, c, tt.end); len(said) != 0 {
					t.Errorf("a stranger was told %v", said)
				}
			}, tt.sort, serverClose(tt.end))
		})
	}
	for _, method := range []string{"message", "update", "close", "reply", "telemetry.v1", "", "INIT"} {
		t.Run("begins with "+method, func(t *testing.T) {
			c := n.RawSDK(t)
			n.Counts(func() {
				c.Frame(`{"id":"1","method":"`+method+`"}`, "")
				sdkEnds(t, c, 3501)
			}, requestOf("unknown"), serverClose(3501))
		})
	}
	t.Run("says nothing", func(t *testing.T) {
		n.Counts(func() { sdkEnds(t, n.RawSDK(t), 3502) }, serverClose(3502))
	})
	for _, token := range []string{"", "garbage", "a.b.c", strings.Repeat("x", 60_000)} {
		t.Run(fmt.Sprintf("token of %d bytes", len(token)), func(t *testing.T) {
			c := n.RawSDK(t)
			n.Counts(func() {
				c.Frame(`{"id":"1","method":"init","token":"`+token+`"}`, "")
				if f := c.Reply("1"); f.Status("status") != 401 {
					t.Errorf("answered with %v; want 401", f)
				}
				sdkEnds(t, c, 3500)
			}, errorSent("token_invalid"), serverClose(3500))
		})
	}
}

func sdkFraming(t *testing.T, n *rig.Node, sid string) {
	for _, tt := range lies {
		t.Run(tt.name, func(t *testing.T) {
			c := n.SDKSession(t, sid, "mallory")
			n.Counts(func() {
				c.Bytes(tt.send)
				sdkEnds(t, c, tt.end)
			}, tt.sort, serverClose(tt.end))
		})
	}
}

// sdkRequests are wrong, are told so one by one, and the session lives on.
func sdkRequests(t *testing.T, n *rig.Node, sid string) {
	c := n.SDKSession(t, sid, "mallory")
	if code := n.REST("POST", "/v1/Services/"+sid+"/Users", url.Values{"Identity": {"victim"}}, nil); code != http.StatusCreated {
		t.Fatalf("making a user: %d", code)
	}
	users := "/Client/v2/Services/" + sid + "/Users/"
	victims := "MPc" + testkit.UserMap("victim")[3:]
	for _, tt := range []struct {
		name, method, path, body string
		status, code             int
	}{
		{"another's profile", "POST", users + "victim", `{"friendly_name":"owned"}`, 403, 126},
		{"another's conversations", "GET", users + "victim/Conversations", "", 403, 126},
		{"another's map of conversations", "GET", "/v3/Maps/" + victims, "", 404, 127},
		{"its items", "GET", "/v3/Maps/" + victims + "/Items", "", 404, 127},
		{"no map", "GET", "/v3/Maps/ES00000000000000000000000000000000", "", 404, 127},
		{"a map with line ends", "GET", "/v3/Maps/MPu%0a" + testkit.UserMap("victim")[3:], "", 404, 127},
		{"a document", "GET", "/v3/Documents/" + testkit.UserMap("victim"), "", 404, 128},
		{"a list", "POST", "/v3/Lists", "{}", 501, 128},
		{"a path of slashes", "GET", strings.Repeat("/", 30_000), "", 404, 128},
		{"a path out of it", "GET", users + "../../../../v1/Services", "", 404, 128},
		{"an escaped one", "GET", users + "..%2F..%2Fvictim", "", 404, 125},
		{"a path of no UTF-8", "GET", users + "%ff%fe", "", 404, 128},
		{"an endless identity", "GET", users + strings.Repeat("x", 30_000), "", 400, 107},
		{"deep JSON", "POST", "/v4/Subscriptions", strings.Repeat("[", 60_000), 400, 103},
		{"deep JSON that closes", "POST", users + "mallory", `{"friendly_name":` + strings.Repeat(`[`, 30_000) + strings.Repeat(`]`, 30_000) + `}`, 400, 103},
		{"deep attributes", "POST", users + "mallory", `{"attributes":"` + strings.Repeat(`[`, 8_000) + `"}`, 400, 123},
		{"not UTF-8", "POST", users + "mallory", "{\"friendly_name\":\"\xff\"}", 400, 103},
		{"half a character", "POST", users + "mallory", `{"friendly_name":"\udc00"}`, 400, 103},
		{"a huge number", "POST", "/v4/Subscriptions", `{"action":"establish","correlation_id":` + strings.Repeat("9", 50_000) + `,"requests":[]}`, 400, 103},
		{"20,000 objects", "POST", "/v4/Subscriptions", rig.SDKSubscriptions("establish", slices.Repeat([]string{"{}"}, 20_000)...), 400, 104},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c.T = t
			code, answer := c.Request(tt.method, tt.path, "", tt.body)
			if code != tt.status || answer["code"] != float64(tt.code) || answer["status"] != float64(tt.status) {
				t.Errorf("answered with %d %v; want %d, error %d", code, answer, tt.status, tt.code)
			}
			if code, _ := c.Request("GET", "/Client/v2/Configuration", "", ""); code != 200 {
				t.Errorf("and then with %d", code)
			}
		})
	}
	var victim struct {
		Name *string `json:"friendly_name"`
	}
	n.REST("GET", "/v1/Services/"+sid+"/Users/victim", nil, &victim)
	if victim.Name != nil {
		t.Errorf("the victim is called %q", *victim.Name)
	}
}

// sdkSubscriptions: requests beyond the limit are refused, and all subscriptions go with
// the session.
func sdkSubscriptions(t *testing.T, n *rig.Node, sid string) {
	c := n.SDKSession(t, sid, "greedy")
	before := n.Metric("rollcall_subscriptions")
	for i := range 30 {
		objects := make([]string, 100)
		for j := range objects {
			objects[j] = fmt.Sprintf(`{"object_type":"map","object_sid":%q,"last_event_id":1}`, testkit.UserMap(fmt.Sprint("user ", i, " ", j)))
		}
		code, answer := c.Request("POST", "/v4/Subscriptions", "", rig.SDKSubscriptions("establish", objects...))
		switch {
		case i < 10 && code == 202:
			c.Note("map_item_updated")
			c.Note("subscription_established")
		case i < 10 || code != 429 || answer["code"] != 105.:
			t.Fatalf("request %d: %d %v", i, code, answer)
		}
	}
	if got := n.Metric("rollcall_subscriptions") - before; got != 1000 {
		t.Errorf("%v subscriptions; want 1,000", got)
	}
	c.Frame(`{"id":"bye","method":"close"}`, "")
	sdkEnds(t, c, 1000)
}

// sdkFloods are ended: of requests, of acknowledgements that nobody waits for, and of
// frames that want no answer.
func sdkFloods(t *testing.T, n *rig.Node, sid string) {
	for _, method := range []string{"message", "reply", "telemetry.v1", "update", "unheard.of"} {
		t.Run(method, func(t *testing.T) {
			c := n.SDKSession(t, sid, "mallory")
			frame := strings.Repeat(string(rig.Frame(rig.OpBinary, []byte(testkit.TwilsockText(`{"id":"1","method":"`+method+`","http_request":{"method":"GET","path":"/"}}`, "")))), 100)
			var sends sync.WaitGroup
			n.Counts(func() {
				sends.Go(func() {
					for range 100 {
						c.Bytes([]byte(frame))
					}
				})
				said := sdkEnds(t, c, 3005)
				_ = c.Close()
				if len(said) == 0 || said[len(said)-1].Header["method"] != "close" || said[len(said)-1].Status("status") != 308 {
					t.Error("the last that was said is no close with 308")
				}
				if len(said) > 2000 {
					t.Errorf("%d frames were answered", len(said))
				}
			}, serverClose(3005))
			sends.Wait()
		})
	}
}

// A client that asks and never reads is closed when nothing moves.
func TestSDKNeverReads(t *testing.T) {
	n := rig.Start(t, "embedded", "ROLLCALL_PING_INTERVAL=1s", "ROLLCALL_PONG_TIMEOUT=900ms")
	sid := n.NewService()
	c := n.SDKSession(t, sid, "mallory")
	if err := c.Conn.(*net.TCPConn).SetReadBuffer(4 << 10); err != nil {
		t.Fatal(err)
	}
	objects := make([]string, 100)
	for i := range objects {
		objects[i] = fmt.Sprintf(`{"object_type":"map","object_sid":%q}`, testkit.UserMap(fmt.Sprint("some rather long name of user ", i)))
	}
	n.Counts(func() {
		for range 150 { // at least 75 KB of answer each
			c.Ask("POST", "/v4/Subscriptions", "", rig.SDKSubscriptions("establish", objects...))
		}
	}, serverClose(3003))
}

// A session of one service, whatever it asks for, is neither told anything of another nor
// does anything to it.
func TestSDKTenancy(t *testing.T) {
	n := rig.Start(t, "embedded", "ROLLCALL_LINGER=1s")
	ours, theirs := n.NewService(), n.NewService()
	secrets := []string{theirs, "their secret name", "their secret attribute"}
	made := func(identity string) (sid string) {
		var u rig.User
		if code := n.REST("POST", "/v1/Services/"+theirs+"/Users", url.Values{
			"Identity": {identity}, "FriendlyName": {"their secret name"}, "Attributes": {`{"x":"their secret attribute"}`},
		}, &u); code != http.StatusCreated {
			t.Fatalf("making a user: %d", code)
		}
		secrets = append(secrets, u.SID)
		return u.SID
	}
	both, only := made("both"), made("only theirs")
	n.REST("POST", "/v1/Services/"+ours+"/Users", url.Values{"Identity": {"both"}}, nil)

	them := n.SDKSession(t, theirs, "both")
	_, registered := them.Request("POST", "/v1/registrations", `{"productId":"ip_messaging"}`, `{"channel_type":"fcm","data":{"registration_id":"their device"}}`)
	binding, _ := registered["id"].(string)
	if binding == "" {
		t.Fatalf("registering: %v", registered)
	}
	secrets = append(secrets, binding, "their device")
	dump := func() (all []map[string]any) {
		for _, path := range []string{"/Users/" + both, "/Users/" + only, "/Bindings", "/Configuration"} {
			var v map[string]any
			n.REST("GET", "/v1/Services/"+theirs+path, nil, &v)
			all = append(all, v)
		}
		return all
	}
	before := dump()

	c := n.SDKSession(t, ours, "both")
	for _, tt := range []struct {
		method, path, body string
		status             int
	}{
		{"GET", "/Client/v2/Services/" + theirs + "/Users/both", "", 404},
		{"GET", "/Client/v2/Services/" + theirs + "/Users/only%20theirs", "", 404},
		{"POST", "/Client/v2/Services/" + theirs + "/Users/both", `{"friendly_name":"ours"}`, 501},
		{"GET", "/Client/v2/Services/" + theirs + "/Users/both/Conversations", "", 404},
		{"GET", "/Client/v2/Services/" + ours + "/Users/only%20theirs", "", 404},
		{"GET", "/Client/v2/Services/" + ours + "/Users/" + only, "", 404},
		{"GET", "/Client/v2/Services/" + ours + "%2F..%2F" + theirs + "/Users/both", "", 404},
		{"GET", "/Client/v2/Services/" + ours + "/Users/both", "", 200},
		{"GET", "/v3/Maps/" + testkit.UserMap("only theirs"), "", 404},
		{"GET", "/v3/Maps/" + testkit.UserMap("only theirs") + "/Items", "", 404},
		{"GET", "/v3/Maps/" + testkit.UserMap(theirs+":both"), "", 404},
		{"GET", "/v3/Maps/" + only + ".info", "", 404},
		{"GET", "/v3/Maps/" + testkit.UserMap("both"), "", 200},
		{"GET", "/v3/Maps/" + testkit.UserMap("both") + "/Items", "", 200},
		{"DELETE", "/v1/registrations/" + binding, "{}", 200}, // that it is not there is no error
		{"DELETE", "/v1/registrations", `{"binding_type":"fcm","address":"their device"}`, 200},
		{"GET", "/Client/v2/Configuration", "", 200},
	} {
		said := c.Said.Len()
		code, answer := c.Request(tt.method, tt.path, `{"Include":"items"}`, tt.body)
		if code != tt.status {
			t.Errorf("%s %s = %d %v; want %d", tt.method, tt.path, code, answer, tt.status)
		}
		for _, secret := range secrets {
			if strings.Contains(c.Said.String()[said:], secret) {
				t.Errorf("%s %s tells %q: %v", tt.method, tt.path, secret, answer)
			}
		}
	}
	// Who is subscribed to a name hears of our user by it, of whom there may be none.
	c.Subscribe("both", "only theirs")
	c.Note("map_item_updated")
	c.Note("subscription_established")
	only2 := n.SDKSession(t, theirs, "only theirs")
	if code, _ := only2.Request("POST", "/Client/v2/Services/"+theirs+"/Users/only%20theirs", "", `{"friendly_name":"their secret name"}`); code != 200 {
		t.Errorf("their user names itself: %d", code)
	}
	// Their users come and go, are changed and deleted, and their switch is flipped.
	only2.Frame(`{"id":"bye","method":"close"}`, "")
	sdkEnds(t, only2, 1000)
	n.REST("POST", "/v1/Services/"+theirs+"/Users/both", url.Values{"Attributes": {`{"x":"their secret attribute"}`}}, nil)
	n.Flip(theirs, false)
	n.Flip(theirs, true)
	if code, _ := c.Request("POST", "/Client/v2/Services/"+ours+"/Users/both", "", `{"friendly_name":"ours"}`); code != 200 {
		t.Errorf("our user names itself: %d", code)
	}
	// Events come in order: what of theirs could have come has come before.
	for _, e := range c.Note("map_item_updated") {
		e, _ := e.(map[string]any)
		if e["map_sid"] != testkit.UserMap("both") || e["item_key"] != "friendlyName" || fmt.Sprint(e["item_data"]) != "map[value:ours]" {
			t.Errorf("heard %v; want our own change alone", e)
		}
	}
	// A token of theirs is none of ours.
	token, err := rig.Mint(theirs, "both")(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	c.Frame(`{"id":"TM-u","method":"update","token":"`+token+`"}`, "")
	if f := c.Reply("TM-u"); f.Status("status") != 403 {
		t.Errorf("their token was answered with %v; want 403", f)
	}
	for _, secret := range secrets {
		if strings.Contains(c.Said.String(), secret) {
			t.Errorf("our session was told %q", secret)
		}
	}
	after := dump()
	for _, all := range [][]map[string]any{before, after} {
		for _, v := range all { // by what they did themselves
			delete(v, "date_updated")
			delete(v, "is_online")
		}
	}
	if diff := cmp.Diff(before, after); diff != "" {
		t.Errorf("what is theirs has changed (-before +after):\n%s", diff)
	}
}

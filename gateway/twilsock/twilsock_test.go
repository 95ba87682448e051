package twilsock

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/rollcall-presence/rollcall/fanout"
	"github.com/rollcall-presence/rollcall/gateway"
	"github.com/rollcall-presence/rollcall/internal/testkit"
	"github.com/rollcall-presence/rollcall/presence"
)

// clientFrame is a frame as a client makes it, whose lengths are true.
func clientFrame(header, payload string) string {
	return protocolLine + strconv.Itoa(len(header)) + crlf + header + crlf + payload
}

// sent is a frame of the server, read back.
type sent testkit.Twilsock

// messages cuts what goes to the socket into the WebSocket messages that it is.
func messages(t testing.TB, b []byte) (list [][]byte) {
	t.Helper()
	for len(b) > 0 {
		n, at := uint64(b[1]), 2
		switch n {
		case 126:
			n, at = uint64(binary.BigEndian.Uint16(b[2:])), 4
		case 127:
			n, at = binary.BigEndian.Uint64(b[2:]), 10
		}
		if b[0] != 0x82 || uint64(len(b)-at) < n {
			t.Fatalf("no whole binary message: %q", b)
		}
		list = append(list, b[at:at+int(n)])
		b = b[at+int(n):]
	}
	return list
}

// readBack reads the one frame that b is as the SDK does, by its lengths.
func readBack(t testing.TB, b []byte) sent {
	t.Helper()
	list := messages(t, b)
	if len(list) != 1 {
		t.Fatalf("%d messages; want one", len(list))
	}
	return readMessage(t, list[0])
}

func readMessage(t testing.TB, data []byte) sent {
	t.Helper()
	f, err := testkit.ReadTwilsock(string(data))
	if err != nil {
		t.Fatal(err)
	}
	if want := map[bool]any{true: "application/json"}[f.Text != ""]; f.Header["payload_type"] != want {
		t.Fatalf("payload_type = %v of %q", f.Header["payload_type"], f.Text)
	}
	return sent(f)
}

// events are the items that a notification tells of: "id key data" each.
func (s sent) events(t testing.TB) (list []string) {
	t.Helper()
	events, _ := s.Payload["events"].([]any)
	if s.Header["method"] != "notification" || s.Header["message_type"] != "twilio.sync.event" || s.Header["id"] == "" ||
		s.Payload["event_type"] != "map_item_updated" || s.Payload["event_protocol_version"] != 4. || len(events) == 0 {
		t.Fatalf("frame %v; want a notification of items", s)
	}
	for _, e := range events {
		e, _ := e.(map[string]any)
		data, err := json.Marshal(e["item_data"])
		if err != nil {
			t.Fatal(err)
		}
		id := strconv.FormatInt(int64(e["id"].(float64)), 10)
		_, identity, ok := parseMapSID(e["map_sid"].(string))
		if !ok || e["map_revision"] != id || e["item_revision"] != id || e["item_url"] != itemURL(e["map_sid"].(string), e["item_key"].(string)) {
			t.Fatalf("event %v; want its revisions and URL to be those of its id and map", e)
		}
		list = append(list, fmt.Sprintf("%s %s %s %s", id, identity, e["item_key"], data))
	}
	return list
}

// Each of these is refused, and would be no worse for a decoder that trusts lengths.
func TestDecodeRefuses(t *testing.T) {
	const h = `{"id":"TM1","method":"init"}`
	long := strings.Repeat("x", maxID+1)
	for name, frame := range map[string]string{
		"nothing":                     "",
		"only a line":                 protocolLine + "2",
		"no line end":                 protocolLine + "28" + h,
		"line feed alone":             strings.ReplaceAll(clientFrame(h, ""), "\r", ""),
		"other protocol":              "HTTP" + clientFrame(h, ""),
		"other version":               strings.Replace(clientFrame(h, ""), "3.0", "3.1", 1),
		"lower case":                  strings.ToLower(clientFrame(h, "")),
		"no length":                   protocolLine + crlf + h + crlf,
		"negative length":             protocolLine + "-28" + crlf + h + crlf,
		"signed length":               protocolLine + "+28" + crlf + h + crlf,
		"padded length":               protocolLine + " 28" + crlf + h + crlf,
		"length in hex":               protocolLine + "0x1c" + crlf + h + crlf,
		"length of other digits":      protocolLine + "२८" + crlf + h + crlf,
		"length too small":            protocolLine + "27" + crlf + h + crlf,
		"length too large":            protocolLine + "29" + crlf + h + crlf,
		"length beyond the frame":     protocolLine + "9999999" + crlf + h + crlf,
		"length that overflows":       protocolLine + "18446744073709551644" + crlf + h + crlf, // 2^64 + 28
		"length counts characters":    protocolLine + "26" + crlf + `{"id":"😀","method":"reply"}` + crlf,
		"no end of the header":        protocolLine + "28" + crlf + h,
		"half an end of the header":   protocolLine + "28" + crlf + h + "\r",
		"header is an array":          clientFrame(`["id"]`, ""),
		"header is null":              clientFrame(`null`, ""),
		"header is empty":             clientFrame(``, ""),
		"header is two objects":       clientFrame(h+h, ""),
		"header is cut":               clientFrame(h[:len(h)-1], ""),
		"header begins with a space":  clientFrame(" "+h, ""),
		"header is not UTF-8":         clientFrame("{\"id\":\"\xff\"}", ""),
		"header is overlong UTF-8":    clientFrame("{\"id\":\"\xc0\xaf\"}", ""),
		"header is a surrogate":       clientFrame("{\"id\":\"\xed\xa0\x80\"}", ""),
		"deep header":                 clientFrame(`{"id":"1","x":`+strings.Repeat("[", 100_000)+strings.Repeat("]", 100_000)+`}`, ""),
		"deep parameter":              clientFrame(`{"id":"1","http_request":{"params":{"Key":`+strings.Repeat(`{"a":`, 20_000)+`1`+strings.Repeat(`}`, 20_000)+`}}}`, ""),
		"no id":                       clientFrame(`{"method":"init"}`, ""),
		"empty id":                    clientFrame(`{"id":""}`, ""),
		"id is a number":              clientFrame(`{"id":1}`, ""),
		"long id":                     clientFrame(`{"id":"`+long+`"}`, ""),
		"method is a number":          clientFrame(`{"id":"1","method":7}`, ""),
		"token is an object":          clientFrame(`{"id":"1","token":{}}`, ""),
		"request is a string":         clientFrame(`{"id":"1","http_request":"GET /"}`, ""),
		"parameters are a list":       clientFrame(`{"id":"1","http_request":{"params":[]}}`, ""),
		"payload missing":             clientFrame(`{"id":"1","payload_size":1}`, ""),
		"payload too short":           clientFrame(`{"id":"1","payload_size":3}`, "ab"),
		"payload too long":            clientFrame(`{"id":"1","payload_size":1}`, "abc"),
		"payload not announced":       clientFrame(`{"id":"1"}`, "a"),
		"payload counted in runes":    clientFrame(`{"id":"1","payload_size":1}`, "😀"),
		"negative payload":            clientFrame(`{"id":"1","payload_size":-1}`, ""),
		"payload of a fraction":       clientFrame(`{"id":"1","payload_size":0.5}`, ""),
		"payload size in words":       clientFrame(`{"id":"1","payload_size":"0"}`, ""),
		"payload size of 2^63":        clientFrame(`{"id":"1","payload_size":9223372036854775808}`, ""),
		"payload size of 2^64":        clientFrame(`{"id":"1","payload_size":18446744073709551616}`, ""),
		"payload size of 1e400":       clientFrame(`{"id":"1","payload_size":1e400}`, ""),
		"trailing byte":               clientFrame(h, "x"),
		"trailing bytes":              clientFrame(h, "\r\nx"),
		"trailing half of a line end": clientFrame(h, "\r"),
		"two line ends":               clientFrame(h, "\r\n\r\n"),
		"two frames":                  clientFrame(h, clientFrame(h, "")),
	} {
		if m, err := decode([]byte(frame)); err == nil {
			t.Errorf("%s: decode(%.100q) = %+v; want an error", name, frame, m)
		}
	}
}

func TestDecode(t *testing.T) {
	for name, tt := range map[string]struct {
		header, payload, after string
	}{
		"init":          {`{"id":"TM1","method":"init","token":"a.b.c","continuation_token":null,"tweaks":null,"payload_size":0}`, "", ""},
		"emoji":         {`{"id":"TM😀é","method":"message","payload_size":8}`, "\"😀é\"", ""},
		"a line end":    {`{"id":"TM1","method":"reply","status":{"code":200},"payload_size":2}`, "{}", crlf},
		"no size":       {`{"id":"TM1","method":"close"}`, "", crlf},
		"lines within":  {"{\"id\":\"TM1\",\r\n\"payload_size\":4}", "{\r\n\r", ""},
		"frame within":  {`{"id":"TM1","payload_size":15}`, protocolLine + "\x00", ""},
		"bytes of none": {`{"id":"TM1","payload_size":2}`, "\xff\xfe", ""},
	} {
		m, err := decode([]byte(clientFrame(tt.header, tt.payload) + tt.after))
		if err != nil || !strings.HasPrefix(m.ID, "TM") || string(m.payload) != tt.payload {
			t.Errorf("%s: decode = %+v, %v; want payload %q", name, m, err, tt.payload)
		}
	}
	m, err := decode([]byte(clientFrame(`{"id":"TM1","method":"message","http_request":{"host":"x","path":"/v3/Maps/a%2Fb","method":"GET",`+
		`"params":{"Include":"items","Key":["a","b"]},"headers":{"a":"b"}}}`, "")))
	if err != nil || m.HTTP.Method != "GET" || m.HTTP.Path != "/v3/Maps/a%2Fb" || text(m.HTTP.Params.Include) != "items" || text(m.HTTP.Params.Key) != "" {
		t.Errorf("decode = %+v, %v; want the request as it was sent", m, err)
	}
}

// TestLargeFrames: the decoder bounds no payload; the session's limit does.
func TestLargeFrames(t *testing.T) {
	big := strings.Repeat("é", 1<<20)
	m, err := decode([]byte(clientFrame(fmt.Sprintf(`{"id":"1","payload_size":%d}`, len(big)), big)))
	if err != nil || string(m.payload) != big {
		t.Errorf("decode of %d bytes = %d bytes, %v", len(big), len(m.payload), err)
	}
	if got := readBack(t, encodeAnswer("1", 200, "OK", map[string]string{"x": big})); got.Payload["x"] != big {
		t.Error("a large answer reads back as another")
	}
}

// FuzzDecode: no frame makes the decoder panic, and in one that it lets through the
// lengths are those of what is there.
func FuzzDecode(f *testing.F) {
	for _, seed := range []string{
		clientFrame(`{"id":"TM1","method":"init","token":"a.b.c","payload_size":0}`, ""),
		clientFrame(`{"id":"TM1","method":"message","http_request":{"path":"/v3/Maps/MPuYm9i","method":"GET","params":{"Include":"items"}},"payload_size":2}`, "{}"),
		clientFrame(`{"id":"TM😀","method":"reply","status":{"code":200},"payload_size":6}`, "\"😀\"") + crlf,
		clientFrame(`{"id":"é","payload_size":3}`, "\u20ac"),
		clientFrame(`{"id":"1","payload_size":1e1}`, "0123456789"),
		clientFrame(`{"id":"1","payload_size":9223372036854775807}`, ""),
		clientFrame(`{"ID":"1","Payload_Size":1,"payload_size":0}`, ""),
		clientFrame(`{"id":"1","x":`+strings.Repeat("[", 200)+strings.Repeat("]", 200)+`}`, ""),
		clientFrame("{\"id\":\"\xff\"}", ""), clientFrame(`{"id":"\ud800"}`, ""),
		protocolLine + "00000028" + crlf + `{"id":"TM1","method":"init"}` + crlf,
		protocolLine + "9999999" + crlf, protocolLine + "-1" + crlf + "{}" + crlf, "TWILSOCK", crlf, "",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := decode(data)
		if err != nil {
			return
		}
		var digits, n int
		rest := string(data[len(protocolLine):])
		for digits < len(rest) && rest[digits] >= '0' && rest[digits] <= '9' {
			n = n*10 + int(rest[digits]-'0')
			digits++
		}
		whole := len(protocolLine) + digits + len(crlf) + n + len(crlf) + len(m.payload)
		if string(data[:len(protocolLine)]) != protocolLine || digits == 0 || whole != len(data) && string(data[min(whole, len(data)):]) != crlf {
			t.Fatalf("decode(%q) = %+v, of %d bytes", data, m, whole)
		}
		header := rest[digits+len(crlf):][:n]
		var h map[string]json.RawMessage
		if e := json.Unmarshal([]byte(header), &h); e != nil || m.PayloadSize != len(m.payload) || m.ID == "" || len(m.ID) > maxID {
			t.Fatalf("decode(%q) = %+v; header %q: %v", data, m, header, e)
		}
		// One whose end is cut off, or goes on, is another.
		if _, err := decode(data[:whole-1]); err == nil {
			t.Fatalf("decode takes %q without its last byte", data)
		}
		if _, err := decode(append(data[:whole:whole], 'x')); err == nil {
			t.Fatalf("decode takes %q and one byte more", data)
		}
		// Its id comes back as it was.
		if got := readBack(t, encodeAnswer(m.ID, 200, "OK", struct{}{})); got.Header["id"] != m.ID {
			t.Fatalf("id %q was answered as %q", m.ID, got.Header["id"])
		}
	})
}

// FuzzMapSID: a SID is that of one map, and each map has one SID.
func FuzzMapSID(f *testing.F) {
	for _, seed := range []string{
		"", "alice", "😀", "a/b?#%", "\x00", strings.Repeat("é", 128), "MPu", "MPuYWxpY2U", "MPcYWxpY2U", "MPxYWxpY2U",
		"MPuYWxpY2V", "MPuYWxpY2U=", "MPuYWxp\nY2U", "MPuYWxpY2U\r\n", "MPu\nYQ", "MPuYQ", "MPuYR", "mpuYQ", "MPu+/", "MPu-_", "\xff",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if kind, identity, ok := parseMapSID(s); ok {
			if back := mapSID(kind, identity); back != s || kind != userMap && kind != conversationsMap {
				t.Fatalf("parseMapSID(%q) = %c, %q, whose SID is %q", s, kind, identity, back)
			}
			if identity == "" || len(identity) > presence.MaxIdentity {
				t.Fatalf("parseMapSID(%q) is of an identity of %d bytes", s, len(identity))
			}
		}
		for _, kind := range []mapKind{userMap, conversationsMap} {
			sid := mapSID(kind, s)
			k, identity, ok := parseMapSID(sid)
			if fits := s != "" && len(s) <= presence.MaxIdentity; ok != fits || ok && (k != kind || identity != s) {
				t.Fatalf("parseMapSID(%q), of %q, = %c, %q, %v", sid, s, k, identity, ok)
			}
			if strings.ContainsAny(sid, "/?#%+= ") {
				t.Fatalf("SID %q has to be escaped in a URL", sid)
			}
		}
	})
}

const testService = "IS00000000000000000000000000000001"

// FuzzRoute: whatever a path says, it goes to one request or to none, and a variable
// part comes through as it was before it was escaped.
func FuzzRoute(f *testing.F) {
	for _, seed := range [][2]string{
		{"GET", "alice"},
		{"GET", "a/b ?#%😀"},
		{"POST", "%2F"},
		{"GET", ""},
		{"DELETE", "BS1"},
		{"GET", "."},
		{"GET", ".."},
		{"GET", "/v3/Maps/MPuYQ"},
		{"GET", "/Client/v2/Services/IS/Users/a%zz"},
		{"GET", "//"},
		{"GET", "%00%ff"},
	} {
		f.Add(seed[0], seed[1])
	}
	f.Fuzz(func(t *testing.T, method, s string) {
		req := func(method, path string) (request, bool) {
			var m message
			m.HTTP.Method, m.HTTP.Path = method, path
			return route(&m, testService)
		}
		if r, ok := req(method, s); ok != (r.handle != nil) || !ok && r.name != requestUnsupported || ok && !strings.HasPrefix(s, "/") {
			t.Fatalf("route(%s %q) = %+v, %v", method, s, r, ok)
		}
		escaped := percent(s)
		for _, tt := range []struct{ method, before, after, name string }{
			{"GET", "/Client/v2/Services/" + testService + "/Users/", "", requestUser},
			{"POST", "/Client/v2/Services/" + testService + "/Users/", "", requestUpdateUser},
			{"GET", "/Client/v2/Services/" + testService + "/Users/", "/Conversations", requestConversations},
			{"GET", "/v3/Maps/", "", requestMap},
			{"GET", "/v3/Maps/", "/Items", requestMapItems},
			{"DELETE", "/v1/registrations/", "", requestUnregister},
		} {
			r, ok := req(tt.method, tt.before+escaped+tt.after)
			if valid := strings.ToValidUTF8(s, "") == s; ok != valid || ok && (r.name != tt.name || len(r.args) != 1 || r.args[0] != s) {
				t.Fatalf("route(%s %s{%q}%s) = %s %q, %v; want %s", tt.method, tt.before, s, tt.after, r.name, r.args, ok, tt.name)
			}
			if r, ok := req(tt.method, tt.before+escaped+"/"+escaped+tt.after); ok && escaped != "" {
				t.Fatalf("route of a path with %q twice = %s", s, r.name)
			}
		}
		// Of another service there is nothing.
		if s != testService {
			if r, ok := req("GET", "/Client/v2/Services/"+escaped+"/Users/alice"); ok {
				t.Fatalf("route to a user of service %q = %s %q", s, r.name, r.args)
			}
		}
	})
}

// percent escapes every byte.
func percent(s string) string {
	var b strings.Builder
	for i := range len(s) {
		fmt.Fprintf(&b, "%%%02x", s[i])
	}
	return b.String()
}

func TestRoute(t *testing.T) {
	user := "/Client/v2/Services/" + testService + "/Users/"
	for _, tt := range []struct {
		method, path, want string
		args               []string
	}{
		{"GET", "/Client/v2/Configuration", requestConfiguration, nil},
		{"GET", "/Client/v2/%43onfiguration", requestConfiguration, nil},
		{"GET", user + "a%2Fb", requestUser, []string{"a/b"}},
		{"GET", user + "%f0%9f%98%80", requestUser, []string{"😀"}},
		{"GET", user + "a+b", requestUser, []string{"a+b"}},
		{"GET", user + "", requestUser, []string{""}},
		{"POST", "/v4/Subscriptions", "", nil},
		{"POST", "/v1/registrations", requestRegister, nil},
		{"DELETE", "/v1/registrations", requestUnregister, nil},
		{"DELETE", "/v1/registrations/BS1", requestUnregister, []string{"BS1"}},
		{"DELETE", user + "alice", requestUnsupported, nil},
		{"get", user + "alice", requestUnsupported, nil},
		{"", user + "alice", requestUnsupported, nil},
		{"GET", user + "%ff", requestUnsupported, nil},
		{"GET", user + "%zz", requestUnsupported, nil},
		{"GET", user + "%", requestUnsupported, nil},
		{"GET", user + "alice/", requestUnsupported, nil},
		{"GET", user[1:] + "alice", requestUnsupported, nil},
		{"GET", "/Client/v2/Services/IS2/Users/alice", requestUnsupported, nil},
		{"GET", "/Client/v2/Services/%7Bservice%7D/Users/alice", requestUnsupported, nil},
		{"GET", "/v3/Lists/x", requestUnsupported, nil},
		{"GET", "/v3/Documents/x", requestUnsupported, nil},
		{"GET", "", requestUnsupported, nil},
		{"GET", strings.Repeat("/", 60_000), requestUnsupported, nil},
	} {
		var m message
		m.HTTP.Method, m.HTTP.Path = tt.method, tt.path
		r, ok := route(&m, testService)
		if r.name != tt.want || ok != (tt.want != requestUnsupported) || !cmp.Equal(tt.args, r.args) {
			t.Errorf("route(%s %.80s) = %q %q, %v; want %q %q", tt.method, tt.path, r.name, r.args, ok, tt.want, tt.args)
		}
	}
}

// statuses is what each problem looks like in the tunnel. The SDK asks again after
// 502, 503 and 504, and after 429 where it reads.
var statuses = map[gateway.ErrorCode]int{
	gateway.ErrorInternal: 500, gateway.ErrorUnavailable: 503, gateway.ErrorTooManyWaiting: 503,
	gateway.ErrorUnknownType: 400, gateway.ErrorBadField: 400, gateway.ErrorTooManyIdentities: 400,
	gateway.ErrorIdentityEmpty: 400, gateway.ErrorIdentityTooLong: 400, gateway.ErrorIdentityEncoding: 400,
	gateway.ErrorSubscriptions: 429, gateway.ErrorRateLimited: 429, gateway.ErrorTooManySessions: 429,
	gateway.ErrorTokenIdentity: 403, gateway.ErrorTokenService: 403, gateway.ErrorNoService: 404,
	gateway.ErrorPushOff: 403, gateway.ErrorPushType: 400, gateway.ErrorPushAddress: 400, gateway.ErrorPushLife: 400,
	gateway.ErrorPushCredential: 400, gateway.ErrorTooManyBindings: 409,
	gateway.ErrorFriendlyName: 400, gateway.ErrorAttributesTooLong: 400, gateway.ErrorAttributes: 400, gateway.ErrorAttributesDepth: 400,
	gateway.ErrorHookRejected: 403, gateway.ErrorNoUser: 404, gateway.ErrorNotOwn: 403, gateway.ErrorNoMap: 404, gateway.ErrorUnsupported: 501,
	gateway.ErrorTokenInvalid: 401, gateway.ErrorTokenHeader: 401, gateway.ErrorTokenIssuer: 401, gateway.ErrorTokenExpired: 401,
	gateway.ErrorTokenNotYet: 401, gateway.ErrorTokenGrants: 401, gateway.ErrorTokenSignature: 401,
}

func TestStatuses(t *testing.T) {
	for _, e := range gateway.ErrorTexts() {
		want, ok := statuses[e.Code]
		if got := statusOf(e.Code); !ok || got != want {
			t.Errorf("statusOf(%s) = %d; want %d", e.Name, got, want)
		}
		got := readBack(t, encode(header{Method: methodReply, ID: "TM1", Status: problemStatus(&gateway.Problem{Code: e.Code})}, nil))
		wantHeader := map[string]any{"method": "reply", "id": "TM1", "payload_size": 0., "status": map[string]any{
			"code": float64(want), "status": http.StatusText(want), "description": e.Text, "errorCode": float64(e.Code),
		}}
		if diff := cmp.Diff(wantHeader, got.Header); diff != "" {
			t.Errorf("%s (-want +got):\n%s", e.Name, diff)
		}
	}
}

// TestRefusals: after 401 and 403 the SDK stays away until its application has another
// token, so a client gets them where the same token would not do a moment later.
func TestRefusals(t *testing.T) {
	for _, tt := range []struct {
		code  gateway.ErrorCode
		close gateway.CloseCode
		want  int
		retry float64
	}{
		{gateway.ErrorInternal, gateway.CloseInternal, 500, 0},
		{gateway.ErrorInternal, gateway.CloseEnded, 403, 0},
		{gateway.ErrorUnavailable, gateway.CloseUnavailable, 503, 0},
		{gateway.ErrorUnavailable, gateway.CloseSlow, 503, 0},
		{gateway.ErrorTooManyWaiting, gateway.CloseUnavailable, 503, 0},
		{gateway.ErrorTooManySessions, gateway.CloseTooMany, 429, 30_000},
		{gateway.ErrorNoService, gateway.CloseBadToken, 403, 0},
		{gateway.ErrorIdentityTooLong, gateway.CloseBadRequest, 403, 0},
		{gateway.ErrorIdentityEmpty, gateway.CloseBadRequest, 403, 0},
		{gateway.ErrorIdentityEncoding, gateway.CloseBadRequest, 403, 0},
		{gateway.ErrorTokenInvalid, gateway.CloseBadToken, 401, 0},
		{gateway.ErrorTokenHeader, gateway.CloseBadToken, 401, 0},
		{gateway.ErrorTokenIssuer, gateway.CloseBadToken, 401, 0},
		{gateway.ErrorTokenExpired, gateway.CloseBadToken, 401, 0},
		{gateway.ErrorTokenNotYet, gateway.CloseBadToken, 401, 0},
		{gateway.ErrorTokenGrants, gateway.CloseBadToken, 401, 0},
		{gateway.ErrorTokenSignature, gateway.CloseBadToken, 401, 0},
	} {
		got := readBack(t, encodeRefusal("TM1", &gateway.Problem{Code: tt.code, Close: tt.close}))
		st, _ := got.Header["status"].(map[string]any)
		if got.Header["method"] != "reply" || got.Header["id"] != "TM1" || st["code"] != float64(tt.want) || st["status"] != http.StatusText(tt.want) ||
			st["description"] != tt.code.Text() || st["errorCode"] != float64(tt.code) {
			t.Errorf("refusal of %d, %d = %v; want status %d", tt.code, tt.close, got.Header, tt.want)
		}
		policy, _ := got.Payload["backoff_policy"].(map[string]any)
		if retry, _ := policy["reconnect_min_ms"].(float64); retry != tt.retry {
			t.Errorf("refusal of %d, %d: come back after %v ms; want %v", tt.code, tt.close, retry, tt.retry)
		}
		var rule gateway.Reconnect
		for _, c := range gateway.Closes() {
			if c.Code == tt.close {
				rule = c.Reconnect
			}
		}
		if away := tt.want == 401 || tt.want == 403; away != (rule == gateway.ReconnectNever) && tt.close != gateway.CloseTooMany {
			t.Errorf("refusal of %d, %d has status %d; the close code's rule is %q", tt.code, tt.close, tt.want, rule)
		}
	}
}

func TestInitReply(t *testing.T) {
	session := presence.SessionID(strings.Repeat("0123456789abcdef", presence.SessionIDLen/16))
	own := "CT1" + string(session)
	kept := "CT1" + strings.Repeat("f", presence.SessionIDLen)
	off := "CT0" + strings.Repeat("e", presence.SessionIDLen)
	for name, tt := range map[string]struct{ given, token, reason string }{
		"first time":    {"", own, "MISSING"},
		"back":          {kept, kept, ""},
		"began off":     {off, off, ""},
		"neither":       {"CT2" + kept[3:], own, "INVALID"},
		"of nobody":     {"opaque", own, "INVALID"},
		"too long":      {kept + "0", own, "INVALID"},
		"not hex":       {"CT1" + strings.Repeat("g", presence.SessionIDLen), own, "INVALID"},
		"other hex":     {strings.ToUpper(kept), own, "INVALID"},
		"prefix alone":  {"CT1", own, "INVALID"},
		"quotes inside": {"CT1" + strings.Repeat(`"`, presence.SessionIDLen), own, "INVALID"},
	} {
		got := readBack(t, encodeInit("TM1", tt.given, continuationOf(tt.given, gateway.Welcome{Session: session, Service: presence.Service{Enabled: true}})))
		want := sent{Header: map[string]any{
			"method": "reply", "id": "TM1", "status": map[string]any{"code": 200., "status": "OK"}, "payload_size": 0.,
			"capabilities": []any{"client_update"}, "continuation_token": tt.token,
			"continuation_token_status": map[string]any{"reissued": tt.reason != "", "reissue_reason": tt.reason, "reissue_message": ""},
			"init_registrations":        []any{map[string]any{"product": "ip_messaging", "type": "ers", "status": map[string]any{"code": 201., "status": "CREATED"}}},
		}}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

// TestClosing: the frame that goes before each close, by which the SDK decides whether
// to come back by itself. 406 and 417 would leave it dead for good.
func TestClosing(t *testing.T) {
	want := map[gateway.CloseCode]int{
		gateway.CloseGoingAway: 308, gateway.CloseRestart: 308, gateway.CloseInternal: 308, gateway.CloseUnavailable: 308,
		gateway.CloseSlow: 308, gateway.CloseRateLimited: 308,
		gateway.CloseTokenExpired: 0, gateway.CloseEnded: 401,
		gateway.CloseBye: 0, gateway.CloseProtocol: 0, gateway.CloseNotUTF8: 0, gateway.CloseTooBig: 0, gateway.CloseNoPong: 0,
		gateway.CloseBadRequest: 0, gateway.CloseNoHello: 0, gateway.CloseTooMany: 0, gateway.CloseSubscriptions: 0,
	}
	h := &handler{}
	for _, c := range gateway.Closes() {
		code, ok := want[c.Code]
		if c.Code == gateway.CloseBadToken {
			// Not a close frame, after which it could not take another token for a while.
			if got := readBack(t, h.Closing(c.Code, 0)); got.Header["client_update_type"] != "token_about_to_expire" {
				t.Errorf("%s: Closing = %v; want a wish for another token", c.Name, got.Header)
			}
			continue
		}
		if !ok {
			t.Errorf("%s: no row in this test", c.Name)
			continue
		}
		for _, retry := range []time.Duration{0, 1234 * time.Millisecond} {
			frame := h.Closing(c.Code, retry)
			if code == 0 {
				if frame != nil {
					t.Errorf("%s: Closing = %q; want nothing", c.Name, frame)
				}
				continue
			}
			got := readBack(t, frame)
			st, _ := got.Header["status"].(map[string]any)
			if got.Header["method"] != "close" || got.Header["id"] == "" || st["code"] != float64(code) || st["status"] == "" {
				t.Errorf("%s: Closing = %v; want status %d", c.Name, got.Header, code)
			}
			policy, _ := got.Payload["backoff_policy"].(map[string]any)
			if ms, _ := policy["reconnect_min_ms"].(float64); ms != float64(retry.Milliseconds()) || retry == 0 && got.Payload != nil {
				t.Errorf("%s: payload = %v; want %v", c.Name, got.Payload, retry)
			}
		}
	}
}

// TestEncodeUpdate: what changed is what the SDK is told, under one id.
func TestEncodeUpdate(t *testing.T) {
	view := presence.Snapshot{
		Identity: "bob", SID: "US1", FriendlyName: new(`Bob "B" 😀`), Attributes: `{"a":"é"}`, Online: presence.True, Notifiable: presence.False, Rev: 1_790_000_000_123,
	}
	const (
		id    = "1790000000123 bob "
		named = id + `friendlyName {"value":"Bob \"B\" 😀"}`
		attrs = id + `attributes {"value":"{\"a\":\"é\"}"}`
		reach = id + `reachability {"notifiable":false,"online":true}`
	)
	gone := presence.Snapshot{Identity: "bob", Rev: 9}
	for name, tt := range map[string]struct {
		u    *fanout.Update
		want []string
	}{
		"online":       {&fanout.Update{Reasons: presence.ReasonOnline, View: view}, []string{reach}},
		"notifiable":   {&fanout.Update{Reasons: presence.ReasonNotifiable, View: view}, []string{reach}},
		"both":         {&fanout.Update{Reasons: presence.Reachability, View: view}, []string{reach}},
		"name":         {&fanout.Update{Reasons: presence.ReasonFriendlyName, View: view}, []string{named}},
		"attributes":   {&fanout.Update{Reasons: presence.ReasonAttributes, View: view}, []string{attrs}},
		"everything":   {&fanout.Update{Reasons: everything, View: view}, []string{named, attrs, reach}},
		"another user": {&fanout.Update{Another: true, View: view}, []string{named, attrs}},
		"another, on":  {&fanout.Update{Another: true, Reasons: presence.ReasonOnline, View: view}, []string{named, attrs, reach}},
		"deleted": {
			&fanout.Update{Another: true, Reasons: presence.ReasonOnline, View: gone},
			[]string{`9 bob friendlyName {"value":null}`, `9 bob attributes {"value":"{}"}`, `9 bob reachability {"notifiable":null,"online":null}`},
		},
		"nothing": {&fanout.Update{View: view}, nil},
	} {
		frame := encodeUpdate(tt.u, tt.u.View.Rev)
		var got []string
		if frame != nil {
			got = readBack(t, frame).events(t)
		}
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

func online(identity string, rev int64) *fanout.Update {
	return &fanout.Update{Reasons: presence.ReasonOnline, View: presence.Snapshot{Identity: identity, SID: "US1", Online: presence.True, Rev: rev}}
}

// TestAppendMerges: updates that follow each other become one notification, whatever
// they hold, and answers keep their place.
func TestAppendMerges(t *testing.T) {
	nasty := itemsHead + `{"id":7` + itemsTail + crlf + protocolLine + "7" + itemsHead
	tricky := &fanout.Update{Reasons: presence.ReasonAttributes, View: presence.Snapshot{Identity: itemsHead, SID: "US2", Attributes: nasty, Rev: 2}}
	answer := encodeAnswer("TM1", 200, "OK", map[string]string{"text": itemsHead})
	h := &handler{}
	data, err := json.Marshal(value{&nasty})
	if err != nil {
		t.Fatal(err)
	}
	var normal any
	if err := json.Unmarshal(data, &normal); err != nil {
		t.Fatal(err)
	}
	if data, err = json.Marshal(normal); err != nil {
		t.Fatal(err)
	}
	got := messages(t, h.Append(nil, []fanout.Item{
		{ServiceEnabled: presence.True},
		{Update: online("ann", 1)},
		{Update: &fanout.Update{View: presence.Snapshot{Identity: "quiet", Rev: 9}}}, // nothing that the SDK shows
		{Update: tricky},
		{Update: &fanout.Update{Reasons: everything, View: presence.Snapshot{Identity: "cyd", SID: "US3", Attributes: "{}", Rev: 3}}},
		{Frame: answer},
		{Update: online("dee", 4)},
	}))
	if len(got) != 3 {
		t.Fatalf("%d messages; want three", len(got))
	}
	want := []string{
		`1 ann reachability {"notifiable":null,"online":true}`,
		"2 " + itemsHead + " attributes " + string(data),
		`3 cyd friendlyName {"value":null}`, `3 cyd attributes {"value":"{}"}`, `3 cyd reachability {"notifiable":null,"online":null}`,
	}
	if diff := cmp.Diff(want, readMessage(t, got[0]).events(t)); diff != "" {
		t.Errorf("merged (-want +got):\n%s", diff)
	}
	if string(got[1]) != string(gateway.Payload(answer)) {
		t.Errorf("second message = %q; want the answer", got[1])
	}
	if diff := cmp.Diff([]string{`4 dee reachability {"notifiable":null,"online":true}`}, readMessage(t, got[2]).events(t)); diff != "" {
		t.Errorf("third message (-want +got):\n%s", diff)
	}
	if owed := h.owed.Load(); owed != 2 {
		t.Errorf("%d acknowledgements are owed; want one for each notification", owed)
	}
	if got := h.Append([]byte("before"), []fanout.Item{{ServiceEnabled: presence.False}}); string(got) != "before" {
		t.Errorf("Append of a switch = %q; want nothing more", got)
	}
}

func TestFrame(t *testing.T) {
	h := &handler{}
	if got := h.Frame(&fanout.Item{ServiceEnabled: presence.True}); got != nil {
		t.Errorf("Frame of a switch = %q; want nothing", got)
	}
	if got := h.Frame(&fanout.Item{Update: &fanout.Update{View: presence.Snapshot{Identity: "a", Rev: 1}}}); len(got) != 0 {
		t.Errorf("Frame of an update of nothing = %q; want nothing", got)
	}
	if got := h.Frame(&fanout.Item{Frame: []byte("x")}); string(got) != "x" {
		t.Errorf("Frame of an answer = %q; want it as it is", got)
	}
	if owed := h.owed.Load(); owed != 0 {
		t.Errorf("%d acknowledgements are owed; want none", owed)
	}
	h.Frame(&fanout.Item{Update: online("a", 2)})
	readBack(t, h.Expiring(time.Second))
	if owed := h.owed.Load(); owed != 2 {
		t.Errorf("%d acknowledgements are owed; want two", owed)
	}
}

// TestSharedFrameAllocatesNothing: what is sent of an update to each further
// subscriber is the one encoding, also to one that has floors for others.
func TestSharedFrameAllocatesNothing(t *testing.T) {
	item := fanout.Item{Update: online("bob", 1)}
	first := (&handler{}).Frame(&item)
	for name, h := range map[string]*handler{"none": {}, "floors": {floors: map[string]floor{"ann": {5, 7}, "bob": {}}}} {
		if got := h.Frame(&item); &got[0] != &first[0] {
			t.Errorf("%s: the frame is another", name)
		}
		if got := testing.AllocsPerRun(100, func() { h.Frame(&item) }); got != 0 {
			t.Errorf("%s: Frame allocates %v times; want 0", name, got)
		}
	}
}

func BenchmarkDecode(b *testing.B) {
	data := []byte(clientFrame(`{"id":"TM6f2a9c1e-7d3b-4a55-9f0e-0c8d1b2a3e4f","method":"message","active_grant":"ip_messaging","payload_type":"application/json",`+
		`"http_request":{"host":"cds.us1.twilio.com","path":"/v3/Maps/MPuYm9i","method":"GET","params":{"Include":"items"},`+
		`"headers":{"Content-Type":"application/json","Twilio-Request-Id":"RQ0123456789abcdef0123456789abcdef"}},"payload_size":0}`, ""))
	b.ReportAllocs()
	b.SetBytes(int64(len(data)))
	for b.Loop() {
		if _, err := decode(data); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkEncodeUpdate(b *testing.B) {
	u := online("bob", 1)
	b.ReportAllocs()
	for b.Loop() {
		encodeUpdate(u, u.View.Rev)
	}
}

func BenchmarkAppend(b *testing.B) {
	const n = 32
	b.Run(fmt.Sprintf("items=%d", n), func(b *testing.B) {
		items := make([]fanout.Item, n)
		for i := range items {
			items[i].Update = online(fmt.Sprint("user-", i), int64(i+1))
		}
		h := &handler{}
		var dst []byte
		b.ReportAllocs()
		for b.Loop() {
			dst = h.Append(dst[:0], items)
		}
	})
}

package native

import (
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/rollcall-presence/rollcall/fanout"
	"github.com/rollcall-presence/rollcall/gateway"
	"github.com/rollcall-presence/rollcall/presence"
)

// FuzzDecode: no message makes the decoder panic, what it lets through can be
// echoed, and identities come through as they were sent.
func FuzzDecode(f *testing.F) {
	for _, seed := range []string{
		`{"type":"hello","token":"x.y.z","known":{"bob":1790000000000},"invisible":true,"batch":true}`,
		`{"type":"subscribe","id":1,"identities":["alice","\ud83d\ude00"]}`,
		`{"type":"unsubscribe","id":"x","identities":[]}`,
		` {"type":"ping","id":null} `, `{"type":"ping","id":-1e9}`, `{"type":"ping","id":"\u0000"}`,
		`{"type":"subscribe","id":null,"identities":null}`, `{"type":"ping","Type":"bye"}`, `{"type":"hello","token":null,"known":{"a":1,"a":2},"batch":1}`,
		`{"known":{"a":1},"known":{"b":2}}`, `{"identities":["a"],"identities":[]}`, `{"type":"token","id":1.5e3,"token":"","x":{}}`, `{"id":[]}`, `{"known":{"a":null}}`,
		`{"type":7}`, `{"identities":[null]}`, `{"known":{"a":1.5}}`, `{"id":{"a":[1]}}`, `[]`, `{`, ``, "\xff", `{"type":"\udc00"}`,
		`{"type":"subscribe","identities":[` + strings.Repeat(`"a",`, 100) + `"a"]}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if !utf8.Valid(data) {
			return // refused before
		}
		r, err := decode(data)
		if want, wantErr := decodeAny(data); !errors.Is(err, wantErr) || !reflect.DeepEqual(r, want) {
			t.Fatalf("decode = %+v, %v; want %+v, %v", r, err, want, wantErr)
		}
		if len(r.ID) > maxID {
			t.Fatalf("an id of %d bytes", len(r.ID))
		}
		frame := gateway.Payload(encodeError(r.ID, &gateway.Problem{Code: gateway.ErrorBadField, Retry: time.Second}))
		var back struct {
			ID json.RawMessage `json:"id"`
		}
		if e := json.Unmarshal(frame, &back); e != nil || string(back.ID) != string(r.ID) {
			t.Fatalf("answer %s: %v; want id %s", frame, e, r.ID)
		}
		if err != nil || r.lone {
			return
		}
		for _, identity := range r.Identities {
			if !utf8.ValidString(identity) {
				t.Fatalf("identity %q is not UTF-8", identity)
			}
			if strings.ContainsRune(identity, utf8.RuneError) && !strings.ContainsRune(string(data), utf8.RuneError) &&
				!strings.Contains(strings.ToLower(string(data)), `\ufffd`) {
				t.Fatalf("identity %q was not sent", identity)
			}
		}
	})
}

// FuzzString: strings leave as JSON that reads back as what they were.
func FuzzString(f *testing.F) {
	for _, seed := range []string{"", "alice", "\"\\\x00\x1f\x7f", "é😀\u2028", "\xff\xfe a"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, s string) {
		var back string
		b := appendString(nil, s)
		if err := json.Unmarshal(b, &back); err != nil || back != strings.ToValidUTF8(s, "\ufffd") && utf8.ValidString(s) {
			t.Fatalf("%q became %s, read as %q (%v)", s, b, back, err)
		}
	})
}

func TestEncodeUpdate(t *testing.T) {
	name := `Bob "B"`
	left := time.Date(2026, 11, 22, 15, 4, 5, 123_000_000, time.UTC)
	u := &fanout.Update{
		Reasons: presence.ReasonOnline | presence.ReasonFriendlyName,
		View: presence.Snapshot{
			Identity: "bob", SID: "US1", FriendlyName: &name, Online: presence.False, Rev: 1_790_000_000_123, LastOnline: left,
		},
	}
	want := `{"type":"user.updated","update_reasons":["reachabilityOnline","friendlyName"],"user":{"identity":"bob","sid":"US1",` +
		`"friendly_name":"Bob \"B\"","is_online":false,"is_notifiable":null,"rev":1790000000123,"date_last_online":"2026-11-22T15:04:05.123Z"}}`
	if diff := cmp.Diff(want, string(gateway.Payload(encodeUpdate(u)))); diff != "" {
		t.Errorf("frame (-want +got):\n%s", diff)
	}
	gone := &fanout.Update{View: presence.Snapshot{Identity: "bob", Rev: 9}}
	want = `{"type":"user.updated","update_reasons":[],"user":{"identity":"bob","sid":null,"is_online":null,"is_notifiable":null,"rev":9,"date_last_online":null}}`
	if diff := cmp.Diff(want, string(gateway.Payload(encodeUpdate(gone)))); diff != "" {
		t.Errorf("frame of a deletion (-want +got):\n%s", diff)
	}
}

// TestFrameSizes: the three lengths of a header.
func TestFrameSizes(t *testing.T) {
	for _, n := range []int{0, 125, 126, 1<<16 - 1, 1 << 16, 1 << 17} {
		b := append(frame(n), make([]byte, n)...)
		got := gateway.TextFrame(b)
		if want := append(gateway.AppendTextHeader(nil, n), make([]byte, n)...); !cmp.Equal(want, got) || len(gateway.Payload(got)) != n {
			t.Errorf("TextFrame of %d bytes: %d bytes, payload %d", n, len(got), len(gateway.Payload(got)))
		}
	}
}

// TestAppendBatch: answers keep their place between batches.
func TestAppendBatch(t *testing.T) {
	answer := plain("pong", nil)
	items := []fanout.Item{
		{ServiceEnabled: presence.True},
		{Update: &fanout.Update{View: presence.Snapshot{Identity: "a"}}},
		{Frame: answer},
		{Update: &fanout.Update{View: presence.Snapshot{Identity: "b"}}},
	}
	var types []string
	h := &handler{batch: true}
	for b := h.Append(nil, items); len(b) > 0; {
		payload := gateway.Payload(b)
		var m struct{ Type string }
		dec := json.NewDecoder(strings.NewReader(string(payload)))
		if err := dec.Decode(&m); err != nil {
			t.Fatalf("%q: %v", payload, err)
		}
		types = append(types, m.Type)
		b = payload[dec.InputOffset():]
	}
	if diff := cmp.Diff([]string{"batch", "pong", "user.updated"}, types); diff != "" {
		t.Errorf("frames (-want +got):\n%s", diff)
	}
}

// TestSharedFrameAllocatesNothing: what is sent of an update to each further
// subscriber is the one encoding.
func TestSharedFrameAllocatesNothing(t *testing.T) {
	h := &handler{}
	item := fanout.Item{Update: &fanout.Update{View: presence.Snapshot{Identity: "bob"}}}
	h.Frame(&item)
	if got := testing.AllocsPerRun(100, func() { h.Frame(&item) }); got != 0 {
		t.Errorf("Frame allocates %v times; want 0", got)
	}
}

func BenchmarkDecode(b *testing.B) {
	for name, data := range map[string]string{
		"subscribe": `{"type":"subscribe","id":17,"identities":["alice","bob","carol"]}`,
		"hello":     `{"type":"hello","token":"` + strings.Repeat("x", 500) + `"}`,
	} {
		b.Run(name, func(b *testing.B) {
			data := []byte(data)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := decode(data); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkEncodeUpdate(b *testing.B) {
	u := &fanout.Update{Reasons: presence.ReasonOnline, View: presence.Snapshot{Identity: "bob", SID: "US1", Online: presence.True, Rev: 1}}
	b.ReportAllocs()
	for b.Loop() {
		encodeUpdate(u)
	}
}

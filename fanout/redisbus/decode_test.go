package redisbus_test

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/rollcall-presence/rollcall/fanout/redisbus"
	"github.com/rollcall-presence/rollcall/presence"
)

// transition is a message as a store's script publishes it.
const transition = `{"l":"1763800000123","i":"alice","s":"IS0123456789abcdef0123456789abcdef","v":"1763800000124","q":"1812","n":"0",` +
	`"ne":"3","r":"1763790000123456","m":1,"u":"US00a7456789abcdef0123456789abcdef","o":"1","e":"3"}`

var samples = []string{
	transition,
	`{"r":"1","q":"1","s":"IS0","i":"a","v":"1","m":0,"d":1}`,
	`{"r":"1","q":"1","s":"IS0","i":"a","v":"1","m":12,"f":"A \"n\" \u00e9 \/ \ud83d\ude00","a":"{\"k\":[1,2]}"}`,
	`{"r":"1","q":"1","s":"IS0"}`,
	` { "r" : "1" , "q" : 1 , "s" : "IS0", "later" : "unknown", "x": -7 } `,
	`{}`, `[]`, `{"r":1`, `{"r":"1",}`, `{"r":{}}`, `{"r":null}`, "{\"r\":\"\x01\"}", "{\"i\":\"\xff\"}", `{"i":""}`, `{"q":"-1"}`, `{"q":007}`,
	`{"v":"99999999999999999999"}`, `{"o":"2"}`, `{"o":"true"}`, `{"d":2}`, `{"f":"\x"}`, `{"f":"\`, `{"r":"1","q":"1","s":"IS0"}x`,
}

func TestDecode(t *testing.T) {
	name, zero := "A \"n\" é / 😀", ""
	for _, test := range []struct {
		in   string
		want presence.Event
	}{
		{transition, presence.Event{Reasons: presence.ReasonOnline, User: presence.User{
			Key: presence.Key{Service: "IS0123456789abcdef0123456789abcdef", Identity: "alice"}, SID: "US00a7456789abcdef0123456789abcdef",
			Rev: 1763800000124, Online: presence.True, Notifiable: presence.False, Epoch: 3, NotifiableEpoch: 3,
			LastOnline: time.UnixMilli(1763800000123).UTC(),
		}}},
		{samples[1], presence.Event{Deleted: true, User: presence.User{Key: presence.Key{Service: "IS0", Identity: "a"}, Rev: 1}}},
		{samples[2], presence.Event{Reasons: presence.ReasonFriendlyName | presence.ReasonAttributes, User: presence.User{
			Key: presence.Key{Service: "IS0", Identity: "a"}, Rev: 1, FriendlyName: &name, Attributes: `{"k":[1,2]}`,
		}}},
		{samples[3], presence.Event{User: presence.User{Key: presence.Key{Service: "IS0"}}}},
		{samples[4], presence.Event{User: presence.User{Key: presence.Key{Service: "IS0"}}}},
		{`{"r":"1","q":"1","s":"IS0","m":255,"f":""}`, presence.Event{ // what newer nodes tell of is not for us
			Reasons: 15, User: presence.User{Key: presence.Key{Service: "IS0"}, FriendlyName: &zero},
		}},
	} {
		_, _, got, err := redisbus.Decode(test.in)
		if err != nil {
			t.Errorf("decode(%s) = %v", test.in, err)
		} else if diff := cmp.Diff(test.want, got); diff != "" {
			t.Errorf("decode(%s) (-want +got):\n%s", test.in, diff)
		}
	}
	if run, seq, _, _ := redisbus.Decode(transition); run != "1763790000123456" || seq != 1812 {
		t.Errorf("decode: run %s, seq %d; want 1763790000123456, 1812", run, seq)
	}
	for _, bad := range samples[5:] {
		if _, _, e, err := redisbus.Decode(bad); err == nil {
			t.Errorf("decode(%q) = %v; want an error", bad, e)
		}
	}
}

func TestDecodeBounds(t *testing.T) {
	// The largest event there may be, with every byte escaped, can be read.
	name := strings.Repeat("\u2028", presence.MaxFriendlyName)
	e := presence.Event{Reasons: 15, User: presence.User{
		Key: presence.Key{Service: "IS0123456789abcdef0123456789abcdef", Identity: strings.Repeat("\x01", presence.MaxIdentity)},
		SID: "US0123456789abcdef0123456789abcdef", Rev: 1, FriendlyName: &name, Attributes: strings.Repeat("\x01", presence.MaxAttributes),
	}}
	if _, _, got, err := redisbus.Decode(message(t, "1", 1, e)); err != nil || !cmp.Equal(got, e) {
		t.Errorf("decode of the largest event: error %v, or it differs", err)
	}
	if _, _, _, err := redisbus.Decode(transition + strings.Repeat(" ", redisbus.MaxMessage)); err == nil {
		t.Error("decode of an endless message: no error")
	}
}

func FuzzDecode(f *testing.F) {
	for _, s := range samples {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, payload string) {
		run, seq, e, err := redisbus.Decode(payload)
		if err != nil {
			return
		}
		if !json.Valid([]byte(payload)) {
			t.Fatalf("decode(%q) took what is not JSON", payload)
		}
		if e.User.Identity == "" {
			return
		}
		if e.Deleted { // says nothing else
			e.User = presence.User{Key: e.User.Key, Rev: e.User.Rev}
		}
		again := message(t, run, seq, e)
		run2, seq2, e2, err := redisbus.Decode(again)
		if err != nil || run2 != run || seq2 != seq || !cmp.Equal(e, e2) {
			t.Fatalf("decode(%q) = %v, %v; of that again: %v, %v", payload, e, err, e2, err)
		}
	})
}

func BenchmarkDecode(b *testing.B) {
	b.ReportAllocs()
	b.SetBytes(int64(len(transition)))
	for b.Loop() {
		if _, _, _, err := redisbus.Decode(transition); err != nil {
			b.Fatal(err)
		}
	}
}

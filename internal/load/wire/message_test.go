package wire_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"testing"
	"unsafe"

	"pgregory.net/rapid"

	"github.com/rollcall-presence/rollcall/internal/load/wire"
)

func users(m []byte) (list []string) {
	wire.Users(m, func(u wire.User) { list = append(list, fmt.Sprintf("%s %t %d", u.Identity, u.Online, u.Rev)) })
	return list
}

func TestReadsMessages(t *testing.T) {
	for name, tt := range map[string]struct {
		message string
		kind    wire.Kind
		users   []string
	}{
		"welcome": {
			`{"type":"welcome","session":"5b1f","service_sid":"IS1","identity":"me","reachability_enabled":true,"ping_interval_ms":25000,` +
				`"user":{"identity":"me","sid":"US1","friendly_name":null,"attributes":"{}","is_online":true,"is_notifiable":null,"rev":7,"date_last_online":null},` +
				`"users":[{"identity":"a","sid":"US2","friendly_name":"x","attributes":"{}","is_online":false,"is_notifiable":false,"rev":5,"date_last_online":null}]}`,
			wire.Welcome,
			[]string{"me true 7", "a false 5"},
		},
		"welcome of nobody else": {`{"type":"welcome","identity":"me","user":{"identity":"me","is_online":null,"rev":1},"users":[]}`, wire.Welcome, []string{"me false 1"}},
		"no user yet":            {`{"type":"subscribed","id":1,"users":[{"identity":"a","sid":null,"is_online":null,"rev":0}]}`, wire.Subscribed, []string{"a false 0"}},
		"an update": {
			`{"type":"user.updated","update_reasons":["reachabilityOnline"],"user":{"identity":"a","sid":"US1","is_online":true,"is_notifiable":null,"rev":1790000000123,"date_last_online":"2026-11-22T15:04:05.123Z"}}`,
			wire.Updated,
			[]string{"a true 1790000000123"},
		},
		"a batch": {
			`{"type":"batch","messages":[{"type":"user.updated","user":{"identity":"a","is_online":true,"rev":1}},{"type":"user.updated","user":{"identity":"b","is_online":null,"rev":2}}]}`,
			wire.Batch,
			[]string{"a true 1", "b false 2"},
		},
		"quotes in names": {
			`{"type":"user.updated","user":{"identity":"a\"b","sid":"U","friendly_name":"\"identity\":\"c\",\"is_online\":true,\"rev\":9","is_online":false,"rev":3}}`,
			wire.Updated,
			[]string{`a\"b false 3`},
		},
		"a backslash at the end": {`{"type":"user.updated","user":{"identity":"a\\","is_online":true,"rev":3}}`, wire.Updated, []string{`a\\ true 3`}},
		"expiring":               {`{"type":"token.expiring","expires_in_ms":60000}`, wire.Expiring, nil},
		"another":                {`{"type":"service.updated","reachability_enabled":false}`, wire.Other, nil},
		"nothing":                {``, wire.Other, nil},
		"no JSON":                {`"type":"welcome`, wire.Other, nil},
		"cut off":                {`{"type":"user.updated","user":{"identity":"a`, wire.Updated, nil},
		"a number too large":     {`{"type":"user.updated","user":{"identity":"a","is_online":true,"rev":99999999999999999999}}`, wire.Updated, []string{"a true 9223372036854775807"}},
	} {
		t.Run(name, func(t *testing.T) {
			if kind := wire.KindOf([]byte(tt.message)); kind != tt.kind {
				t.Errorf("KindOf = %d; want %d", kind, tt.kind)
			}
			if got := users([]byte(tt.message)); !slices.Equal(got, tt.users) {
				t.Errorf("Users = %q; want %q", got, tt.users)
			}
		})
	}
	m := []byte(`{"type":"error","code":20107,"message":"Invalid Access Token signature"}`)
	if code, text := wire.Problem(m); wire.KindOf(m) != wire.Error || code != 20107 || text != "Invalid Access Token signature" {
		t.Errorf("Problem = %d %q", code, text)
	}
}

// user is one as the server writes it, with whatever it holds.
type user struct {
	Identity     string `json:"identity"`
	SID          string `json:"sid"`
	FriendlyName string `json:"friendly_name"`
	Attributes   string `json:"attributes"`
	Online       *bool  `json:"is_online"`
	Notifiable   *bool  `json:"is_notifiable"`
	Rev          int64  `json:"rev"`
}

// What is found by its bytes is what a JSON decoder finds, whatever texts users have.
func TestAgreesWithJSON(t *testing.T) {
	nasty := rapid.OneOf(rapid.String(), rapid.SampledFrom([]string{
		`","is_online":true,"rev":1`, `"identity":"x`, `"type":"batch"`, `\`, `\"`, `a\\`, "\u2028<>&", `{"rev":5}`,
	}))
	rapid.Check(t, func(rt *rapid.T) {
		var list []user
		var want []string
		for range rapid.IntRange(0, 4).Draw(rt, "users") {
			u := user{
				Identity: nasty.Draw(rt, "identity"), SID: nasty.Draw(rt, "sid"), FriendlyName: nasty.Draw(rt, "name"), Attributes: nasty.Draw(rt, "attributes"),
				Online: rapid.Ptr(rapid.Bool(), true).Draw(rt, "online"), Rev: rapid.Int64Range(0, 1<<53).Draw(rt, "rev"),
			}
			escaped, _ := json.Marshal(u.Identity)
			list = append(list, u)
			want = append(want, fmt.Sprintf("%s %t %d", escaped[1:len(escaped)-1], u.Online != nil && *u.Online, u.Rev))
		}
		m, _ := json.Marshal(struct {
			Type  string `json:"type"`
			Users []user `json:"users"`
		}{"subscribed", list})
		if got := users(m); wire.KindOf(m) != wire.Subscribed || !slices.Equal(got, want) {
			rt.Fatalf("of %s: kind %d, users %q; want %q", m, wire.KindOf(m), got, want)
		}
	})
}

// The reader of messages takes any bytes without harm, and tells of nothing that is not there.
func FuzzMessage(f *testing.F) {
	f.Add([]byte(`{"type":"batch","messages":[{"type":"user.updated","user":{"identity":"a","is_online":true,"rev":1}}]}`))
	f.Add([]byte(`"identity":""identity":"\"is_online":`))
	f.Add([]byte(`{"type":"error","code":101,"message":"x\\"}`))
	f.Fuzz(func(t *testing.T, m []byte) {
		before := bytes.Clone(m)
		if k := wire.KindOf(m); k > wire.Error {
			t.Errorf("KindOf = %d", k)
		}
		if code, _ := wire.Problem(m); code < 0 {
			t.Errorf("the code is %d", code)
		}
		n := 0
		wire.Users(m, func(u wire.User) {
			n++
			if u.Rev < 0 {
				t.Errorf("the revision is %d", u.Rev)
			}
			if len(u.Identity) > 0 {
				at := uintptr(unsafe.Pointer(&u.Identity[0])) - uintptr(unsafe.Pointer(&m[0]))
				if at+uintptr(len(u.Identity)) > uintptr(len(m)) {
					t.Error("an identity lies outside of the message")
				}
			}
		})
		if n > bytes.Count(m, []byte(`"is_online":`)) {
			t.Errorf("%d users of %q", n, m)
		}
		if !bytes.Equal(m, before) {
			t.Error("the message was changed")
		}
	})
}

// To read an update allocates nothing.
func TestReadingAllocatesNothing(t *testing.T) {
	m := []byte(`{"type":"user.updated","update_reasons":["reachabilityOnline"],"user":{"identity":"user-00000000000000001","sid":"US1","is_online":true,"is_notifiable":null,"rev":1790000000123}}`)
	if n := testing.AllocsPerRun(100, func() {
		if wire.KindOf(m) != wire.Updated {
			t.Error("no update")
		}
		wire.Users(m, func(wire.User) {})
	}); n > 0 {
		t.Errorf("%v allocations", n)
	}
}

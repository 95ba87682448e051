package keys_test

import (
	"strings"
	"testing"

	"github.com/rollcall-presence/rollcall/internal/keys"
	"github.com/rollcall-presence/rollcall/presence"
)

const service = "IS0123456789abcdef0123456789abcdef"

// slotTag is the part of a key that Redis Cluster hashes.
func slotTag(key string) string {
	i := strings.IndexByte(key, '{')
	if i < 0 {
		return key
	}
	j := strings.IndexByte(key[i+1:], '}')
	if j <= 0 {
		return key
	}
	return key[i+1 : i+1+j]
}

// No two users may meet on one key, and all keys of a user share a slot.
func FuzzKeys(f *testing.F) {
	f.Add("alice", "bob")
	f.Add("alice", "alice")
	f.Add("a:u:b", "a")
	f.Add("}{", "{p001}")
	f.Add("on:x", "\x00")
	f.Fuzz(func(t *testing.T, a, b string) {
		k := keys.Keys{Prefix: "rc:", Partitions: 256}
		ka, kb := presence.Key{Service: service, Identity: a}, presence.Key{Service: service, Identity: b}
		if (k.User(ka) == k.User(kb)) != (a == b) || (k.BindingsOf(ka) == k.BindingsOf(kb)) != (a == b) {
			t.Errorf("keys of %q and %q meet", a, b)
		}
		if of := map[string]bool{k.User(ka): true, k.BindingsOf(kb): true, k.OnBlock(k.Of(ka), service, 1): true}; len(of) != 3 {
			t.Errorf("of user, bindings and online keys of %q and %q two are one: %v", a, b, of)
		}
		if (k.BindingSID(ka, presence.PushFCM, b) == k.BindingSID(kb, presence.PushFCM, a)) != (a == b) {
			t.Errorf("bindings of %q at %q and the other way round have one SID", a, b)
		}
		p := k.Of(ka)
		want := slotTag(k.Base(p))
		for _, key := range []string{k.User(ka), k.OnBlock(p, service, 1), k.Users(p, service), k.UserRoles(p, service), k.NodeBlocks(p, "n"), k.BindingsOf(ka), k.Bindings(p, service), k.BindingSIDs(p, service), k.BindingsWith(p, "CR"), k.Unsettled(p), k.Online(p, service), k.State(p, service), k.Seq(p)} {
			if slotTag(key) != want {
				t.Errorf("slot tag of %q = %q; want %q", key, slotTag(key), want)
			}
			if key == k.User(ka) && key != k.User(kb) && (key == k.Users(p, service) || key == k.UserRoles(p, service) || key == k.Bindings(p, service) || key == k.BindingSIDs(p, service) || key == k.Online(p, service) || key == k.State(p, service)) {
				t.Errorf("user key %q is an index key", key)
			}
		}
	})
}

func TestOfSID(t *testing.T) {
	k := keys.Keys{Prefix: "rc:", Partitions: 256}
	rest := strings.Repeat("0", 28)
	for _, c := range []struct {
		sid  string
		want presence.Partition
		ok   bool
	}{
		{keys.SIDPrefix(0) + rest, 0, true},
		{keys.SIDPrefix(255) + rest, 255, true},
		{keys.SIDPrefix(256) + rest, 0, false},
		{k.BindingSID(presence.Key{Service: service, Identity: "a"}, presence.PushAPN, "b"), k.Of(presence.Key{Service: service, Identity: "a"}), true},
		{"IS00" + rest, 0, false},
		{"US", 0, false},
		{"alice", 0, false},
	} {
		if got, ok := k.OfSID(c.sid); got != c.want || ok != c.ok {
			t.Errorf("OfSID(%q) = %v, %v; want %v, %v", c.sid, got, ok, c.want, c.ok)
		}
	}
}

// Users spread over the partitions, so that heartbeats, events and reaping do.
func TestOfSpreads(t *testing.T) {
	k := keys.Keys{Prefix: "rc:", Partitions: 16}
	count := make([]int, 16)
	for i := range 16000 {
		count[k.Of(presence.Key{Service: service, Identity: "user" + strings.Repeat("x", i%7) + string(rune('a'+i%26)) + string(rune(0x400+i))})]++
	}
	for p, n := range count {
		if n < 700 || n > 1300 {
			t.Errorf("partition %d holds %d of 16000; want about 1000", p, n)
		}
	}
}

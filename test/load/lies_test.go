package load

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	"github.com/rollcall-presence/rollcall/internal/testkit"
	"github.com/rollcall-presence/rollcall/internal/testkit/rig"
)

// against are the flags for a node of the rig that clients reach at an address.
func against(n *rig.Node, redisURL, ws string) []string {
	return []string{"--url", ws, "--admin", "http://" + n.Admin, "--redis", redisURL, "--account-sid", rig.Account, "--api-key-sid", rig.KeySID}
}

// tampering makes a new function for a meddler.
type tampering func() func(c *through, m []byte) [][]byte

// untouched passes everything on.
func untouched() func(*through, []byte) [][]byte {
	return func(_ *through, m []byte) [][]byte { return [][]byte{m} }
}

// ofOne has f change the updates of one connection, the first that has any; n counts them from 1.
func ofOne(f func(c *through, n int, m []byte) [][]byte) tampering {
	return func() func(*through, []byte) [][]byte {
		var victim *through
		n := 0
		return func(c *through, m []byte) [][]byte {
			if !isUpdate(m) || victim != nil && victim != c {
				return [][]byte{m}
			}
			victim = c
			n++
			return f(c, n, m)
		}
	}
}

// third has f change the third update of one connection.
func third(f func(c *through, m []byte) [][]byte) tampering {
	return ofOne(func(c *through, n int, m []byte) [][]byte {
		if n == 3 {
			return f(c, m)
		}
		return [][]byte{m}
	})
}

// swapped tells the third update of one connection after the fourth.
func swapped() func(*through, []byte) [][]byte {
	var held []byte
	return ofOne(func(_ *through, n int, m []byte) [][]byte {
		switch n {
		case 3:
			held = m
			return nil
		case 4:
			return [][]byte{m, held}
		default:
			return [][]byte{m}
		}
	})()
}

// invented tells one session, once it is subscribed, that the user whom it watches has gone.
func invented() func(*through, []byte) [][]byte {
	const users = `"users":[`
	done := false
	return func(_ *through, m []byte) [][]byte {
		i := bytes.Index(m, []byte(users+"{"))
		if done || i < 0 || !bytes.Contains(m, []byte(`"type":"subscribed"`)) || !bytes.Contains(m, []byte(`"is_online":true`)) {
			return [][]byte{m}
		}
		done = true
		user := bytes.TrimSuffix(m[i+len(users):], []byte("]}"))
		return [][]byte{m, turned(slices.Concat([]byte(`{"type":"user.updated","update_reasons":["reachabilityOnline"],"user":`), user, []byte("}")))}
	}
}

// changed has the first session that comes back, and is told nothing since nothing changed, be told of a change.
func changed() func(*through, []byte) [][]byte {
	const users, none = `"users":[`, `"users":[]`
	done := false
	known := map[string][]byte{} // by identity, whom a session watches
	return func(c *through, m []byte) [][]byte {
		switch {
		case bytes.Contains(m, []byte(`"type":"welcome"`)):
			c.identity = string(identity.Find(m))
			if user := known[c.identity]; user != nil && !done && bytes.HasSuffix(m, []byte(none+"}")) {
				done = true
				return [][]byte{bytes.Replace(m, []byte(none), slices.Concat([]byte(users), raised(user), []byte("]")), 1)}
			}
		case bytes.Contains(m, []byte(`"type":"subscribed"`)):
			if _, list, ok := bytes.Cut(m, []byte(users)); ok {
				known[c.identity] = bytes.TrimSuffix(list, []byte("]}"))
			}
		}
		return [][]byte{m}
	}
}

const (
	acts = "celebrity --sessions 20 --acts 3 --for 3s"
	none = "idle --sessions 20 --for 2s --at-rest=false"
)

// lies are what a gateway can do wrong, and how the report must name it.
var lies = []struct {
	name, args string
	tamper     tampering
	broken     []string // the checks that must not hold
	may        []string // those that may not hold either, as follows from the lie
	got        string   // what the first of broken must have found; anything if empty
	note       string   // must be in a note
}{
	{
		// first, since the program waits half a minute for what is missing
		name: "the last updates are lost", args: acts, broken: []string{"events missing"},
		tamper: ofOne(func(_ *through, n int, m []byte) [][]byte {
			if n > 3 {
				return nil
			}
			return [][]byte{m}
		}),
	},
	{name: "none at all", args: acts, tamper: untouched}, // the proxy itself is not found out
	{
		// the next update of the user tells of two acts at once, which no node said that it merged
		name: "an update is lost", args: acts, broken: []string{"events merged"}, got: "1",
		tamper: third(func(*through, []byte) [][]byte { return nil }),
	},
	{
		name: "an update is told twice", args: acts, broken: []string{"revisions out of order"}, got: "1",
		tamper: third(func(_ *through, m []byte) [][]byte { return [][]byte{m, m} }),
	},
	{
		// the one that comes first tells of two acts at once
		name: "two updates change places", args: acts, broken: []string{"revisions out of order", "events merged"}, got: "1",
		tamper: swapped,
	},
	{
		// the true one that comes next may have the revision that was invented
		name: "an update of no act", args: acts, broken: []string{"events unexpected"}, got: "1", may: []string{"revisions out of order", "events missing"},
		tamper: third(func(_ *through, m []byte) [][]byte { return [][]byte{m, turned(m)} }),
	},
	{
		name: "an update of a user who did nothing", args: none, broken: []string{"events unexpected"}, got: "1",
		tamper: invented,
	},
	{
		name: "an update of a stranger", args: acts, broken: []string{"connections lost"}, got: "1", note: "who is nobody's friend", may: []string{"events merged"},
		tamper: third(func(_ *through, m []byte) [][]byte {
			return [][]byte{bytes.Replace(m, []byte(`"identity":"user-`), []byte(`"identity":"nobody-`), 1)}
		}),
	},
	{
		name: "a connection is cut", args: acts, broken: []string{"connections lost"}, got: "1", note: "ended by the other side: 1 ×",
		tamper: third(func(c *through, _ []byte) [][]byte { c.cut(); return nil }),
	},
	{
		name: "a change that a reload is told of", args: "reload --sessions 20 --acts 20 --watch 1 --back 300ms --linger 1s --for 2s",
		broken: []string{"events unexpected"}, may: []string{"revisions out of order"}, tamper: changed,
	},
}

// TestLies plays scenarios against a gateway that does one thing wrong: the exit status must tell, and the report must name it.
func TestLies(t *testing.T) {
	t.Parallel()
	redisURL := "redis://" + testkit.Redis(t).Addr
	n := rig.Start(t, redisURL)
	t.Run("", func(t *testing.T) { // returns when all have ended
		for _, l := range lies {
			t.Run(l.name, func(t *testing.T) {
				t.Parallel()
				ws := meddlesome(t, n.Addr, l.tamper())
				status := 0
				if len(l.broken) > 0 {
					status = 1
				}
				r := play(t, status, append(strings.Fields(l.args), against(n, redisURL, ws)...)...)
				got := broken(r)
				for _, name := range l.broken {
					if !slices.Contains(got, name) {
						t.Errorf("%q holds: %+v", name, checked(t, r, name))
					}
				}
				for _, name := range got {
					if !slices.Contains(l.broken, name) && !slices.Contains(l.may, name) {
						t.Errorf("%q does not hold: %+v", name, checked(t, r, name))
					}
				}
				if l.got != "" {
					if c := checked(t, r, l.broken[0]); c.Got != l.got {
						t.Errorf("%s: %s; want %s to be found", c.Name, c.Got, l.got)
					}
				}
				if !strings.Contains(strings.Join(r.Notes, "\n"), l.note) {
					t.Errorf("the notes say nothing of %q: %q", l.note, r.Notes)
				}
			})
		}
	})
	// It had a service for each run, which must be gone.
	var list struct {
		Services []struct {
			Name string `json:"friendly_name"`
		} `json:"services"`
	}
	if code := n.REST("GET", "/v1/Services?PageSize=100", nil, &list); code != 200 {
		t.Fatalf("listing services: %d", code)
	}
	for _, s := range list.Services {
		if strings.HasPrefix(s.Name, "rollcall-load") {
			t.Errorf("the service %q was left behind", s.Name)
		}
	}
}

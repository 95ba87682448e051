package presencetest

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/rollcall-presence/rollcall/presence"
)

// An operator ends one session, and then all that are left; with the last the user is
// offline at once, even where it lingered.
func endSessions(t *testing.T, h *Harness) {
	w := newWorld(t, h, true)
	w.register("n1", "ada", 1)
	w.register("n2", "ada", 2)
	w.register("n2", "bob", 3)
	w.Events()
	want := []presence.UserSession{{ID: sessionID(1), Node: "n1"}, {ID: sessionID(2), Node: "n2"}}
	if diff := cmp.Diff(want, must(w.Store.UserSessions(w.ctx, w.key("ada")))(t)); diff != "" {
		t.Errorf("UserSessions (-want +got):\n%s", diff)
	}
	end := func(identity string, id presence.SessionID, want int) {
		t.Helper()
		if n := must(w.Store.EndSessions(w.ctx, w.key(identity), w.service, id))(t); n != want {
			t.Errorf("EndSessions(%s, %q) = %d; want %d", identity, id, n, want)
		}
	}
	end("ada", sessionID(3), 0) // another user's
	end("nobody", "", 0)
	end("ada", sessionID(1), 1)
	w.wantEvents("one of two ended")
	if b := w.beat("n1", "ada"); !slices.Equal(b.End, []presence.SessionID{sessionID(1)}) {
		t.Errorf("sessions that n1 is to end = %v; want the one", b.End)
	}
	if got := w.register("n1", "ada", 1); got != presence.Refused {
		t.Errorf("registering an ended session = %v; want refused", got)
	}
	end("ada", "", 1)
	w.wantEvents("the other ended", presence.False)
	if b := w.beat("n2", "ada"); !slices.Equal(b.End, []presence.SessionID{sessionID(2)}) {
		t.Errorf("sessions that n2 is to end = %v; want the one", b.End)
	}
	end("ada", "", 0)
	w.end("n2", "ada", 2, Linger) // the node closed it
	h.Advance(2 * Linger)
	w.beat("n2", "ada")
	w.wantEvents("ended again")
	w.wantOnline("all ended", "ada", presence.False)

	w.end("n2", "bob", 3, Linger)
	w.wantEvents("lingering")
	end("bob", "", 0)
	w.wantEvents("a lingering user ended", presence.False)
}

// Presence answers in the order asked, unknown users among them, with the service.
func presenceOfMany(t *testing.T, h *Harness) {
	w := newWorld(t, h, true)
	w.register("n1", "ada", 1)
	must(w.Store.CreateUser(w.ctx, w.key("bob"), presence.UserUpdate{}))(t)
	other := newWorld(t, h, true)
	other.register("n1", "eve", 2)

	asked := []string{"bob", "eve", "ada", "bob"}
	service, users, err := w.Store.Presence(w.ctx, w.service.SID, asked)
	if err != nil || service != w.service {
		t.Fatalf("Presence = %+v, %v; want %+v", service, err, w.service)
	}
	want := []presence.User{w.stored("bob"), {Key: w.key("eve")}, w.stored("ada"), w.stored("bob")}
	for i := range want {
		want[i] = bare(want[i])
	}
	if diff := cmp.Diff(want, slices.Collect(users)); diff != "" {
		t.Errorf("Presence (-want +got):\n%s", diff)
	}
	if _, _, err := w.Store.Presence(w.ctx, "IS00000000000000000000000000000000", asked); !errors.Is(err, presence.ErrNoService) {
		t.Errorf("Presence in no service: %v; want ErrNoService", err)
	}
}

// bare is a user without the profile, which is not read of many.
func bare(u presence.User) presence.User {
	u.FriendlyName, u.Attributes, u.Role, u.Created, u.Updated = nil, "", "", time.Time{}, time.Time{}
	return u
}

// stored is a user as recorded.
func (w *world) stored(identity string) presence.User {
	return must(w.Store.ReadUsers(w.ctx, []presence.Key{w.key(identity)}))(w.t)[0]
}

// Pages of online users: each once where nothing changes, and nobody who stays online
// is missed where others come, go and change while one pages.
func onlineUsers(t *testing.T, h *Harness) {
	w := newWorld(t, h, true)
	const n = 120
	name := func(i int) string { return fmt.Sprintf("user%03d", i) }
	for i := range n {
		w.register("n1", name(i), i)
	}
	must(w.Store.CreateUser(w.ctx, w.key("offline"), presence.UserUpdate{}))(t)
	other := newWorld(t, h, true)
	other.register("n1", "eve", n)

	read := func(limit int, between func(page int)) (list []string) {
		cursor := ""
		for page := 0; ; page++ {
			p, count, err := w.Store.OnlineUsers(w.ctx, w.service.SID, cursor, limit)
			if err != nil {
				t.Fatal(err)
			}
			if page == 0 && count != n {
				t.Errorf("%d online; want %d", count, n)
			}
			for _, u := range p.Items {
				list = append(list, u.Identity)
			}
			if p.Next == "" {
				return list
			}
			cursor = p.Next
			between(page)
		}
	}
	var all []string
	for i := range n {
		all = append(all, name(i))
	}
	for _, limit := range []int{1, 7, n - 1, n, n + 1, 1000} {
		if diff := cmp.Diff(all, read(limit, func(int) {})); diff != "" {
			t.Errorf("pages of %d (-want +got):\n%s", limit, diff)
		}
	}
	seen := read(10, func(page int) {
		changed := new(fmt.Sprint(page))
		must(w.Store.UpdateUser(w.ctx, w.key(name(n-1)), presence.UserUpdate{FriendlyName: changed}))(t)
		if page < 5 {
			w.end("n1", name(page), page, 0)
			w.register("n1", name(page), page)
		}
	})
	slices.Sort(seen)
	if diff := cmp.Diff(all, slices.Compact(seen)); diff != "" {
		t.Errorf("pages while users change (-want +got):\n%s", diff)
	}
	if _, _, err := w.Store.OnlineUsers(w.ctx, w.service.SID, "nonsense", 1); presence.KindOf(err) != presence.KindInvalid || err == nil {
		t.Errorf("a cursor that is none: %v; want KindInvalid", err)
	}
	place := must(w.Store.Moment(w.ctx))(t).Place(w.service).String()
	if _, _, err := w.Store.OnlineUsers(w.ctx, w.service.SID, place, 1); presence.KindOf(err) != presence.KindInvalid || err == nil {
		t.Errorf("a cursor of changes: %v; want KindInvalid", err)
	}
}

// Places that cannot be gone on from are refused, and told from those that can.
func places(t *testing.T, h *Harness) {
	w := newWorld(t, h, true)
	w.register("n1", "ada", 1)
	h.Advance(time.Second)
	m := must(w.Store.Moment(w.ctx))(t)
	first := must(w.Store.Changes(w.ctx, w.service, presence.Place{}, 10, m))(t)
	if len(first.Items) != 1 || first.More || first.Next != m.Place(w.service) {
		t.Fatalf("the first page = %+v; want one user, and nothing more", first)
	}
	at := first.Next
	try := func(what string, from presence.Place, want error) {
		t.Helper()
		m := must(w.Store.Moment(w.ctx))(t)
		if _, err := w.Store.Changes(w.ctx, w.service, from, 10, m); !errors.Is(err, want) {
			t.Errorf("%s: %v; want %v", what, err, want)
		}
	}
	try("at once", at, nil)
	other := at
	other.Run += "0"
	try("another store", other, presence.ErrPlaceGone)
	early := at
	early.Since += time.Hour.Microseconds()
	try("a clock that went back", early, presence.ErrPlaceGone)
	h.Advance(presence.ChangesKept - time.Minute)
	try("within the week", at, nil)
	h.Advance(2 * time.Minute)
	try("after a week", at, presence.ErrPlaceGone)

	// A user who has not changed for long is no reason to refuse the second page.
	w.register("n1", "bob", 2)
	h.Advance(time.Second)
	m = must(w.Store.Moment(w.ctx))(t)
	page := must(w.Store.Changes(w.ctx, w.service, presence.Place{}, 1, m))(t)
	if len(page.Items) != 1 || page.Items[0].User.Identity != "ada" || !page.More {
		t.Fatalf("a page of one = %+v; want the user who has not changed for a week", page)
	}
	try("from there", page.Next, nil)
}

// reader follows the changes of a service.
type reader struct {
	at    presence.Place
	users map[string]presence.Snapshot
}

// read takes a page in, as the documentation of presence.Changes says.
func (r *reader) read(w *world, limit int) (more bool, err error) {
	// A cursor survives being text.
	at, err := presence.ParsePlace(r.at.String())
	if err != nil || at != r.at {
		return false, fmt.Errorf("the place %+v came back as %+v, %w", r.at, at, err)
	}
	m, err := w.Store.Moment(w.ctx)
	if err != nil {
		return false, err
	}
	service, err := w.Store.Service(w.ctx, w.service.SID)
	if err != nil {
		return false, err
	}
	page, err := w.Store.Changes(w.ctx, service, at, limit, m)
	if err != nil {
		return false, err
	}
	if len(page.Items) > limit {
		return false, fmt.Errorf("%d items; want at most %d", len(page.Items), limit)
	}
	if page.Reset {
		for id, v := range r.users {
			v.Online, v.Notifiable = presence.Null, presence.Null
			r.users[id] = v
		}
	}
	last := at
	if page.Reset {
		last = presence.Place{}
	}
	for _, c := range page.Items {
		if !last.Before(c.Place) {
			return false, fmt.Errorf("%+v is told at %+v, after %+v", c.User, c.Place, last)
		}
		last = c.Place
		is := service.View(c.User)
		if was, ok := r.users[is.Identity]; ok && is.Rev < was.Rev { // whoever keeps the highest would not take it
			return false, fmt.Errorf("%+v after %+v", is, was)
		}
		if c.Deleted {
			delete(r.users, is.Identity)
		} else {
			r.users[is.Identity] = is
		}
	}
	r.at = page.Next
	return page.More, nil
}

// changes: a reader who follows the log from any place, with pages of any size, while
// anything happens, ends with the true state of every user.
func changes(t *testing.T, h *Harness) {
	rapid.Check(t, func(rt *rapid.T) {
		h.Reset()
		w := newWorld(t, h, true)
		identities := make([]string, 12)
		for i := range identities {
			identities[i] = fmt.Sprintf("user%d", i)
		}
		nodes := []presence.NodeID{"n1", "n2"}
		readers := []*reader{{users: map[string]presence.Snapshot{}}}

		identity, node := rapid.SampledFrom(identities), rapid.SampledFrom(nodes)
		session := rapid.IntRange(1, 2)
		// truth is what is true of every user.
		truth := func() map[string]presence.Snapshot {
			_, users, err := w.Store.Presence(w.ctx, w.service.SID, identities)
			if err != nil {
				rt.Fatal(err)
			}
			all := map[string]presence.Snapshot{}
			for u := range users {
				if u.SID != "" {
					all[u.Identity] = w.service.View(u)
				}
			}
			return all
		}
		try := func(err error, but ...error) {
			if err != nil && !slices.ContainsFunc(but, func(b error) bool { return errors.Is(err, b) }) {
				rt.Fatal(err)
			}
		}
		rt.Repeat(map[string]func(*rapid.T){
			"register": func(rt *rapid.T) {
				n, id := node.Draw(rt, "node"), identity.Draw(rt, "identity")
				k := w.key(id)
				_, err := w.Store.Register(w.ctx, w.Store.Partition(k), n, []presence.Held{{Key: k, ID: sessionOf(n, id, session.Draw(rt, "session")), Service: w.service}})
				try(err)
			},
			"end": func(rt *rapid.T) {
				n, id := node.Draw(rt, "node"), identity.Draw(rt, "identity")
				k := w.key(id)
				l := rapid.SampledFrom([]time.Duration{0, 0, Linger}).Draw(rt, "linger")
				_, err := w.Store.End(w.ctx, w.Store.Partition(k), n, []presence.Ended{{Key: k, ID: sessionOf(n, id, session.Draw(rt, "session")), Linger: l, Service: w.service}})
				try(err)
			},
			"end sessions": func(rt *rapid.T) {
				_, err := w.Store.EndSessions(w.ctx, w.key(identity.Draw(rt, "identity")), w.service, "")
				try(err)
			},
			"beat": func(rt *rapid.T) {
				_, errs := w.Store.Beat(w.ctx, []presence.Partition{0, 1}, node.Draw(rt, "node"))
				try(errors.Join(errs...))
			},
			"create": func(rt *rapid.T) {
				_, err := w.Store.CreateUser(w.ctx, w.key(identity.Draw(rt, "identity")), presence.UserUpdate{})
				try(err, presence.ErrUserExists)
			},
			"update": func(rt *rapid.T) {
				_, err := w.Store.UpdateUser(w.ctx, w.key(identity.Draw(rt, "identity")), presence.UserUpdate{Attributes: new(fmt.Sprint(rapid.IntRange(0, 9).Draw(rt, "n")))})
				try(err, presence.ErrNoUser)
			},
			"delete": func(rt *rapid.T) {
				try(w.Store.DeleteUser(w.ctx, w.key(identity.Draw(rt, "identity"))), presence.ErrNoUser)
			},
			"flip": func(rt *rapid.T) { w.flip(rapid.Bool().Draw(rt, "on")) },
			"wait": func(rt *rapid.T) {
				h.Advance(rapid.SampledFrom([]time.Duration{time.Millisecond, 70 * time.Second}).Draw(rt, "for"))
			},
			"join": func(rt *rapid.T) { // knowing what is true, or nothing
				r := &reader{users: map[string]presence.Snapshot{}}
				if rapid.Bool().Draw(rt, "knowing") {
					m, err := w.Store.Moment(w.ctx)
					try(err)
					r.at, r.users = m.Place(w.service), truth()
				}
				readers = append(readers, r)
			},
			"read": func(rt *rapid.T) {
				_, err := readers[rapid.IntRange(0, len(readers)-1).Draw(rt, "reader")].read(w, rapid.IntRange(1, 5).Draw(rt, "limit"))
				try(err)
			},
		})
		h.Advance(time.Second) // past the last stamps
		want := truth()
		for i, r := range readers {
			for more := true; more; {
				var err error
				if more, err = r.read(w, 3); err != nil {
					rt.Fatal(err)
				}
			}
			// The switch has a revision of its own, which is not told user by user.
			for _, users := range []map[string]presence.Snapshot{want, r.users} {
				for id, v := range users {
					v.Rev = max(v.Rev, w.service.Rev)
					users[id] = v
				}
			}
			if diff := cmp.Diff(want, r.users); diff != "" {
				rt.Fatalf("reader %d of %d ends with (-truth +read):\n%s", i, len(readers), diff)
			}
		}
		// The online list and its count are the same truth.
		online := slices.DeleteFunc(slices.Sorted(maps.Keys(want)), func(id string) bool { return want[id].Online != presence.True })
		page, count, err := w.Store.OnlineUsers(w.ctx, w.service.SID, "", 100)
		try(err)
		if w.service.Enabled {
			var listed []string
			for _, u := range page.Items {
				listed = append(listed, u.Identity)
			}
			slices.Sort(listed)
			if !slices.Equal(listed, online) || int(count) != len(online) {
				rt.Fatalf("online are %v, %d; want %v", listed, count, online)
			}
		}
	})
}

func sessionOf(n presence.NodeID, identity string, i int) presence.SessionID {
	s := fmt.Sprintf("%x%x%d", string(n), identity, i)
	return presence.SessionID(s + strings.Repeat("0", presence.SessionIDLen-len(s)))
}

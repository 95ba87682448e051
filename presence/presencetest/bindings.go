package presencetest

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/rollcall-presence/rollcall/presence"
)

func (w *world) create(identities ...string) {
	w.t.Helper()
	for _, id := range identities {
		must(w.Store.CreateUser(w.ctx, w.key(id), presence.UserUpdate{}))(w.t)
	}
	w.Events()
}

func (w *world) bind(identity, address string) presence.Binding {
	w.t.Helper()
	return must(w.Store.Bind(w.ctx, w.key(identity), presence.Registration{Type: presence.PushFCM, Address: address}))(w.t)
}

func (w *world) wantNotifiable(when, identity string, want presence.Tri) {
	w.t.Helper()
	if got := w.view(identity).Notifiable; got != want {
		w.t.Errorf("%s: is_notifiable of %s = %v; want %v", when, identity, got, want)
	}
}

// wantNotified compares what was published since the last call: "ada true" and so on,
// each for the one reason.
func (w *world) wantNotified(when string, want ...string) {
	w.t.Helper()
	got := []string{}
	for _, e := range w.Events() {
		if e.Reasons != presence.ReasonNotifiable {
			w.t.Errorf("%s: published %+v; want it for being notifiable alone", when, e)
		}
		got = append(got, e.User.Identity+" "+e.User.Notifiable.String())
	}
	if w.Apart {
		slices.Sort(got)
		want = slices.Sorted(slices.Values(want))
	}
	if !slices.Equal(got, want) {
		w.t.Errorf("%s: published %v; want %v", when, got, want)
	}
}

// expire runs ExpireBindings on every partition as often as it takes.
func (w *world) expire() (n int) {
	w.t.Helper()
	for p := range presence.Partition(w.Store.Partitions()) {
		for {
			expired := must(w.Store.ExpireBindings(w.ctx, p))(w.t)
			n += expired
			beats, errs := w.Store.Beat(w.ctx, []presence.Partition{p}, "n1")
			if must(beats[0], errs[0])(w.t).Bindings == 0 {
				break
			}
		}
	}
	return n
}

// The table of is_notifiable: switch, ever bound since it was turned on, bound now.
func notifiable(t *testing.T, h *Harness) {
	w := newWorld(t, h, false)
	w.create("ada", "bob", "cy")
	w.bind("ada", "a1")
	bob := w.bind("bob", "b1")
	w.wantNotifiable("switch off", "ada", presence.Null)
	w.Events()
	w.flip(true)
	w.wantNotifiable("switched on, bound", "ada", presence.True)
	w.wantNotifiable("switched on, never bound", "cy", presence.Null)
	w.bind("ada", "a2")
	w.wantNotified("a second binding")
	if err := w.Store.UnbindAddress(w.ctx, w.key("ada"), presence.PushFCM, "a1"); err != nil {
		t.Fatal(err)
	}
	w.wantNotified("one of two removed")
	if err := w.Store.UnbindAddress(w.ctx, w.key("ada"), presence.PushFCM, "a2"); err != nil {
		t.Fatal(err)
	}
	w.wantNotified("the last removed", "ada false")
	w.wantNotifiable("the last removed", "ada", presence.False)
	w.flip(false)
	w.wantNotifiable("switched off", "ada", presence.Null)
	if err := w.Store.Unbind(w.ctx, w.key("bob"), bob.SID); err != nil {
		t.Fatal(err)
	}
	w.flip(true)
	w.wantNotifiable("switched on again, bound before only", "ada", presence.Null)
	w.wantNotifiable("switched on again, unbound while it was off", "bob", presence.Null)
	w.Events()
	rev := w.view("ada").Rev
	w.bind("ada", "a1")
	w.wantNotified("bound again", "ada true")
	if got := w.view("ada").Rev; got <= rev {
		t.Errorf("revision %d after %d", got, rev)
	}
	w.wantOnline("bound", "ada", presence.Null)
}

func bindingMoves(t *testing.T, h *Harness) {
	w := newWorld(t, h, true)
	var all []string
	for i := range 6 { // so that some move between partitions
		all = append(all, fmt.Sprint("user", i))
	}
	w.create(all...)
	first := w.bind(all[0], "phone")
	w.wantNotified("bound", "user0 true")
	w.Advance(time.Second)
	again := w.bind(all[0], "phone")
	if again.SID != first.SID || !again.Created.Equal(first.Created) || !again.Updated.After(first.Updated) || !again.Expires.After(first.Expires) {
		t.Errorf("registered again as %+v; want %+v renewed", again, first)
	}
	w.wantNotified("registered again")
	for i := 1; i < len(all); i++ {
		b := w.bind(all[i], "phone")
		w.wantNotified("moved", all[i]+" true", all[i-1]+" false")
		list := must(w.Store.ListBindings(w.ctx, w.service.SID, presence.BindingFilter{}, "", 50))(t).Items
		if len(list) != 1 || list[0].SID != b.SID || list[0].Identity != all[i] {
			t.Errorf("bindings after a move = %+v; want only %+v", list, b)
		}
	}
	if back := w.bind(all[0], "phone"); back.SID != first.SID {
		t.Errorf("moved back as %s; want %s", back.SID, first.SID)
	}
	w.wantNotified("moved back", "user0 true", "user5 false")
	// The type is part of what is bound once.
	must(w.Store.Bind(w.ctx, w.key(all[1]), presence.Registration{Type: presence.PushAPN, Address: "phone"}))(t)
	w.wantNotified("same address, another type", "user1 true")
	w.Advance(time.Minute)
	if n := w.expire(); n != 0 {
		t.Errorf("%d expired; want none", n)
	}
	w.wantNotified("settled once more")
}

func bindingExpires(t *testing.T, h *Harness) {
	w := newWorld(t, h, true)
	w.create("ada", "bob")
	r := presence.Registration{Type: presence.PushAPN, Address: "short", Life: time.Minute}
	short := must(w.Store.Bind(w.ctx, w.key("ada"), r))(t)
	if life := short.Expires.Sub(short.Updated); life != time.Minute {
		t.Errorf("expires after %v; want a minute", life)
	}
	r.Address, r.Life = "longer", 2*time.Minute
	must(w.Store.Bind(w.ctx, w.key("ada"), r))(t)
	if year := w.bind("bob", "year"); year.Expires.Sub(year.Updated) != presence.MaxBindingLife {
		t.Errorf("expires after %v; want a year", year.Expires.Sub(year.Updated))
	}
	w.Events()
	if n := w.expire(); n != 0 {
		t.Errorf("%d expired at once; want none", n)
	}
	w.Advance(time.Minute)
	if b := w.beat("n1", "ada"); b.Bindings != 1 {
		t.Errorf("beat tells of %d bindings; want 1", b.Bindings)
	}
	if n := w.expire(); n != 1 {
		t.Errorf("%d expired; want 1", n)
	}
	w.wantNotified("one of two expired")
	if _, err := w.Store.Binding(w.ctx, w.service.SID, short.SID); !errors.Is(err, presence.ErrNoBinding) {
		t.Errorf("an expired binding: %v; want ErrNoBinding", err)
	}
	must(w.Store.Bind(w.ctx, w.key("ada"), r))(t) // renewed
	w.Advance(time.Minute)
	w.expire()
	w.wantNotified("renewed before its time")
	w.Advance(time.Minute)
	w.expire()
	w.wantNotified("both expired", "ada false")
	w.wantNotifiable("both expired", "ada", presence.False)
	w.bind("ada", "year")
	w.wantNotified("moved", "ada true", "bob false")

	// More than one pass takes; under a switch that is off it is no news to a reader.
	var many []string
	for i := range 2*presence.ExpireChunk + 10 {
		many = append(many, fmt.Sprint("many", i))
	}
	w.create(many...)
	for _, id := range many {
		must(w.Store.Bind(w.ctx, w.key(id), presence.Registration{Type: presence.PushWeb, Address: id, Life: time.Minute}))(t)
	}
	w.flip(false)
	w.Advance(time.Minute)
	if n := w.expire(); n != len(many) {
		t.Errorf("%d expired; want %d", n, len(many))
	}
	w.flip(true)
	w.wantNotifiable("expired while the switch was off", many[0], presence.Null)
}

func bindingLimits(t *testing.T, h *Harness) {
	w := newWorld(t, h, true)
	w.create("ada", "bob")
	credential := must(w.Store.CreateCredential(w.ctx, "AC0", presence.PushAPN, presence.CredentialUpdate{}))(t)
	good := presence.Registration{Type: presence.PushFCM, Address: "a"}
	for _, tc := range []struct {
		want error
		edit func(*presence.Registration)
	}{
		{presence.ErrPushType, func(r *presence.Registration) { r.Type = "twilsock" }},
		{presence.ErrAddress, func(r *presence.Registration) { r.Address = "" }},
		{presence.ErrAddress, func(r *presence.Registration) { r.Address = strings.Repeat("x", presence.MaxAddress+1) }},
		{presence.ErrAddress, func(r *presence.Registration) { r.Address = "\xff" }},
		{presence.ErrMessageTypes, func(r *presence.Registration) { r.MessageTypes = []string{"new_message", "a,b"} }},
		{presence.ErrBindingLife, func(r *presence.Registration) { r.Life = time.Second }},
		{presence.ErrBindingLife, func(r *presence.Registration) { r.Life = presence.MaxBindingLife + time.Second }},
		{presence.ErrNoCredential, func(r *presence.Registration) { r.Credential = "CR" + strings.Repeat("0", 32) }},
		{presence.ErrNoCredential, func(r *presence.Registration) { r.Credential = w.service.SID }},
		{presence.ErrCredentialType, func(r *presence.Registration) { r.Credential = credential.SID }},
	} {
		r := good
		tc.edit(&r)
		if _, err := w.Store.Bind(w.ctx, w.key("ada"), r); !errors.Is(err, tc.want) {
			t.Errorf("Bind(%+v) = %v; want %v", r, err, tc.want)
		}
	}
	if _, err := w.Store.Bind(w.ctx, w.key("nobody"), good); !errors.Is(err, presence.ErrNoUser) {
		t.Errorf("binding for nobody: %v; want ErrNoUser", err)
	}
	if _, err := w.Store.Bind(w.ctx, presence.Key{Service: "IS" + strings.Repeat("0", 32), Identity: "ada"}, good); !errors.Is(err, presence.ErrNoService) {
		t.Errorf("binding in no service: %v; want ErrNoService", err)
	}
	w.wantNotified("refused")

	w.bind("bob", "bobs")
	for i := range presence.MaxBindings {
		w.bind("ada", fmt.Sprint("a", i))
	}
	w.Events()
	if _, err := w.Store.Bind(w.ctx, w.key("ada"), presence.Registration{Type: presence.PushFCM, Address: "bobs"}); !errors.Is(err, presence.ErrTooManyBindings) {
		t.Errorf("one binding too many: %v; want ErrTooManyBindings", err)
	}
	w.wantNotified("one binding too many")
	w.bind("ada", "a0") // renewing is no new one
	w.bind("bob", "a1") // what was refused is bob's still, and one of ada's moves
	w.bind("ada", "bobs")
	w.wantNotified("bob has another still")
	for _, types := range [][]string{nil, {}, {"removed_from_conversation", "new_message", "added_to_conversation", "new_message"}} {
		b := must(w.Store.Bind(w.ctx, w.key("bob"), presence.Registration{Type: presence.PushWeb, Address: "types", MessageTypes: types}))(t)
		if diff := cmp.Diff(presence.MessageTypes(), b.MessageTypes); diff != "" {
			t.Errorf("message types for %v (-want +got):\n%s", types, diff)
		}
	}
	long := must(w.Store.Bind(w.ctx, w.key("bob"), presence.Registration{Type: presence.PushWeb, Address: strings.Repeat("é", presence.MaxAddress/2), MessageTypes: []string{"new_message"}}))(t)
	got := must(w.Store.Binding(w.ctx, w.service.SID, long.SID))(t)
	if diff := cmp.Diff(long, got); diff != "" {
		t.Errorf("read back (-bound +read):\n%s", diff)
	}
}

// What a binding hangs on takes it along, and its address is free again.
func bindingsGoWithTheirs(t *testing.T, h *Harness) {
	w := newWorld(t, h, true)
	other := newWorld(t, h, true)
	credential := must(w.Store.CreateCredential(w.ctx, "AC0", presence.PushFCM, presence.CredentialUpdate{}))(t)
	w.create("ada", "bob", "cy")
	other.create("ada")
	with := presence.Registration{Type: presence.PushFCM, Credential: credential.SID}
	for _, x := range []struct {
		w           *world
		id, address string
	}{{w, "ada", "1"}, {w, "bob", "2"}, {other, "ada", "1"}} {
		with.Address = x.address
		must(w.Store.Bind(w.ctx, x.w.key(x.id), with))(t)
	}
	w.bind("bob", "3")
	w.bind("ada", "1") // without the credential from here on
	must(w.Store.Bind(w.ctx, w.key("cy"), presence.Registration{Type: presence.PushFCM, Address: "4", Credential: credential.SID}))(t)
	w.Events()
	if err := w.Store.DeleteCredential(w.ctx, credential.SID); err != nil {
		t.Fatal(err)
	}
	got := map[string]presence.Tri{}
	for _, e := range w.Events() {
		got[e.User.Service+e.User.Identity] = e.User.Notifiable
	}
	if diff := cmp.Diff(map[string]presence.Tri{other.service.SID + "ada": presence.False, w.service.SID + "cy": presence.False}, got); diff != "" {
		t.Errorf("published for a deleted credential (-want +got):\n%s", diff)
	}
	w.wantNotifiable("bound anew without it", "ada", presence.True)
	w.wantNotifiable("bound otherwise too", "bob", presence.True)

	if err := w.Store.DeleteUser(w.ctx, w.key("ada")); err != nil {
		t.Fatal(err)
	}
	w.create("ada")
	w.wantNotifiable("made again", "ada", presence.Null)
	w.bind("cy", "1")
	w.wantNotified("took the deleted user's address", "cy true")
	w.Advance(time.Minute)
	w.expire()
	w.wantNotified("settled")
	w.wantNotifiable("settled", "cy", presence.True)

	if err := w.Store.DeleteService(w.ctx, w.service.SID); err != nil {
		t.Fatal(err)
	}
	if list := must(w.Store.ListBindings(w.ctx, w.service.SID, presence.BindingFilter{}, "", 50))(t); len(list.Items) != 0 {
		t.Errorf("bindings of a deleted service = %+v; want none", list.Items)
	}
	w.Advance(2 * time.Minute)
	w.expire()
}

func bindingTenancy(t *testing.T, h *Harness) {
	a, b := newWorld(t, h, true), newWorld(t, h, true)
	a.create("ada", "eve")
	b.create("ada")
	bound := a.bind("ada", "phone")
	b.bind("ada", "phone")
	a.wantNotified("the same in two services", "ada true", "ada true")
	for _, k := range []presence.Key{a.key("eve"), b.key("ada"), a.key("nobody")} {
		if err := a.Store.Unbind(a.ctx, k, bound.SID); !errors.Is(err, presence.ErrNoBinding) {
			t.Errorf("another's binding: %v; want ErrNoBinding", err)
		}
	}
	if _, err := b.Store.Binding(b.ctx, b.service.SID, bound.SID); !errors.Is(err, presence.ErrNoBinding) {
		t.Errorf("binding of another service: %v; want ErrNoBinding", err)
	}
	for _, sid := range []string{"", "BS", a.view("ada").SID, "BSffff" + strings.Repeat("0", 28)} {
		if err := a.Store.Unbind(a.ctx, a.key("ada"), sid); !errors.Is(err, presence.ErrNoBinding) {
			t.Errorf("Unbind(%q) = %v; want ErrNoBinding", sid, err)
		}
		if _, err := a.Store.Binding(a.ctx, a.service.SID, sid); !errors.Is(err, presence.ErrNoBinding) {
			t.Errorf("Binding(%q) = %v; want ErrNoBinding", sid, err)
		}
	}
	a.wantNotified("untouched")
}

func listBindings(t *testing.T, h *Harness) {
	w := newWorld(t, h, true)
	types := presence.PushTypes()
	var want []string
	for i := range 12 {
		id := fmt.Sprint("user", i%5)
		if i < 5 {
			w.create(id)
		}
		b := must(w.Store.Bind(w.ctx, w.key(id), presence.Registration{Type: types[i%4], Address: fmt.Sprint(i)}))(t)
		want = append(want, b.SID)
	}
	pick := func(which func(i int) bool) (sids []string) {
		for i, sid := range want {
			if which(i) {
				sids = append(sids, sid)
			}
		}
		return sids
	}
	for _, tc := range []struct {
		name   string
		filter presence.BindingFilter
		want   []string
	}{
		{"all", presence.BindingFilter{}, want},
		{"types", presence.BindingFilter{Types: []presence.PushType{types[0], types[2]}}, pick(func(i int) bool { return i%2 == 0 })},
		{"identities", presence.BindingFilter{Identities: []string{"user1", "user3", "user1", "nobody"}}, pick(func(i int) bool { return i%5 == 1 || i%5 == 3 })},
		{"both", presence.BindingFilter{Types: types[:1], Identities: []string{"user4"}}, pick(func(i int) bool { return i%4 == 0 && i%5 == 4 })},
	} {
		for _, limit := range []int{1, 3, 50} {
			sids := func(p presence.Page[presence.Binding]) (list []string) {
				for _, b := range p.Items {
					list = append(list, b.SID)
				}
				return list
			}
			var got []string
			cursor, last := "", presence.Page[presence.Binding]{}
			for {
				last = must(w.Store.ListBindings(w.ctx, w.service.SID, tc.filter, cursor, limit))(t)
				got = append(got, sids(last)...)
				if cursor = last.Next; cursor == "" {
					break
				}
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("%s by %d (-want +got):\n%s", tc.name, limit, diff)
			}
			back := sids(last)
			for page := last; page.Prev != ""; {
				page = must(w.Store.ListBindings(w.ctx, w.service.SID, tc.filter, page.Prev, limit))(t)
				back = append(sids(page), back...)
			}
			if diff := cmp.Diff(tc.want, back); diff != "" {
				t.Errorf("%s back by %d (-want +got):\n%s", tc.name, limit, diff)
			}
		}
	}
	if _, err := w.Store.ListBindings(w.ctx, w.service.SID, presence.BindingFilter{}, "x", 3); presence.KindOf(err) != presence.KindInvalid {
		t.Errorf("unknown page token: %v; want invalid", err)
	}
}

func credentials(t *testing.T, h *Harness) {
	w := newWorld(t, h, true)
	name, yes, secret := "phone", true, "s3cret"
	c := must(w.Store.CreateCredential(w.ctx, "AC0", presence.PushAPN, presence.CredentialUpdate{FriendlyName: &name, Sandbox: &yes, PrivateKey: &secret}))(t)
	if !presence.IsSID(c.SID, "CR") || c.Account != "AC0" || c.Type != presence.PushAPN || c.FriendlyName != name || !c.Sandbox || c.Created.IsZero() {
		t.Errorf("created %+v", c)
	}
	w.Advance(time.Minute)
	name = "tablet"
	u := must(w.Store.UpdateCredential(w.ctx, c.SID, presence.CredentialUpdate{FriendlyName: &name}))(t)
	if u.FriendlyName != name || !u.Sandbox || !u.Updated.After(c.Updated) || !u.Created.Equal(c.Created) {
		t.Errorf("updated to %+v", u)
	}
	if got := must(w.Store.Credential(w.ctx, c.SID))(t); got != u {
		t.Errorf("reads as %+v; want %+v", got, u)
	}
	second := must(w.Store.CreateCredential(w.ctx, "AC0", presence.PushFCM, presence.CredentialUpdate{Secret: &secret}))(t)
	page := must(w.Store.ListCredentials(w.ctx, "", 1))(t)
	if len(page.Items) != 1 || page.Items[0] != u || page.Next == "" {
		t.Errorf("first page = %+v; want the first and more", page)
	}
	page = must(w.Store.ListCredentials(w.ctx, page.Next, 1))(t)
	if len(page.Items) != 1 || page.Items[0] != second || page.Next != "" || page.Prev == "" {
		t.Errorf("second page = %+v; want the second, and no more", page)
	}
	if err := w.Store.DeleteCredential(w.ctx, c.SID); err != nil {
		t.Fatal(err)
	}
	for _, sid := range []string{c.SID, "", "x", w.service.SID} {
		_, e1 := w.Store.Credential(w.ctx, sid)
		_, e2 := w.Store.UpdateCredential(w.ctx, sid, presence.CredentialUpdate{})
		e3 := w.Store.DeleteCredential(w.ctx, sid)
		for _, err := range []error{e1, e2, e3} {
			if !errors.Is(err, presence.ErrNoCredential) {
				t.Errorf("credential %q: %v; want ErrNoCredential", sid, err)
			}
		}
	}
	w.Advance(Lease)
	must(must3(w.Store.BeatServices(w.ctx)))(t)
	must(w.Store.Service(w.ctx, w.service.SID))(t)
}

// Of any number of devices that claim one address at once, one has it in the end.
func concurrentMoves(t *testing.T, h *Harness) {
	w := newWorld(t, h, true)
	var all []string
	for i := range 8 {
		all = append(all, fmt.Sprint("user", i))
	}
	w.create(all...)
	for range 5 {
		var wg sync.WaitGroup
		for i, id := range all {
			wg.Go(func() {
				if _, err := w.Store.Bind(w.ctx, w.key(id), presence.Registration{Type: presence.PushFCM, Address: "contended"}); err != nil {
					t.Error(err)
				}
				if i%3 != 0 {
					return
				}
				if err := w.Store.UnbindAddress(w.ctx, w.key(id), presence.PushFCM, "contended"); err != nil && !errors.Is(err, presence.ErrNoBinding) {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		w.Advance(time.Minute)
		w.expire()
		list := must(w.Store.ListBindings(w.ctx, w.service.SID, presence.BindingFilter{}, "", 50))(t).Items
		if len(list) > 1 {
			t.Fatalf("bindings of one address = %+v; want one at most", list)
		}
		states := map[string]presence.Tri{}
		for _, e := range w.Events() {
			states[e.User.Identity] = e.User.Notifiable
		}
		for _, id := range all {
			want := presence.TriOf(len(list) == 1 && list[0].Identity == id)
			if got := w.view(id).Notifiable; got != want && (got != presence.Null || want != presence.False) {
				t.Errorf("is_notifiable of %s = %v; want %v", id, got, want)
			}
			if last, ok := states[id]; ok && last != w.view(id).Notifiable {
				t.Errorf("last published of %s is %v; the truth is %v", id, last, w.view(id).Notifiable)
			}
		}
		w.bind("user7", "contended") // whoever has it, and whatever was left
		list = must(w.Store.ListBindings(w.ctx, w.service.SID, presence.BindingFilter{}, "", 50))(t).Items
		if len(list) != 1 || list[0].Identity != "user7" {
			t.Fatalf("bindings = %+v; want user7's alone", list)
		}
	}
}

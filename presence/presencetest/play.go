package presencetest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/rollcall-presence/rollcall/presence"
)

// player plays steps on a store and on the Model.
type player struct {
	*Harness
	ctx context.Context //nolint:containedctx // of the test
	m   *Model
	now time.Time

	services   []presence.Service                     // as they are
	known      map[presence.NodeID][]presence.Service // as the nodes know them
	sids       map[presence.SessionID]string          // of a session's user, as its node knows it
	revs       map[presence.Key]int64                 // last published
	todo       []todo                                 // left to do in the partitions
	credential string
	ever       []string // SIDs of all services there were
	saved      *saved
}

type todo struct {
	service string // "" for a credential
	due     time.Time
}

// saved is a snapshot: what comes back when later writes are lost.
type saved struct {
	restore    func()
	m          *Model
	services   []presence.Service
	todo       []todo
	credential string
}

// Play plays a history on a fresh store and on the Model, and compares after each
// step what was answered and published and what can be read. The error tells the
// step at which they differ, and all before it.
func Play(ctx context.Context, h *Harness, steps []Step) error {
	h.Reset()
	p := &player{
		Harness: h, ctx: ctx, m: &Model{Lease: Lease, Stall: Stall, Partition: h.Store.Partition}, now: time.Unix(0, 0),
		known: map[presence.NodeID][]presence.Service{}, sids: map[presence.SessionID]string{}, revs: map[presence.Key]int64{},
		services: make([]presence.Service, 2),
	}
	step := func(i int, s Step) error {
		if i < 0 {
			return p.begin()
		}
		return p.play(s)
	}
	for i := -1; i < len(steps); i++ {
		var s Step
		if i >= 0 {
			s = steps[i]
		}
		err := step(i, s)
		if err == nil && h.Check != nil {
			err = h.Check()
		}
		if err == nil && i == len(steps)-1 {
			err = p.lists()
		}
		if err != nil {
			return fmt.Errorf("after step %d: %w", i+1, err)
		}
	}
	return nil
}

func (p *player) begin() error {
	for i := range p.services {
		if err := p.create(i); err != nil {
			return err
		}
	}
	for _, n := range stepNodes {
		p.known[n] = slices.Clone(p.services)
	}
	c, err := p.Store.CreateCredential(p.ctx, "AC0", presence.PushFCM, presence.CredentialUpdate{})
	if err != nil {
		return err
	}
	p.credential = c.SID
	p.Events()
	p.save()
	return nil
}

// create makes a service in place of one that was deleted.
func (p *player) create(i int) error {
	s, err := p.Store.CreateService(p.ctx, presence.Service{Account: "AC0", FriendlyName: string(rune('A' + i)), Linger: -1}) //nolint:gosec // G115: a few
	if err != nil {
		return err
	}
	on := true
	p.services[i], err = p.Store.UpdateService(p.ctx, s.SID, presence.ServiceUpdate{Enabled: &on})
	p.ever = append(p.ever, s.SID)
	p.pass(10 * time.Second)
	return err
}

// pass lets time go by, and a little more: else deadlines, all of them multiples of 10 s, would fall on the very moment
// of a step, and the milliseconds that the store's own clock is ahead would decide which is first.
func (p *player) pass(d time.Duration) {
	d += d * 3 / 100
	p.Advance(d)
	p.now = p.now.Add(d)
}

func (p *player) save() {
	if p.Snapshot == nil {
		return
	}
	p.saved = &saved{p.Snapshot(), p.m.Clone(), slices.Clone(p.services), slices.Clone(p.todo), p.credential}
}

// restored is what follows a loss of data: a node writes the services back, as it
// knows them. Time has passed, since nothing fails over at once.
func (p *player) restored(n presence.NodeID) (err error) {
	p.pass(10 * time.Second)
	for i := range p.services {
		known := p.known[n][i]
		if known.SID == p.services[i].SID {
			p.services[i], err = p.Store.RestoreService(p.ctx, known, "a run before")
			if err == nil && p.services[i].Rev < known.Rev {
				return fmt.Errorf("the switch of %c is at revision %d; %s knows %d", 'A'+i, p.services[i].Rev, n, known.Rev)
			}
		} else {
			p.services[i], err = p.Store.Service(p.ctx, p.services[i].SID)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// key is a user as a node knows its service.
func (p *player) key(n presence.NodeID, w Who) presence.Key {
	return presence.Key{Service: p.known[n][w.Service].SID, Identity: stepIdentities[w.User]}
}

// at is a user of a service that there is.
func (p *player) at(w Who) (presence.Key, presence.Service) {
	s := p.services[w.Service]
	return presence.Key{Service: s.SID, Identity: stepIdentities[w.User]}, s
}

func (p *player) find(sid string) presence.Service {
	for _, s := range p.services {
		if s.SID == sid {
			return s
		}
	}
	return presence.Service{SID: sid}
}

// A session belongs to one user and one node.
func (p *player) session(n presence.NodeID, w Who) presence.SessionID {
	s := fmt.Sprintf("%s%d%d%d", n[1:], w.Service, w.User, w.Session) + p.known[n][w.Service].SID[2:10]
	return presence.SessionID(s + strings.Repeat("0", presence.SessionIDLen-len(s)))
}

// home is the partition of the first of some, and those that live there.
func (p *player) home(n presence.NodeID, all []Who) (q presence.Partition, home []Who) {
	q = p.Store.Partition(p.key(n, all[0]))
	return q, slices.DeleteFunc(slices.Clone(all), func(w Who) bool { return p.Store.Partition(p.key(n, w)) != q })
}

func (p *player) partitions(n presence.NodeID, s Step) (qs []presence.Partition) {
	if !s.All {
		return []presence.Partition{p.Store.Partition(p.key(n, s.Who[0]))}
	}
	for q := range p.Store.Partitions() {
		qs = append(qs, presence.Partition(q))
	}
	return qs
}

func differ(what string, want, got any) error {
	if diff := cmp.Diff(want, got); diff != "" {
		return fmt.Errorf("%s (-want +got):\n%s", what, diff)
	}
	return nil
}

func (p *player) play(s Step) error {
	n := stepNodes[s.Node]
	switch s.Op {
	case "register", "end", "beat", "leave":
		return p.node(n, s)
	case "bind", "unbind", "expire", "delete credential":
		return p.binding(s)
	case "live":
		for range s.Seconds / 40 {
			p.pass(40 * time.Second)
			if err := p.node(n, Step{Op: "beat", Node: s.Node, Who: s.Who, All: true}); err != nil {
				return err
			}
		}
	case "wait":
		p.pass(time.Duration(s.Seconds) * time.Second)
	case "snapshot":
		p.save()
	case "fail over":
		if p.saved == nil {
			break
		}
		p.saved.restore()
		p.m, p.services, p.todo, p.credential = p.saved.m.Clone(), slices.Clone(p.saved.services), slices.Clone(p.saved.todo), p.saved.credential
		if err := p.restored(n); err != nil {
			return err
		}
	case "lose":
		if p.Wipe == nil {
			break
		}
		p.Wipe()
		p.m, p.todo = &Model{Lease: Lease, Stall: Stall, Partition: p.Store.Partition}, nil
		p.services = slices.Clone(p.known[n])
		if err := p.restored(n); err != nil {
			return err
		}
		c, err := p.Store.CreateCredential(p.ctx, "AC0", presence.PushFCM, presence.CredentialUpdate{})
		if err != nil {
			return err
		}
		p.credential = c.SID
	case "hear":
		p.known[n][s.Who[0].Service] = p.services[s.Who[0].Service]
	case "flip":
		i := s.Who[0].Service
		v, err := p.Store.UpdateService(p.ctx, p.services[i].SID, presence.ServiceUpdate{Enabled: &s.On})
		if err != nil {
			return err
		}
		p.services[i] = v
		// Revisions run ahead of the clock by a second a flip; nobody flips that fast.
		p.pass(10 * time.Second)
	case "ensure":
		k, service := p.at(s.Who[0])
		want := p.m.Ensure(k)
		if _, err := p.Store.EnsureUser(p.ctx, k, service); err != nil {
			return err
		}
		return p.check(want)
	case "delete user":
		k, _ := p.at(s.Who[0])
		want := p.m.Delete(k)
		if err := p.Store.DeleteUser(p.ctx, k); err != nil && !errors.Is(err, presence.ErrNoUser) {
			return err
		}
		return p.check(want)
	case "end sessions":
		k, service := p.at(s.Who[0])
		id := p.session(n, s.Who[0])
		if s.All {
			id = ""
		}
		want, out := p.m.EndSessions(k, service, id)
		got, err := p.Store.EndSessions(p.ctx, k, service, id)
		if err == nil {
			err = differ("sessions ended", want, got)
		}
		if err != nil {
			return err
		}
		return p.check(out)
	case "delete service":
		i := s.Who[0].Service
		sid := p.services[i].SID
		if err := p.Store.DeleteService(p.ctx, sid); err != nil {
			return err
		}
		p.m.Purge(sid)
		p.todo = append(p.todo, todo{sid, p.now.Add(30 * time.Second)})
		for k := range p.revs { // nobody is left to see them grow
			if k.Service == sid {
				delete(p.revs, k)
			}
		}
		if err := p.create(i); err != nil {
			return err
		}
	case "sweep":
		var later []todo
		for _, t := range p.todo {
			if t.due.After(p.now) {
				later = append(later, t)
				continue
			}
			if t.service != "" {
				p.m.Purge(t.service)
			}
			if _, _, err := p.Store.BeatServices(p.ctx); err != nil {
				return err
			}
		}
		p.todo = later
	}
	return p.check(nil)
}

// node plays what a node does.
func (p *player) node(n presence.NodeID, s Step) error {
	switch s.Op {
	case "register":
		q, home := p.home(n, s.Who)
		var list []presence.Held
		for _, w := range home {
			h := presence.Held{Key: p.key(n, w), ID: p.session(n, w), Service: p.known[n][w.Service]}
			if s.Again {
				h.UserSID = p.sids[h.ID]
			}
			list = append(list, h)
		}
		want, out := p.m.Register(p.now, n, q, list)
		got, err := p.Store.Register(p.ctx, q, n, list)
		if err == nil {
			err = differ("Register", want, got)
		}
		if err == nil {
			err = p.check(out)
		}
		if err != nil {
			return err
		}
		for i, h := range list {
			if h.UserSID == "" && want.Outcomes[i] != presence.Refused {
				p.sids[h.ID] = p.m.SID(h.Key, "")
			}
		}
		return p.held(n, q)
	case "end":
		q, home := p.home(n, s.Who)
		var list []presence.Ended
		for _, w := range home {
			list = append(list, presence.Ended{Key: p.key(n, w), ID: p.session(n, w), Linger: time.Duration(s.Seconds) * time.Second, Service: p.known[n][w.Service]})
		}
		want, out := p.m.End(p.now, n, q, list)
		got, err := p.Store.End(p.ctx, q, n, list)
		if err == nil {
			err = differ("End", want, got)
		}
		if err == nil {
			err = p.check(out)
		}
		if err != nil {
			return err
		}
		return p.held(n, q)
	case "beat":
		qs := p.partitions(n, s)
		var out []Transition
		beats, errs := p.Store.Beat(p.ctx, qs, n)
		for i, q := range qs {
			want, ts := p.m.Beat(p.now, n, q)
			out = append(out, ts...)
			got := beats[i]
			slices.Sort(got.End)
			if errs[i] != nil {
				return errs[i]
			}
			if got.Ops != want.Ops || got.Reaped != want.Reaped || got.OfflineByLease != want.OfflineByLease ||
				got.OfflineByLinger != want.OfflineByLinger || !slices.Equal(got.End, want.End) || (got.Stalled > 0) != (want.Stalled > 0) || got.Bindings < want.Bindings {
				return fmt.Errorf("Beat of partition %d = %+v; want %+v", q, got, want)
			}
			if err := p.held(n, q); err != nil {
				return err
			}
		}
		return p.check(out)
	}
	qs := p.partitions(n, s)
	for _, q := range qs {
		p.m.Leave(p.now, n, q, 30*time.Second)
	}
	if err := p.Store.Leave(p.ctx, qs, n, 30*time.Second); err != nil {
		return err
	}
	return p.check(nil)
}

// binding plays what is about push bindings.
func (p *player) binding(s Step) error {
	if s.Op == "delete credential" {
		want := p.m.DeleteCredential(p.credential, p.find)
		if err := p.Store.DeleteCredential(p.ctx, p.credential); err != nil {
			return err
		}
		p.todo = append(p.todo, todo{"", p.now.Add(30 * time.Second)})
		c, err := p.Store.CreateCredential(p.ctx, "AC0", presence.PushFCM, presence.CredentialUpdate{})
		if err != nil {
			return err
		}
		p.credential = c.SID
		return p.check(want)
	}
	k, service := p.at(s.Who[0])
	switch s.Op {
	case "bind":
		r := presence.Registration{Type: presence.PushFCM, Address: s.Address, Life: time.Duration(s.Seconds) * time.Second}
		if s.On {
			r.Credential = p.credential
		}
		want, wantErr := p.m.Bind(p.now, k, service, r)
		if _, err := p.Store.Bind(p.ctx, k, r); !errors.Is(err, wantErr) {
			return fmt.Errorf("Bind = %w; want %w", err, wantErr)
		}
		return p.check(want)
	case "unbind":
		want, wantErr := p.m.Unbind(k, service, presence.PushFCM, s.Address)
		if err := p.Store.UnbindAddress(p.ctx, k, presence.PushFCM, s.Address); !errors.Is(err, wantErr) {
			return fmt.Errorf("UnbindAddress = %w; want %w", err, wantErr)
		}
		return p.check(want)
	}
	q := p.Store.Partition(k)
	want, out := p.m.Expire(p.now, q, p.find)
	got, err := p.Store.ExpireBindings(p.ctx, q)
	if err == nil {
		err = differ("ExpireBindings", want, got)
	}
	if err != nil {
		return err
	}
	return p.check(out)
}

// held compares which sessions the store has of a node.
func (p *player) held(n presence.NodeID, q presence.Partition) error {
	list, err := p.Store.Sessions(p.ctx, q, n)
	if err != nil {
		return err
	}
	got := map[presence.SessionID]presence.Key{}
	for _, e := range list {
		got[e.ID] = e.Key
	}
	want := p.m.Held(n, q)
	if len(want)+len(got) == 0 {
		return nil
	}
	return differ(fmt.Sprintf("sessions of %s in partition %d", n, q), want, got)
}

// check compares what was published since the last check with want, and all that can
// be read of the users with the Model.
func (p *player) check(want []Transition) error {
	var got []Transition
	for _, e := range p.Events() {
		got = append(got, Transition{
			Key: e.User.Key, Online: e.User.Online, Epoch: e.User.Epoch, Notifiable: e.User.Notifiable,
			NotifiableEpoch: e.User.NotifiableEpoch, Reasons: e.Reasons, Deleted: e.Deleted,
		})
		if last := p.revs[e.User.Key]; e.User.Rev <= last {
			return fmt.Errorf("published revision %d of %s after %d", e.User.Rev, e.User.Identity, last)
		}
		p.revs[e.User.Key] = e.User.Rev
	}
	byKey := func(a, b Transition) int {
		return strings.Compare(a.Key.Service+a.Key.Identity, b.Key.Service+b.Key.Identity)
	}
	slices.SortStableFunc(got, byKey)
	slices.SortStableFunc(want, byKey)
	if err := differ("published", want, got); err != nil {
		return err
	}
	var all []presence.Key
	for _, sid := range p.ever {
		for _, id := range stepIdentities {
			all = append(all, presence.Key{Service: sid, Identity: id})
		}
	}
	users, err := p.Store.ReadUsers(p.ctx, all)
	if err != nil {
		return err
	}
	live, err := p.Store.CountSessions(p.ctx, all)
	if err != nil {
		return err
	}
	for i, k := range all {
		u := users[i]
		online, epoch, sessions, exists := p.m.User(k)
		if exists != (u.SID != "") || online != u.Online || epoch != u.Epoch || sessions != live[i] {
			return fmt.Errorf("%s is exists=%v online=%v epoch=%d sessions=%d; want %v %v %d %d",
				k.Identity, u.SID != "", u.Online, u.Epoch, live[i], exists, online, epoch, sessions)
		}
		if want := p.m.SID(k, u.SID); u.SID != want {
			return fmt.Errorf("%s is %s; want %s", k.Identity, u.SID, want)
		}
		notifiable, nepoch, _ := p.m.Notifiable(k)
		if notifiable != u.Notifiable || nepoch != u.NotifiableEpoch {
			return fmt.Errorf("%s is notifiable=%v epoch=%d; want %v %d", k.Identity, u.Notifiable, u.NotifiableEpoch, notifiable, nepoch)
		}
	}
	for i, s := range p.services {
		_, many, err := p.Store.Presence(p.ctx, s.SID, stepIdentities)
		if err != nil {
			return err
		}
		var want []presence.User
		at := slices.Index(p.ever, s.SID) * len(stepIdentities)
		for _, u := range users[at : at+len(stepIdentities)] {
			want = append(want, bare(u))
		}
		if err := differ(fmt.Sprintf("users of %c among many", 'A'+i), want, slices.Collect(many)); err != nil {
			return err
		}
	}
	return p.bound()
}

// bound compares how many bindings the users have.
func (p *player) bound() error {
	for _, s := range p.services {
		page, err := p.Store.ListBindings(p.ctx, s.SID, presence.BindingFilter{}, "", 100)
		if err != nil {
			return err
		}
		got := map[string]int{}
		for _, b := range page.Items {
			got[b.Identity]++
		}
		for _, id := range stepIdentities {
			if _, _, want := p.m.Notifiable(presence.Key{Service: s.SID, Identity: id}); got[id] != want {
				return fmt.Errorf("%s has %d bindings; want %d", id, got[id], want)
			}
		}
	}
	return nil
}

// lists compares the lists of a service's users, and of those who are online.
func (p *player) lists() error {
	for _, s := range p.services {
		all, err := p.Store.ListUsers(p.ctx, s.SID, "", 100)
		if err != nil {
			return err
		}
		online, count, err := p.Store.OnlineUsers(p.ctx, s.SID, "", 100)
		if err != nil {
			return err
		}
		if int(count) != len(online.Items) {
			return fmt.Errorf("%d users are online, %d are listed", count, len(online.Items))
		}
		var users, connected, wantUsers, wantConnected []string
		for _, u := range all.Items {
			users = append(users, u.Identity)
		}
		for _, u := range online.Items {
			connected = append(connected, u.Identity)
		}
		for _, id := range stepIdentities {
			state, _, _, exists := p.m.User(presence.Key{Service: s.SID, Identity: id})
			if exists {
				wantUsers = append(wantUsers, id)
			}
			if state == presence.True {
				wantConnected = append(wantConnected, id)
			}
		}
		slices.Sort(users)
		slices.Sort(connected)
		if err := errors.Join(differ("list of users", wantUsers, users), differ("list of those online", wantConnected, connected)); err != nil {
			return err
		}
	}
	return nil
}

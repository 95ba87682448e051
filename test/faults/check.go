package faults

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"time"
)

// The rules that a history must keep.
const (
	Order     = "R1" // of a user a watcher is told revisions that strictly increase, over its own reconnects too
	Connected = "R2" // nobody is shown offline, or null, while a session of it is open
	Once      = "R3" // a departure is told exactly once, and an arrival; nobody is shown online without a session
	Covered   = "R4" // nothing is told of an absence that linger, lease or handover covers
	Agreement = "R5" // at the end every watcher, REST on every node, and the truth say the same
	InTime    = "R6" // what is told is told within its bound
)

// Timers are what bounds are computed from.
type Timers struct{ Linger, Lease, Heartbeat, Drain time.Duration }

var (
	defaultTimers = Timers{Linger: 10 * time.Second, Lease: 10 * time.Second, Heartbeat: 3 * time.Second, Drain: 25 * time.Second}
	shortTimers   = Timers{Linger: 2 * time.Second, Lease: 5 * time.Second, Heartbeat: time.Second, Drain: 3 * time.Second}
)

// or is t with what it lacks taken from other.
func (t Timers) or(other Timers) Timers {
	return Timers{cmp.Or(t.Linger, other.Linger), cmp.Or(t.Lease, other.Lease), cmp.Or(t.Heartbeat, other.Heartbeat), cmp.Or(t.Drain, other.Drain)}
}

// Handover is how long users linger whose sessions a draining node gave up.
const Handover = 20 * time.Second

// Rules says what a history is checked against.
type Rules struct {
	Timers
	// Slack is what a busy machine may add to a bound. Default 3 s.
	Slack time.Duration
	// NodeFails tells that a node was killed or stopped: what it did not notice is found when its lease lapses.
	NodeFails bool
	// Gaps tells that messages between the nodes were lost. What changed in a gap and changed back is never told, so that
	// a watcher may have the state of a later revision under the number of an earlier.
	Gaps    bool
	Excuses []Excuse
	Away    []Away
}

// Excuse allows some rules to be broken in a window of time.
type Excuse struct {
	Rules    []string
	From, To time.Duration
	Users    func(user string) bool // nil: all
	Watchers func(name string) bool // nil: all, and REST, whose name is empty
	Why      string
}

// Away is a time in which nothing could be told. What is due in it, or soon after, is due when it would be if it began
// at To, and Extra later.
type Away struct {
	From, To, Extra time.Duration
	Why             string
}

const (
	never = time.Duration(math.MaxInt64)
	// round is what is lost between clocks in milliseconds and ours.
	round = 2 * time.Millisecond
	// disorder is how much later than its client a node may notice that a session has ended.
	disorder = time.Second
)

func (r Rules) slack() time.Duration { return cmp.Or(r.Slack, 3*time.Second) }

// bound is the longest time from the end of a user's last session to the offline event.
func (r Rules) bound(how string) time.Duration {
	found := max(r.Linger, r.Lease+r.Heartbeat)
	switch {
	case how == Bye, how == Kicked:
		return 0
	case how == Moved:
		return max(r.Linger, Handover)
	case how == Drop && !r.NodeFails:
		return r.Linger
	}
	return found
}

// cover is the time after such an end in which nothing may be told.
func (r Rules) cover(how string) time.Duration {
	switch {
	case how == Bye, how == Kicked:
		return 0
	case how == Moved:
		return max(r.Linger, Handover)
	case how == Drop || !r.NodeFails:
		return r.Linger
	}
	// the last heartbeat before was up to two heartbeats ago
	return min(r.Linger, max(0, r.Lease-2*r.Heartbeat))
}

// putOff is when something is due that began at a time, if nothing could be told in the times Away.
func (r Rules) putOff(began, due time.Duration) time.Duration {
	took := due - began
	for _, a := range r.Away {
		switch {
		case due < a.From || began > a.To+r.Heartbeat:
		case began > a.To: // deadlines count from the first heartbeat after
			due = max(due, began+took+r.Heartbeat+a.Extra)
		default:
			due = max(due, a.To+took+a.Extra)
		}
	}
	return due
}

// Violation is a rule broken.
type Violation struct {
	Rule    string
	User    string
	Watcher string        // who was told, or was not; empty for REST
	At      time.Duration // when it was published, or due
	Rev     int64         // of what was told; 0 if nothing was
	Text    string
}

func (v Violation) String() string {
	return fmt.Sprintf("%s: %+.3fs: %s", v.Rule, v.At.Seconds(), v.Text)
}

// same tells whether w is the same as v in a history that lacks something.
func (v Violation) same(w Violation) bool {
	return v.Rule == w.Rule && v.User == w.User && v.Watcher == w.Watcher && v.At == w.At && v.Rev == w.Rev
}

// Verdict is what Check found.
type Verdict struct {
	Violations []Violation
	Excused    map[string]int // violations that were allowed, by why
	Watchers   int
	Events     int // told to watchers, all together
	Covered    int // absences that ended before anything was due, and of which nothing was told
	// Took are the times from the end of a user's last session to its offline event, by how it ended.
	Took map[string][]time.Duration
}

// Summary says in a line what was seen.
func (v Verdict) Summary() string {
	departures := 0
	var took []string
	for _, how := range slices.Sorted(maps.Keys(v.Took)) {
		list := slices.Sorted(slices.Values(v.Took[how]))
		departures += len(list)
		took = append(took, fmt.Sprintf("%s %d: p50 %s, max %s", how, len(list), brief(list[len(list)/2]), brief(list[len(list)-1])))
	}
	s := fmt.Sprintf("%d events at %d watchers; %d departures told once each", v.Events, v.Watchers, departures)
	if len(took) > 0 {
		s += " (" + strings.Join(took, "; ") + ")"
	}
	return s + fmt.Sprintf("; %d absences covered, nothing told", v.Covered)
}

func brief(d time.Duration) string {
	if d < time.Second {
		return fmt.Sprintf("%d ms", d.Milliseconds())
	}
	return fmt.Sprintf("%.1f s", d.Seconds())
}

// session is what its client knows of one socket.
type session struct {
	id         string
	began      time.Duration
	opened     time.Duration // never, if it was not
	end        time.Duration // until then it was open for sure
	ended      time.Duration // from then on it was not, as its client knows
	asked, how string
}

// open tells whether the session was open all the time from lo to hi.
func (s *session) open(lo, hi time.Duration) bool {
	return s.opened != never && s.opened+round < lo && hi < s.end-round
}

// told is what a watcher, or REST, said of a user.
type told struct {
	Entry
	rev time.Duration // of Entry.Rev
}

type watching struct {
	name   string
	joined []span // when it was subscribed
	users  map[string][]told
}

type span struct{ from, to time.Duration }

func (s span) holds(from, to time.Duration) bool { return s.from <= from && to <= s.to }

type checker struct {
	h        History
	r        Rules
	end      time.Duration // of the history
	users    map[string][]*session
	watchers map[string]*watching
	rest     map[string][]told // by user
	off      []span            // when the switch was, or may have been, off
	flips    []time.Duration
	forgot   []time.Duration
	v        Verdict
}

// Check holds a history against the rules.
func Check(h History, r Rules) Verdict {
	c := index(h, r)
	for _, user := range slices.Sorted(maps.Keys(c.users)) {
		for _, name := range slices.Sorted(maps.Keys(c.watchers)) {
			w := c.watchers[name]
			c.order(w, user)
			c.transitions(w, user)
			c.arrivals(w, user)
		}
		c.absences(user)
		c.agreement(user)
	}
	for _, w := range c.watchers {
		for _, list := range w.users {
			for _, t := range list {
				if t.Kind == Seen {
					c.v.Events++
				}
			}
		}
	}
	c.v.Watchers = len(c.watchers)
	return c.v
}

// Due is when all that must be told of a history has been told, if nothing more happens.
func Due(h History, r Rules) time.Duration {
	c := index(h, r)
	r = c.r
	var due time.Duration
	for _, sessions := range c.users {
		if slices.ContainsFunc(sessions, func(s *session) bool { return s.opened != never && s.ended == never }) {
			continue
		}
		for _, s := range sessions {
			due = max(due, r.putOff(s.ended, s.ended+r.bound(s.how)))
		}
	}
	for _, a := range r.Away {
		due = max(due, a.To+a.Extra)
	}
	return max(due, c.end) + r.slack()
}

// index sorts the entries out.
func index(h History, r Rules) *checker {
	r.Away = slices.SortedFunc(slices.Values(r.Away), func(a, b Away) int { return cmp.Compare(a.To, b.To) })
	c := &checker{
		h: h, r: r, end: h.End, users: map[string][]*session{}, watchers: map[string]*watching{}, rest: map[string][]told{},
		v: Verdict{Excused: map[string]int{}, Took: map[string][]time.Duration{}},
	}
	sessions := map[string]*session{}
	watcher := func(name string) *watching {
		if c.watchers[name] == nil {
			c.watchers[name] = &watching{name: name, users: map[string][]told{}}
		}
		return c.watchers[name]
	}
	for _, e := range h.Entries {
		c.end = max(c.end, e.At)
		if s := sessions[e.Session]; s != nil {
			switch e.Kind {
			case Opened:
				s.opened = e.At
			case Leaving:
				s.end, s.asked = min(s.end, e.At), e.How
			case Ended:
				s.end, s.ended, s.how = min(s.end, e.At), e.At, e.How
			default:
			}
		}
		switch e.Kind {
		case Began:
			s := &session{id: e.Session, began: e.At, opened: never, end: never, ended: never}
			sessions[e.Session] = s
			c.users[e.User] = append(c.users[e.User], s)
		case Joined:
			w := watcher(e.Watcher)
			w.joined = append(w.joined, span{e.At, never})
		case Parted:
			if w := watcher(e.Watcher); len(w.joined) > 0 && w.joined[len(w.joined)-1].to == never {
				w.joined[len(w.joined)-1].to = e.At
			}
		case Seen, Read:
			w := watcher(e.Watcher)
			w.users[e.User] = append(w.users[e.User], told{e, h.rev(e.Rev)})
			if _, ok := c.users[e.User]; !ok { // it may never come
				c.users[e.User] = nil
			}
		case Told:
			c.rest[e.User] = append(c.rest[e.User], told{e, h.rev(e.Rev)})
		case Off:
			c.off = append(c.off, span{e.At, never})
			c.flips = append(c.flips, e.At)
		case On:
			if n := len(c.off); n > 0 {
				c.off[n-1].to = e.At
			}
			c.flips = append(c.flips, e.At)
		case Forgot:
			c.forgot = append(c.forgot, e.At)
		case Opened, Leaving, Ended, Fault:
		}
	}
	return c
}

// found notes a violation unless it is excused.
func (c *checker) found(v Violation) {
	for _, e := range c.r.Excuses {
		if slices.Contains(e.Rules, v.Rule) && e.From <= v.At && v.At <= e.To && (e.Users == nil || e.Users(v.User)) &&
			(e.Watchers == nil || e.Watchers(v.Watcher)) {
			c.v.Excused[e.Why]++
			return
		}
	}
	c.v.Violations = append(c.v.Violations, v)
}

// order: R1.
func (c *checker) order(w *watching, user string) {
	var last told
	for i, t := range w.users[user] {
		if i > 0 && (t.Rev < last.Rev || t.Rev == last.Rev && (t.Kind == Seen || t.Online != last.Online)) {
			c.found(Violation{Order, user, w.name, t.At, t.Rev, fmt.Sprintf("watcher %s was told revision %d of %s (%s) after %d (%s)",
				w.name, t.Rev, user, t.Online, last.Rev, last.Online)})
		}
		if i == 0 || t.Rev >= last.Rev {
			last = t
		}
	}
}

// published is between which times something was. A flip of the switch makes revisions run ahead of the clock, a
// second for each, until the clock has caught up.
func (c *checker) published(t told) (lo, hi time.Duration) {
	var floor, ahead time.Duration
	for _, at := range c.flips {
		if at > t.At {
			break
		}
		if at > floor {
			floor, ahead = at, 0
		}
		floor += time.Second
		ahead += time.Second
	}
	if t.rev > floor+time.Second {
		ahead = 0
	}
	return t.rev - ahead, min(t.rev, t.At)
}

// wasOff tells whether the switch may have been off, or its turn not yet have reached everybody, in a time.
func (c *checker) wasOff(from, to time.Duration) bool {
	for _, s := range c.off {
		if s.to != never {
			s.to = c.r.putOff(s.to, s.to+c.r.Heartbeat) + c.r.slack()
		}
		if s.from <= to && from <= s.to {
			return true
		}
	}
	return false
}

// lost tells whether the store may have forgotten, and not yet been told again, in a time.
func (c *checker) lost(from, to time.Duration) bool {
	return slices.ContainsFunc(c.forgot, func(at time.Duration) bool {
		return at <= to && from <= c.r.putOff(at, at+c.r.Heartbeat)+c.r.slack()
	})
}

// transitions: R2, and of R3 and R4 what must not be told.
func (c *checker) transitions(w *watching, user string) {
	sessions := c.users[user]
	var last told // the newest so far
	for i, t := range w.users[user] {
		lo, hi := c.published(t)
		switch t.Online {
		case "false":
			c.offline(w, user, t, lo, hi)
			if i > 0 && last.Online == "false" && t.Rev > last.Rev && !arrived(sessions, last.rev-c.ahead(last), hi) {
				c.found(Violation{Once, user, w.name, hi, t.Rev, fmt.Sprintf("watcher %s was told twice that %s is offline, though nobody came between %+.3fs and %+.3fs",
					w.name, user, last.rev.Seconds(), hi.Seconds())})
			}
		case "null", "none":
			if s := openThroughout(sessions, lo, hi); s != nil && i > 0 && !c.wasOff(lo, hi) && !c.lost(lo, t.At) {
				c.found(Violation{Connected, user, w.name, hi, t.Rev, fmt.Sprintf("watcher %s was told that %s is %s while session %s was open and the switch on", w.name, user, t.Online, s.id)})
			}
		case "true":
			grace := func(s *session) time.Duration {
				if c.wasOff(lo, hi) { // turned on, the switch shows who lingers
					return c.r.bound(s.how) + c.r.slack()
				}
				return disorder
			}
			if !slices.ContainsFunc(sessions, func(s *session) bool {
				return s.began <= hi+round && (s.ended == never || c.late(s)+grace(s) >= lo)
			}) {
				c.found(Violation{Once, user, w.name, hi, t.Rev, fmt.Sprintf("watcher %s was told that %s is online, who had no session", w.name, user)})
			}
			if i > 0 && t.Kind == Seen && last.Online == "true" && t.Rev > last.Rev && !c.wasOff(last.rev-round, hi) && !c.lost(last.rev, t.At) && !c.mayLeave(sessions, last.rev, hi) {
				c.found(Violation{Covered, user, w.name, hi, t.Rev, fmt.Sprintf("watcher %s was told again that %s is online, who had been so since %+.3fs without an absence to tell of",
					w.name, user, last.rev.Seconds())})
			}
		}
		if i == 0 || t.Rev >= last.Rev {
			last = t
		}
	}
}

// late is when a session may have been opened at the latest: while nothing can be told its client gives up, and what it
// asked for may be done all the same.
func (c *checker) late(s *session) time.Duration {
	if s.opened == never {
		return c.r.putOff(s.ended, s.ended)
	}
	return s.ended
}

func (c *checker) ahead(t told) time.Duration {
	lo, _ := c.published(t)
	return t.rev - lo
}

// openThroughout is a session that was open from lo to hi.
func openThroughout(sessions []*session, lo, hi time.Duration) *session {
	for _, s := range sessions {
		if s.open(lo, hi) {
			return s
		}
	}
	return nil
}

// arrived tells whether a session may have been registered between two times.
func arrived(sessions []*session, from, to time.Duration) bool {
	return slices.ContainsFunc(sessions, func(s *session) bool { return s.began <= to+round && min(s.opened, s.ended)+round > from })
}

// offline: a user may be shown offline between lo and hi only if nobody was connected, and for long enough.
func (c *checker) offline(w *watching, user string, t told, lo, hi time.Duration) {
	if s := openThroughout(c.users[user], lo, hi); s != nil {
		c.found(Violation{Connected, user, w.name, hi, t.Rev, fmt.Sprintf("watcher %s was told that %s is offline while session %s was open", w.name, user, s.id)})
		return
	}
	from, last, ok := c.earliest(c.users[user], hi)
	switch {
	case !ok:
		c.found(Violation{Once, user, w.name, hi, t.Rev, fmt.Sprintf("watcher %s was told that %s is offline, of whom no session had ended", w.name, user)})
	case from > hi+round:
		c.found(Violation{Covered, user, w.name, hi, t.Rev, fmt.Sprintf("watcher %s was told that %s is offline %.3fs after session %s ended (%s), which is covered for %v",
			w.name, user, (hi - last.end).Seconds(), last.id, last.how, c.r.cover(last.how))})
	}
}

// earliest is when a user may be shown offline, as of a time, and the session whose end says so; false if none ended.
func (c *checker) earliest(sessions []*session, at time.Duration) (from time.Duration, last *session, ok bool) {
	end := func(s *session) time.Duration {
		if s.opened == never { // it may have come and gone at any time
			return s.began
		}
		return s.end
	}
	// What was never welcomed may never have been registered, so it excuses nothing that others explain.
	if welcomed := slices.DeleteFunc(slices.Clone(sessions), func(s *session) bool { return s.opened == never || end(s) > at+round }); len(welcomed) > 0 {
		sessions = welcomed
	}
	var latest time.Duration = -1
	for _, s := range sessions {
		if end(s) <= at+round {
			latest = max(latest, end(s))
		}
	}
	for _, s := range sessions {
		if end(s) > at+round || min(s.ended, at)+disorder < latest {
			continue
		}
		cover := c.r.cover(cmp.Or(s.how, Lost))
		if s.asked != "" {
			cover = min(cover, c.r.cover(s.asked))
		}
		if s.asked == "" { // the node may have noticed before the client did
			cover = max(0, cover-disorder)
		}
		if due := max(end(s)+cover, latest); !ok || due < from {
			from, last, ok = due, s, true
		}
	}
	return from, last, ok
}

// mayLeave tells whether an offline transition may have come, and an arrival followed, between two times.
func (c *checker) mayLeave(sessions []*session, from, to time.Duration) bool {
	for _, s := range sessions {
		ends := s.end
		if s.opened == never {
			ends = s.began
		}
		if ends > to {
			continue
		}
		// the moment from which on the user may be offline because of this end
		due, _, ok := c.earliest(sessions, ends)
		if ok && due <= to && s.ended+disorder >= from && openThroughout(sessions, due+2*round, due+2*round) == nil {
			return true
		}
	}
	return false
}

// arrivals: of R6, that who is there is soon shown so.
func (c *checker) arrivals(w *watching, user string) {
	for _, s := range c.users[user] {
		if s.opened == never {
			continue
		}
		due := c.r.putOff(s.opened, s.opened) + c.r.slack()
		if !s.open(s.opened+2*round, due) || c.wasOff(s.opened, due) || c.lost(s.opened, due) || due > c.end ||
			!slices.ContainsFunc(w.joined, func(j span) bool { return j.holds(s.opened, due) }) {
			continue
		}
		if view := w.view(user, due); view.Online != "true" {
			c.found(Violation{InTime, user, w.name, due, view.Rev, fmt.Sprintf("watcher %s still believed %s to be %s (as of revision %d), %.3fs after session %s was opened",
				w.name, user, cmp.Or(view.Online, "unknown"), view.Rev, (due - s.opened).Seconds(), s.id)})
		}
	}
}

// view is what the watcher believed at a time.
func (w *watching) view(user string, at time.Duration) (newest told) {
	for _, t := range w.users[user] {
		if t.At > at {
			break
		}
		if t.Rev >= newest.Rev {
			newest = t
		}
	}
	return newest
}

// absence is a time in which a user had no session. An attempt to connect that came to nothing may have been one, and
// so divides it.
type absence struct {
	since    time.Duration // when the user had come who is absent now
	from, to time.Duration // to: when the next session began; never, if none did
	due      time.Duration // when the user must have been shown offline
	how      string        // how the session ended that ended last
}

// absencesOf are a user's, in order.
func (c *checker) absencesOf(sessions []*session) (list []absence) {
	sorted := slices.SortedFunc(slices.Values(sessions), func(a, b *session) int { return cmp.Compare(a.began, b.began) })
	a, came := absence{since: never}, never
	for i, s := range sorted {
		came = min(came, s.began)
		if s.opened != never {
			a.since = came
		}
		if s.ended == never {
			return list
		}
		if s.ended >= a.from {
			a.from, a.how = s.ended, s.how
		}
		a.due = max(a.due, c.r.putOff(s.ended, s.ended+c.r.bound(s.how)))
		a.to = never
		if i+1 < len(sorted) {
			a.to = sorted[i+1].began
		}
		if a.to > a.from {
			came = never
			if a.since != never {
				list = append(list, a)
			}
		}
	}
	return list
}

// absences: of R3 and R6, that who has left is shown so, once and in time.
func (c *checker) absences(user string) {
	for _, a := range c.absencesOf(c.users[user]) {
		if c.wasOff(a.from, a.due+c.r.slack()) || c.lost(a.from-c.r.bound(Lost), a.due) {
			continue
		}
		switch first := c.first(user, a); {
		case first == never && a.to != never:
			c.v.Covered++
		case first != never && first >= a.from-disorder:
			c.v.Took[a.how] = append(c.v.Took[a.how], max(0, first-a.from))
		}
		due, ends := a.due+c.r.slack(), min(a.to, c.end)
		if due >= ends {
			continue
		}
		for _, name := range slices.Sorted(maps.Keys(c.watchers)) {
			w := c.watchers[name]
			if !slices.ContainsFunc(w.joined, func(j span) bool { return j.holds(a.from, due) }) {
				continue
			}
			rule, text := Once, "was never told"
			for _, t := range w.users[user] {
				if c.ofAbsence(t, a) && t.At <= ends {
					rule, text = InTime, fmt.Sprintf("was told only at %+.3fs", t.At.Seconds())
					if t.At <= due {
						rule = ""
						break
					}
				}
			}
			if rule != "" && c.r.Gaps && w.view(user, due).Online == "false" {
				continue // it was told of neither the arrival nor the departure
			}
			if rule != "" {
				c.found(Violation{rule, user, name, due, 0, fmt.Sprintf("watcher %s %s that %s is offline, whose last session ended at %+.3fs (%s) and who did not come back before %s",
					name, text, user, a.from.Seconds(), a.how, until(a.to))})
			}
		}
	}
}

// ofAbsence tells whether t is an offline event that an absence, or an attempt to end it, led to.
func (c *checker) ofAbsence(t told, a absence) bool {
	lo, hi := c.published(t)
	return t.Online == "false" && lo > a.since && hi < a.to
}

// first is when the offline event of an absence was published; never, if it was not.
func (c *checker) first(user string, a absence) time.Duration {
	first := never
	for _, w := range c.watchers {
		for _, t := range w.users[user] {
			if c.ofAbsence(t, a) {
				_, hi := c.published(t)
				first = min(first, hi)
			}
		}
	}
	return first
}

func until(at time.Duration) string {
	if at == never {
		return "the end"
	}
	return fmt.Sprintf("%+.3fs", at.Seconds())
}

// agreement: R5.
func (c *checker) agreement(user string) {
	if len(c.rest[user]) == 0 {
		return
	}
	truth, why := c.truth(user)
	said := slices.Clone(c.rest[user])
	for _, name := range slices.Sorted(maps.Keys(c.watchers)) {
		w := c.watchers[name]
		if view := w.view(user, c.end); len(w.joined) > 0 && view.Kind != "" {
			said = append(said, view)
		}
	}
	who := func(t told) string {
		if t.Watcher != "" {
			return "watcher " + t.Watcher
		}
		return "REST on " + t.Node
	}
	for _, t := range said {
		if !slices.Contains(truth, t.Online) {
			c.found(Violation{Agreement, user, t.Watcher, c.end, t.Rev, fmt.Sprintf("at the end %s says %s is %s, revision %d; the truth is %s: %s",
				who(t), user, t.Online, t.Rev, strings.Join(truth, " or "), why)})
			return
		}
	}
	// Where revisions fell back, or run ahead after a flip, each node counts on from what it showed last.
	for _, t := range said[1:] {
		if first := said[0]; !alike(t, first) || t.Rev != first.Rev && !c.r.Gaps && len(c.forgot)+len(c.flips) == 0 {
			c.found(Violation{Agreement, user, t.Watcher, c.end, t.Rev, fmt.Sprintf("at the end %s says %s is %s, revision %d; %s says %s, revision %d",
				who(t), user, t.Online, t.Rev, who(first), first.Online, first.Rev)})
			return
		}
	}
}

// SDKWatcher is the watcher that speaks the Conversations SDK's protocol, in which a user that does not exist is one of
// whom nothing is known.
const SDKWatcher = "sdk"

// alike tells whether two say the same of a user.
func alike(a, b told) bool {
	nothing := func(t told) bool { return t.Online == "null" || t.Online == "none" }
	return a.Online == b.Online || (a.Watcher == SDKWatcher || b.Watcher == SDKWatcher) && nothing(a) && nothing(b)
}

// truth is what may be said of a user at the end.
func (c *checker) truth(user string) (may []string, why string) {
	if n := len(c.off); n > 0 && c.off[n-1].to == never {
		return []string{"null", "none"}, "the switch is off"
	}
	var lately time.Duration // a session that ended before need not be known any more
	for _, s := range c.off {
		lately = max(lately, s.to)
	}
	for _, at := range c.forgot {
		lately = max(lately, at+c.r.bound(Lost))
	}
	opened, before := false, false
	for _, s := range c.users[user] {
		switch {
		case s.opened != never && s.ended == never:
			return []string{"true"}, "session " + s.id + " is open"
		case s.opened == never && s.ended == never:
			return []string{"true", "false", "null", "none"}, "a session is being opened"
		case s.opened != never:
			opened = true
			before = before || s.ended <= lately+c.r.slack()
		}
	}
	switch {
	case !opened:
		return []string{"null", "none", "false"}, "no session was ever opened"
	case before:
		return []string{"null", "none", "false"}, "no session is open"
	}
	return []string{"false"}, "no session is open"
}

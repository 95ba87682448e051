// Package faults breaks what a gateway depends on while users come and go, and checks what watchers were told against
// a record of which sockets were truly open.
package faults

import (
	"fmt"
	"io"
	"slices"
	"sync"
	"time"
)

// Kind says what an Entry is about.
type Kind string

// The kinds of entries. A session is one socket of a user. What its client knows for sure is when it began to
// connect, when it was welcomed, when it began to leave and when it had left; the checker draws no conclusion from
// the time between the first two, nor between the last two.
const (
	Began   Kind = "began"   // User's client began to connect Session, to Node
	Opened  Kind = "opened"  // Session was welcomed: its user is online from here on
	Leaving Kind = "leaving" // its client is about to say bye, or to drop it
	Ended   Kind = "ended"   // it is over, How: one of the Hows
	Joined  Kind = "joined"  // Watcher is subscribed to all users and has their snapshots, on Node
	Parted  Kind = "parted"  // Watcher lost its connection
	Seen    Kind = "seen"    // Watcher was told that User is Online, with Rev
	Read    Kind = "read"    // Watcher got a snapshot that says so
	Told    Kind = "told"    // at the end, REST on Node says so
	Fault   Kind = "fault"   // What was done, in words
	Off     Kind = "off"     // the switch is about to be turned off
	On      Kind = "on"      // the switch has been turned on
	Forgot  Kind = "forgot"  // the store has lost its data, or may have
)

// How a session ended.
const (
	Bye     = "bye"     // its client said so, and the server agreed
	Drop    = "drop"    // its client cut the connection
	Lost    = "lost"    // the connection broke
	Moved   = "moved"   // the server sent the client elsewhere (1001, 1012)
	Kicked  = "kicked"  // the server ended it for good (3500 and above)
	Refused = "refused" // it was never opened
)

// Entry is one thing that happened. Which fields it has depends on its kind.
type Entry struct {
	At      time.Duration // since the history's start
	Kind    Kind
	User    string
	Session string
	Watcher string
	Node    string
	Rev     int64
	Online  string // true, false, null, or none for a user that does not exist
	How     string
	What    string
}

// History is what happened, in the order in which it was recorded.
type History struct {
	Start   time.Time
	End     time.Duration // since Start: nothing happened after the last entry until then
	Entries []Entry
}

// Recorder makes a History. Its methods may be called by any goroutine.
type Recorder struct {
	start time.Time
	mu    sync.Mutex // guards entries
	entry []Entry
}

// NewRecorder begins a history now.
func NewRecorder() *Recorder { return &Recorder{start: time.Now()} }

// Add records e as of now and returns its time.
func (r *Recorder) Add(e Entry) time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	e.At = time.Since(r.start)
	r.entry = append(r.entry, e)
	return e.At
}

// Now is the time since the start.
func (r *Recorder) Now() time.Duration { return time.Since(r.start) }

// History is what was recorded so far.
func (r *Recorder) History() History {
	r.mu.Lock()
	defer r.mu.Unlock()
	return History{r.start, time.Since(r.start), slices.Clone(r.entry)}
}

// of is what has to do with a violation: its user, as its watcher saw it, and the faults.
func (h History) of(v Violation) History {
	h.Entries = slices.DeleteFunc(slices.Clone(h.Entries), func(e Entry) bool {
		return e.User != "" && e.User != v.User || e.Watcher != "" && e.Watcher != v.Watcher
	})
	return h
}

// rev is when a revision was given, since the start: revisions are the time of Redis.
func (h History) rev(rev int64) time.Duration {
	return time.Duration(rev)*time.Millisecond - time.Duration(h.Start.UnixNano())
}

const printed = 100 // entries, at most

// Print writes the history for people.
func (h History) Print(w io.Writer) {
	for i, e := range h.Entries {
		if i == printed {
			_, _ = fmt.Fprintf(w, "... and %d more\n", len(h.Entries)-i)
			return
		}
		_, _ = fmt.Fprintf(w, "%+9.3fs  %s\n", e.At.Seconds(), h.line(e))
	}
}

func (h History) line(e Entry) string {
	at := func() string {
		if e.Rev == 0 {
			return "rev 0"
		}
		return fmt.Sprintf("rev %d (%+.3fs)", e.Rev, h.rev(e.Rev).Seconds())
	}
	switch e.Kind {
	case Began:
		return fmt.Sprintf("%s connects as session %s to %s", e.User, e.Session, e.Node)
	case Opened:
		return fmt.Sprintf("%s is welcomed: session %s is open", e.User, e.Session)
	case Leaving:
		return fmt.Sprintf("%s is about to end session %s: %s", e.User, e.Session, e.How)
	case Ended:
		return fmt.Sprintf("%s: session %s is over: %s %s", e.User, e.Session, e.How, e.What)
	case Joined:
		return fmt.Sprintf("watcher %s is subscribed, on %s", e.Watcher, e.Node)
	case Parted:
		return fmt.Sprintf("watcher %s lost its connection: %s", e.Watcher, e.What)
	case Seen:
		return fmt.Sprintf("watcher %s is told: %s is %s, %s", e.Watcher, e.User, e.Online, at())
	case Read:
		return fmt.Sprintf("watcher %s reads: %s is %s, %s", e.Watcher, e.User, e.Online, at())
	case Told:
		return fmt.Sprintf("REST on %s says: %s is %s, %s", e.Node, e.User, e.Online, at())
	case Fault:
		return "FAULT: " + e.What
	case Off:
		return "the switch is turned off"
	case On:
		return "the switch is on"
	case Forgot:
		return "the store may have lost its data"
	}
	return fmt.Sprintf("%+v", e)
}

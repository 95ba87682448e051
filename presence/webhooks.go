package presence

import (
	"slices"
	"strings"
	"time"
)

// The events that a backend can be told of.
const (
	EventUserAdded           = "onUserAdded"
	EventUserUpdate          = "onUserUpdate" // before the change; asked, not told
	EventUserUpdated         = "onUserUpdated"
	EventReachabilityChanged = "onReachabilityChanged"
)

// MaxDebounce bounds the debounce window of a service; one that is not 0 is at
// least MinDebounce.
const (
	MinDebounce = time.Second
	MaxDebounce = 30 * time.Second
)

// Webhooks is where the backend of a service, or of the account, is told what
// happens. The zero value is one that was never configured.
type Webhooks struct {
	PreURL, PostURL string // empty: none
	Filters         string // names of the events that fire, joined by commas
	Method          string // GET, POST, or empty where never set: POST
	Target          string // of the account: webhook, flex, or empty where never set
}

// Own reports whether there is anybody to tell. A service that has its own webhooks
// overrides those of the account.
func (w Webhooks) Own() bool { return w.PreURL != "" || w.PostURL != "" }

// Or is w, or the account's where w tells nobody.
func (w Webhooks) Or(account Webhooks) Webhooks {
	if w.Own() {
		return w
	}
	return account
}

// Events are the names in Filters.
func (w Webhooks) Events() []string {
	if w.Filters == "" {
		return nil
	}
	return strings.Split(w.Filters, ",")
}

// Fires reports whether an event is one of Filters.
func (w Webhooks) Fires(event string) bool { return slices.Contains(w.Events(), event) }

// WebhooksUpdate names what to set of Webhooks; nil keeps what is there.
type WebhooksUpdate struct {
	PreURL, PostURL, Filters, Method, Target *string
}

// Owed is one event that a backend is to be told of, as recorded when it happened.
type Owed struct {
	SID   string // EV SID: the same at every attempt
	Event string // name; empty for a record that cannot be read
	// User is the state recorded with the event; readers want Service.View. The
	// profile and its dates are set only where the event carries them.
	User    User
	Profile bool      // the profile changed, whatever else did
	Cause   string    // connect, end, linger, ...; see emit in lib.lua
	Origin  string    // SDK or API: whose doing it was
	At      time.Time // when it happened
	Queued  time.Time // when it was queued, last if more than once
	// Before is the revision of the user's last change of reachability that was
	// queued before this one; 0 for the first, and where reachability did not change.
	Before int64
}

// Claimed is what a claim took of one user: its next events, in order.
type Claimed struct {
	Key
	Failed int // attempts at the first event that failed
	Events []Owed
}

// Claim is what was taken of one partition.
type Claim struct {
	Users []Claimed
	// Next is how long until there is work again, beside what was left out; negative
	// if there is none.
	Next    time.Duration
	LeftOut bool // a service that was to be left out has work
	// Events that became dead letters because too many of a user waited, and dead
	// letters that made room for others, since the partition's last claim.
	Overflowed, Lost int
}

// Settled is what became of what was claimed of one user.
type Settled struct {
	Key
	Delivered []string // EV SIDs, in order
	// Failed is the EV SID of the event after those, to be tried again after Retry;
	// with a negative Retry it was not tried but is given back. Empty: none.
	Failed string
	Retry  time.Duration
	Why    string // it failed: a word
}

// Settling is the answer to settling what was claimed of a partition.
type Settling struct {
	Dead int           // events that became dead letters
	Next time.Duration // until there is work; negative if there is none
}

// DeadLetter is an event that was not delivered and will not be tried again by
// itself.
type DeadLetter struct {
	Owed
	Attempts int       // that failed
	Why      string    // the last did: a word; or "overflow"
	Died     time.Time // when it was given up
}

// Errors of webhooks.
var (
	ErrNoDeadLetter = &Error{Op: "no such dead letter", Kind: KindNotFound}
)

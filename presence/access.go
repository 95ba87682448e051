package presence

import "time"

// Access stands in an event of Services for the SID of a service when API keys or
// revocations changed.
const Access = "access"

// MaxAPIKeys bounds the API keys made at run time; every node has all of them in
// memory.
const MaxAPIKeys = 1000

// APIKey is an API key made at run time, as stored.
type APIKey struct {
	SID, Account     string // SK SID, AC SID
	FriendlyName     string
	Secret           string
	Created, Updated time.Time
}

const (
	// MaxRevocations bounds the revocations in force in all services together; every
	// node has all of them in memory.
	MaxRevocations = 50_000
	// RevocationLife is how long a revocation is in force: longer than any token
	// issued before it can live.
	RevocationLife = 24*time.Hour + time.Minute
)

// Revocation withdraws access tokens of a service: those of an identity, or of
// everybody, that were issued before a time. A newer one of the same identity takes
// its place.
type Revocation struct {
	SID      string // RV SID; the same each time for one identity of a service
	Service  string
	Identity string // "" for everybody
	Before   time.Time
	Created  time.Time
}

// Expires is when the revocation is no longer needed.
func (r Revocation) Expires() time.Time { return r.Created.Add(RevocationLife) }

// AccessMark tells how much of the store's keys and revocations a reader has. The
// zero mark is that of a reader who has nothing.
type AccessMark struct {
	Run   string // of the services' event counter
	Keys  int64  // changes of keys
	Stamp int64  // of the newest revocation
}

// AccessChange is what came after a mark.
type AccessChange struct {
	Mark AccessMark // to be given next time
	// Lost tells that the store lost data since the mark, and nothing else: what the
	// reader has should be written back, and all be read anew.
	Lost bool
	// Keys are all there are, if NewKeys; else they are as they were.
	NewKeys bool
	Keys    []APIKey
	// Revocations are the newer ones, in order; with More there are yet others.
	Revocations []Revocation
	More        bool
}

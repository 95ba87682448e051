package presence

import (
	"encoding/base64"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Each user of a service stands in the service's change log once, at the stamp of
// its last change. Whoever reads the log up to its end, and from there on, knows the
// state of every user, however long it was away between two pages.

// ChangesKept is how long a reader of changes may be away: deletions are forgotten
// after it.
const ChangesKept = 7 * 24 * time.Hour

var (
	// ErrPlaceGone tells that what changed since a Place cannot be told any more:
	// everything is to be read again.
	ErrPlaceGone = &Error{Op: "changes since then are not known any more", Kind: KindConflict}
	// ErrPlace tells that a text is no Place.
	ErrPlace = &Error{Op: "not a place in the change log", Kind: KindInvalid}
)

// Place is how far a reader has read a service's change log. The zero Place is the
// beginning. Its text is what clients know as a cursor.
type Place struct {
	Run       string    // of the services' event counter; another is another store
	Switch    int64     // Service.Rev as the reader knows it
	Since     int64     // us: of what was deleted before, the reader knows nothing, or that
	Stamp     int64     // us: of the last change read
	Partition Partition // of that change; the log of equal stamps is in the order of partitions
}

// Before reports whether p comes before o in the log of one store.
func (p Place) Before(o Place) bool {
	return p.Stamp < o.Stamp || p.Stamp == o.Stamp && p.Partition < o.Partition
}

// String is the Place as [A-Za-z0-9_-]+; "" for the beginning.
func (p Place) String() string {
	if p == (Place{}) {
		return ""
	}
	return base64.RawURLEncoding.EncodeToString(fmt.Appendf(nil, "%s.%d.%d.%d.%d", p.Run, p.Switch, p.Since, p.Stamp, p.Partition))
}

// maxPlace bounds the text of a Place, with room to spare.
const maxPlace = 200

// ParsePlace reads what String wrote; ErrPlace.
func ParsePlace(text string) (p Place, err error) {
	if text == "" {
		return Place{}, nil
	}
	if len(text) > maxPlace {
		return Place{}, ErrPlace
	}
	b, err := base64.RawURLEncoding.DecodeString(text)
	f := strings.Split(string(b), ".")
	if err != nil || len(f) != 5 || f[0] == "" {
		return Place{}, ErrPlace
	}
	var n [4]int64
	for i := range n {
		v, err := strconv.ParseUint(f[i+1], 10, 53)
		if err != nil {
			return Place{}, ErrPlace
		}
		n[i] = int64(v) // below 2^53
	}
	if n[3] > int64(1<<16) {
		return Place{}, ErrPlace
	}
	return Place{Run: f[0], Switch: n[0], Since: n[1], Stamp: n[2], Partition: Partition(n[3])}, nil
}

// Moment is a point in time up to which the change logs of all services are
// complete, and how far each partition's had come.
type Moment struct {
	Run    string
	Bound  int64   // us: every change with a lower stamp has been made
	Stamps []int64 // us, of the last change of each partition, in any service
}

// Place is the end of a service's log at the moment.
func (m Moment) Place(s Service) Place {
	return Place{Run: m.Run, Switch: s.Rev, Since: m.Bound, Stamp: m.Bound - 1, Partition: Partition(len(m.Stamps) - 1)}
}

// Change is a user as the change log tells of it.
type Change struct {
	User    User // without profile; SID is "" for a deleted one
	Deleted bool
	Place   Place // to go on from after it
}

// Changes is a page of a service's change log.
type Changes struct {
	// Reset tells that the switch was flipped since the reader's Place: what it knows
	// of any user's reachability is void, null until it is told again. If the switch
	// is on, the log is then read from the beginning.
	Reset bool
	Items []Change
	Next  Place // to go on from
	More  bool  // there is more up to the Moment
}

package gateway

import "time"

// rate is a token bucket's size: so many a second, and so many at once.
type rate struct {
	perSecond, burst int
}

// bucket is a token bucket in eight bytes: the time at which it will be full
// again, as a duration on any monotonic clock. The zero bucket is full. Its user
// guards it.
type bucket struct {
	full time.Duration
}

// take takes one token. When there is none, it tells how long until there is.
func (b *bucket) take(now time.Duration, r rate) (wait time.Duration, ok bool) {
	step := time.Second / time.Duration(r.perSecond)
	full := max(b.full, now) + step
	if wait = full - now - step*time.Duration(r.burst); wait > 0 {
		return wait, false
	}
	b.full = full
	return 0, true
}

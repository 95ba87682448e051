// Package rate is token buckets.
package rate

import "time"

// Limit is a token bucket's size: so many a second in the long run, and so many at
// once. Both are at least 1.
type Limit struct {
	PerSecond, Burst int
}

// Bucket is a token bucket in eight bytes: the time at which it will be full again,
// as a duration on any monotonic clock. The zero Bucket is full. Its user guards it.
type Bucket struct {
	full time.Duration
}

// Take takes one token. When there is none, it tells how long until there is.
func (b *Bucket) Take(now time.Duration, l Limit) (wait time.Duration, ok bool) {
	step := time.Second / time.Duration(l.PerSecond)
	full := max(b.full, now) + step
	if wait = full - now - step*time.Duration(l.Burst); wait > 0 {
		return wait, false
	}
	b.full = full
	return 0, true
}

// Full reports whether the bucket is as good as a new one.
func (b *Bucket) Full(now time.Duration) bool { return b.full <= now }

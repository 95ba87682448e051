package rate_test

import (
	"testing"
	"time"

	"github.com/rollcall-presence/rollcall/internal/rate"
)

func TestBucket(t *testing.T) {
	var b rate.Bucket
	limit := rate.Limit{PerSecond: 10, Burst: 3}
	now := time.Hour
	for i := range 3 {
		if wait, ok := b.Take(now, limit); !ok || wait != 0 {
			t.Fatalf("Take %d = %v, %v; want a token", i, wait, ok)
		}
	}
	if b.Full(now) {
		t.Error("Full of an empty bucket = true; want false")
	}
	for range 2 { // what is refused costs nothing
		if wait, ok := b.Take(now, limit); ok || wait != 100*time.Millisecond {
			t.Errorf("Take from an empty bucket = %v, %v; want to wait 100ms", wait, ok)
		}
	}
	if _, ok := b.Take(now+100*time.Millisecond, limit); !ok {
		t.Error("Take after the wait = false; want a token")
	}
	if now += 400 * time.Millisecond; !b.Full(now) {
		t.Error("Full after all came back = false; want true")
	}
	for i := range 4 {
		if _, ok := b.Take(now, limit); ok != (i < 3) {
			t.Errorf("Take %d of a full bucket = %v; want 3 tokens, not one saved up", i, ok)
		}
	}
}

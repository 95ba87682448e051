package rig

import (
	"errors"
	"testing"
	"time"
)

// ErrNotYet is for conditions that have nothing to say but that they do not hold yet.
var ErrNotYet = errors.New("not yet")

// Eventually waits for f to return nil, for 30 s.
func Eventually(t testing.TB, what string, f func() error) {
	t.Helper()
	Within(t, 30*time.Second, what, f)
}

// Within waits for f to return nil, and fails the test if it does not within d.
func Within(t testing.TB, d time.Duration, what string, f func() error) {
	t.Helper()
	deadline := time.After(d)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := f()
		if err == nil {
			return
		}
		select {
		case <-deadline:
			t.Fatalf("%s: %v", what, err)
		case <-tick.C:
		}
	}
}

// Elapse lets d go by: for what must not happen meanwhile.
func Elapse(t testing.TB, d time.Duration) {
	t.Helper()
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-t.Context().Done():
	}
}

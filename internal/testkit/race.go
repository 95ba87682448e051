//go:build race

package testkit

// Race tells that the race detector is on, under which a sync.Pool forgets every
// fourth of what is put into it.
const Race = true

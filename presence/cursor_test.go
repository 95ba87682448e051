package presence_test

import (
	"testing"

	"github.com/rollcall-presence/rollcall/presence"
)

func TestCursor(t *testing.T) {
	var c presence.Cursor
	for _, step := range []struct {
		what string
		got  presence.Gap
		want presence.Gap
	}{
		{"first event", c.Event("a", 7), presence.GapFirst},
		{"next", c.Event("a", 8), presence.NoGap},
		{"one skipped", c.Event("a", 10), presence.GapSeq},
		{"told once", c.Event("a", 11), presence.NoGap},
		{"twice", c.Event("a", 11), presence.GapSeq},
		{"another counter", c.Event("b", 12), presence.GapRun},
		{"heartbeat that knows less", c.Skip("b", 11, c), presence.NoGap},
		{"heartbeat that knows as much", c.Skip("b", 12, c), presence.NoGap},
		{"heartbeat that knows more", c.Skip("b", 14, c), presence.GapBeat},
		{"next after it", c.Event("b", 15), presence.NoGap},
		{"heartbeat of an empty store", c.Skip("", 0, c), presence.GapRun},
		{"its first event", c.Event("c", 1), presence.NoGap},
		{"heartbeat of another", c.Skip("d", 1, c), presence.GapRun},
	} {
		if step.got != step.want {
			t.Errorf("%s: gap %d; want %d", step.what, step.got, step.want)
		}
	}

	since := c
	c.Event("e", 1)
	if got := c.Skip("d", 2, since); got != presence.NoGap {
		t.Errorf("Skip to a counter that was left = %d; want NoGap", got)
	}

	c = presence.Cursor{}
	if !c.Behind("", 0) {
		t.Error("a new cursor is not behind an empty store; it cannot know that it was always empty")
	}
	if got := c.Skip("", 0, c); got != presence.GapFirst {
		t.Errorf("Skip of a new cursor = %d; want GapFirst", got)
	}
	if c.Behind("", 0) {
		t.Error("Behind an empty store after Skip")
	}
}

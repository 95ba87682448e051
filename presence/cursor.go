package presence

import "strings"

// Gap says why a reader of numbered events must take it that it missed some.
type Gap uint8

// The kinds of gap.
const (
	NoGap    Gap = iota
	GapFirst     // nothing was heard before: what came earlier is unknown, though nothing is known to be lost
	GapSeq       // a number was skipped, or came twice
	GapRun       // the counter is another one: the store lost its data
	GapBeat      // the store counts more events than have arrived
)

// Cursor follows one partition's events, which carry a run (the counter's name)
// and a seq that grows by one with each. After a gap it goes on from the event
// that showed it, so that one loss is told once. The zero Cursor has heard nothing.
// It is not safe for concurrent use.
type Cursor struct {
	run   string // "" while the store has published nothing
	seq   uint64
	heard bool // of the store's counter: by an event, or by Skip
}

// Event moves the cursor to a received event and tells whether any were missed
// before it.
func (c *Cursor) Event(run string, seq uint64) Gap {
	last := *c
	c.move(run, seq)
	switch {
	case !last.heard:
		return GapFirst
	case run == last.run && seq == last.seq+1, last.run == "" && seq == 1:
		return NoGap
	case run == last.run:
		return GapSeq
	}
	return GapRun
}

// Behind reports whether the store, which has published seq events of run, is
// ahead of what was received. Messages may still be on their way: a caller asks
// again a little later before it calls Skip.
func (c *Cursor) Behind(run string, seq uint64) bool {
	return !c.heard || run != c.run || seq > c.seq
}

// Skip gives up on what is missing up to seq of run: the caller reads again what it
// needs. It returns NoGap if nothing is missing any more, or if the cursor has
// moved to another counter since it was found behind: which of the two the store
// has now is for the next heartbeat to say.
func (c *Cursor) Skip(run string, seq uint64, since Cursor) Gap {
	last := *c
	if !c.Behind(run, seq) || last.heard != since.heard || last.run != since.run {
		return NoGap
	}
	c.move(run, seq)
	switch {
	case !last.heard:
		return GapFirst
	case run != last.run:
		return GapRun
	}
	return GapBeat
}

func (c *Cursor) move(run string, seq uint64) {
	if run != c.run {
		c.run = strings.Clone(run) // not the message it is part of
	}
	c.seq, c.heard = seq, true
}

package presence

import (
	"context"
	"time"
)

// Compared is how a node's sessions and the store's record of them differ.
type Compared struct {
	Missing int // held here, and told to the store, which does not have them
	Surplus int // in the store's record, and not held here
}

// compareTries bounds how often Compare looks again because sessions came or went
// meanwhile.
const compareTries = 3

// Compare compares the sessions that are held here with what the store has of this
// node in a partition, and counts the differences that last for a while; the next
// heartbeat mends them. In a partition where sessions come and go all the time nothing
// may be found. It makes one round trip where nothing differs.
func (t *Tracker) Compare(ctx context.Context, q Partition, while time.Duration) (Compared, error) {
	first, err := t.differences(ctx, q)
	if err != nil || len(first) == 0 {
		return Compared{}, err
	}
	select {
	case <-ctx.Done():
		return Compared{}, ctx.Err()
	case <-time.After(while):
	}
	now, err := t.differences(ctx, q)
	if err != nil {
		return Compared{}, err
	}
	var c Compared
	for s, held := range now {
		switch was, ok := first[s]; {
		case !ok || was != held:
		case held:
			c.Missing++
		default:
			c.Surplus++
		}
	}
	if c != (Compared{}) {
		p := &t.parts[q]
		p.mu.Lock()
		p.unsure = true
		p.mu.Unlock()
	}
	return c, nil
}

// differences are the sessions that only one of node and store has, and whether it is
// the node. A session whose opening or end is under way is none.
func (t *Tracker) differences(ctx context.Context, q Partition) (map[SessionID]bool, error) {
	p := &t.parts[q]
	for range compareTries {
		p.mu.Lock()
		started, quiet := p.started, p.flying == 0 && !p.dirty
		p.mu.Unlock()
		if !quiet {
			continue
		}
		list, err := t.store.Sessions(ctx, q, t.opt.Node)
		if err != nil {
			return nil, err
		}
		if d, ok := p.differences(list, started); ok {
			return d, nil
		}
	}
	return nil, nil
}

// differences reports false if what is known here changed while the list was read.
func (p *part) differences(list []Ended, started int64) (map[SessionID]bool, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.started != started || p.flying > 0 || p.dirty {
		return nil, false
	}
	d := map[SessionID]bool{}
	stored := make(map[SessionID]bool, len(list))
	for _, e := range list {
		stored[e.ID] = true
		_, held := p.held[e.ID]
		_, owed := p.owed[e.ID]
		if !held && !owed {
			d[e.ID] = false
		}
	}
	for s, h := range p.held {
		if h.sid != "" && !stored[s] { // else its opening has not been answered
			d[s] = true
		}
	}
	return d, true
}

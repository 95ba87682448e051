package presence

import (
	"context"
	"time"
)

// Compared counts the sessions of a node that its sockets, it and the store disagree on.
type Compared struct {
	Missing int // held here, and told to the store, which does not have them
	Surplus int // in the store's record, and not held here
	Closed  int // held here, and their socket is not open
}

// difference is how a session is not the same for all.
type difference int

const (
	missing difference = iota + 1
	surplus
	closed
)

// compareTries bounds how often Compare looks again because sessions came or went
// meanwhile.
const compareTries = 3

// Compare compares the sessions that are held here with what the store has of this
// node in a partition, and with the sockets that are open, and counts the differences
// that last for a while. The next heartbeat mends the store's record; a session without
// socket is closed as lost. In a partition where sessions come and go all the time nothing
// may be found. It makes one round trip where nothing differs.
func (t *Tracker) Compare(ctx context.Context, q Partition, while time.Duration, open func(SessionID) bool) (Compared, error) {
	first, err := t.differences(ctx, q, open)
	if err != nil || len(first) == 0 {
		return Compared{}, err
	}
	select {
	case <-ctx.Done():
		return Compared{}, ctx.Err()
	case <-time.After(while):
	}
	now, err := t.differences(ctx, q, open)
	if err != nil {
		return Compared{}, err
	}
	p := &t.parts[q]
	var c Compared
	for s, d := range now {
		if first[s] != d {
			continue
		}
		switch d {
		case missing:
			c.Missing++
		case surplus:
			c.Surplus++
		case closed:
			c.Closed++
			p.mu.Lock()
			k := p.held[s].key
			p.mu.Unlock()
			_ = t.Close(ctx, k, s, EndLost, time.Now()) // what fails is owed
		}
	}
	if c.Missing+c.Surplus > 0 {
		p.mu.Lock()
		p.unsure = true
		p.mu.Unlock()
	}
	return c, nil
}

// differences are the sessions that are not the same for all. One whose opening or end
// is under way is none.
func (t *Tracker) differences(ctx context.Context, q Partition, open func(SessionID) bool) (map[SessionID]difference, error) {
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
		d, held, ok := p.differences(list, started)
		if !ok {
			continue
		}
		for _, s := range held {
			if !open(s) {
				d[s] = closed
			}
		}
		return d, nil
	}
	return nil, nil
}

// differences compares what is held with the store's list, and returns what is held and
// was told to the store. It reports false if anything began while the list was read.
func (p *part) differences(list []Ended, started int64) (d map[SessionID]difference, told []SessionID, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.started != started || p.flying > 0 || p.dirty {
		return nil, nil, false
	}
	d = map[SessionID]difference{}
	strays, stored := p.straysLocked(list)
	for _, e := range strays {
		d[e.ID] = surplus
	}
	for s, h := range p.held {
		if h.sid == "" { // its opening has not been answered
			continue
		}
		told = append(told, s)
		if !stored[s] {
			d[s] = missing
		}
	}
	return d, told, true
}

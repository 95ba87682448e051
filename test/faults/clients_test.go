package faults

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/rollcall-presence/rollcall/internal/testkit/proxy"
	"github.com/rollcall-presence/rollcall/internal/testkit/rig"
)

// Half of all connections go over lines that carry little at a time and are cut anywhere: in a handshake, in a frame.
func TestBadLines(t *testing.T) {
	Scenario{
		Name: "lines on which frames come in pieces, and are cut in the middle of one", Guarantees: "G1, G3, G8",
		Bound: "a connection that is cut lingers like any other; no half frame does anything",
		Fault: func(w *World) {
			var lines []*proxy.Proxy
			for i, n := range w.Nodes {
				p := proxy.New(w, n.Addr)
				lines = append(lines, p)
				w.Balancer.Set(i, &rig.Node{Addr: p.Addr()})
			}
			w.Balancer.Down()
			w.Balancer.Up(w)
			w.Note("connections through the balancer come in pieces and are cut in the middle")
			cuts := 0
			for until := w.Rec.Now() + w.pick(8*time.Second, 40*time.Second); w.Rec.Now() < until; {
				for _, p := range lines {
					before := p.Conns(proxy.Other)
					p.Set(proxy.Other, proxy.Rule{
						Up:   proxy.Flow{Rate: 10_000, Cut: 1 + w.Rand.IntN(1200)},
						Down: proxy.Flow{Rate: 60_000, Cut: 1 + w.Rand.IntN(5000)},
					})
					w.Elapse(50 * time.Millisecond)
					cuts += max(0, before-p.Conns(proxy.Other))
				}
			}
			for _, p := range lines {
				p.Set(proxy.Other, proxy.Rule{})
			}
			w.Note("the lines are good again; %d connections or more were cut", cuts)
			w.Saw("%d connections or more were cut", cuts)
			if cuts < 10 {
				w.Errorf("%d connections were cut; want 10 at least", cuts)
			}
		},
	}.run(t)
}

// open opens a session of a spare user on a node, and reads it until it ends; over is closed when that is recorded.
func (w *World) open(user, name string, node int) (p *peer, over chan struct{}, err error) {
	return w.openBy(w.Node(node).WS(), user, name, node)
}

// openBy is open by another address of the node.
func (w *World) openBy(url, user, name string, node int) (p *peer, over chan struct{}, err error) {
	ctx, cancel := context.WithTimeout(w.churn.ctx, 15*time.Second)
	defer cancel()
	w.Rec.Add(Entry{Kind: Began, User: user, Session: name, Node: fmt.Sprint("node ", node)})
	p, _, err = dial(ctx, url, w.Service, user, map[string]any{})
	if err != nil {
		w.Rec.Add(Entry{Kind: Ended, User: user, Session: name, How: Refused, What: err.Error()})
		return nil, nil, err
	}
	w.Rec.Add(Entry{Kind: Opened, User: user, Session: name})
	over = make(chan struct{})
	w.churn.devices.Go(func() {
		defer close(over)
		var err error
		for err == nil {
			_, err = p.read(w.churn.ctx)
		}
		how, _ := ending(err)
		w.Rec.Add(Entry{Kind: Ended, User: user, Session: name, How: how, What: err.Error()})
	})
	return p, over, nil
}

// A user's sessions begin on one node in the moment in which they end on another.
func TestOpenedAndClosedAtOnce(t *testing.T) {
	const users = 20
	times := 600
	if *full {
		times = 10_000
	}
	Scenario{
		Name: "a session is opened on one node in the moment another of the user ends on another node, 10,000 times", Guarantees: "G1, G2, G8",
		Bound: "in whatever order the two take effect, who is connected is online",
		Spare: users,
		Fault: func(w *World) {
			w.Note("%d times a session is opened and one closed at the same moment", times)
			seeds := make([]uint64, users)
			for i := range seeds {
				seeds[i] = w.Rand.Uint64()
			}
			began := time.Now()
			var wg sync.WaitGroup
			for i, user := range w.Spare {
				wg.Go(func() { w.swap(user, times/users, rand.New(rand.NewPCG(seeds[i], 0))) })
			}
			wg.Wait()
			w.Saw("%d times in %.0f s", times, time.Since(began).Seconds())
		},
	}.run(t)
}

// swap has a user change nodes so many times, by bye or by being cut off.
func (w *World) swap(user string, times int, random *rand.Rand) {
	node := random.IntN(len(w.Nodes))
	p, over, err := w.open(user, user+"#0", node)
	for i := range times {
		if err != nil {
			w.Errorf("%s: %v", user, err)
			return
		}
		last, lastOver, name, how := p, over, fmt.Sprintf("%s#%d", user, i), Bye
		if random.IntN(4) == 0 {
			how = Drop
		}
		node = (node + 1 + random.IntN(len(w.Nodes)-1)) % len(w.Nodes)
		var both sync.WaitGroup
		both.Go(func() {
			w.Rec.Add(Entry{Kind: Leaving, User: user, Session: name, How: how})
			if how == Bye {
				last.bye(lastOver)
			} else {
				_ = last.conn.CloseNow()
			}
			<-lastOver
		})
		both.Go(func() { p, over, err = w.open(user, fmt.Sprintf("%s#%d", user, i+1), node) })
		both.Wait()
	}
}

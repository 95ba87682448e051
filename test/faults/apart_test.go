package faults

import (
	"fmt"
	"testing"
	"time"

	"github.com/rollcall-presence/rollcall/client"
	"github.com/rollcall-presence/rollcall/internal/testkit/proxy"
	"github.com/rollcall-presence/rollcall/internal/testkit/rig"
)

// Clients vanish without a word: nothing comes from them any more, and no connection ends.
func TestSilentPeers(t *testing.T) {
	ping, pong := 4*time.Second, time.Second
	if *full {
		ping, pong = 25*time.Second, 8*time.Second
	}
	Scenario{
		Name: "clients vanish without a word (their lines carry nothing any more, and do not end)", Guarantees: "G4, G8",
		Bound: "each is offline once, within ping + pong + linger",
		Spare: 20,
		Env:   []string{"ROLLCALL_PING_INTERVAL=" + ping.String(), "ROLLCALL_PONG_TIMEOUT=" + pong.String()},
		Fault: func(w *World) {
			line := proxy.New(w, w.Node(0).Addr)
			var overs []chan struct{}
			for _, user := range w.Spare {
				_, over, err := w.openBy("ws://"+line.Addr()+"/v1/connect", user, user+"#0", 0)
				if err != nil {
					w.Fatal(err)
				}
				overs = append(overs, over)
			}
			from := w.Note("the lines of %d clients carry nothing any more", len(w.Spare))
			for _, user := range w.Spare {
				w.Rec.Add(Entry{Kind: Leaving, User: user, Session: user + "#0", How: Lost})
			}
			line.SetAll(hole)
			rig.Within(w, ping+pong+w.rules.slack(), "the node notices each of them", func() error {
				if n := w.Node(0).Metric(`rollcall_session_ends_total{how="silent"}`); n != float64(len(w.Spare)) {
					return fmt.Errorf("%v sessions ended as silent; want %d", n, len(w.Spare))
				}
				return nil
			})
			w.Saw("%d clients vanished, the last was noticed after %s", len(w.Spare), brief(w.Rec.Now()-from))
			line.Cut() // for the record: the clients learn that it is over
			for _, over := range overs {
				<-over
			}
		},
	}.run(t)
}

// Another service has users of the same names. Whatever happens in the one, nothing of it shows in the other.
func TestServicesApart(t *testing.T) {
	Scenario{
		Name: "kill -9 of a node and flips of the switch in one service, watched from another with users of the same names", Guarantees: "G8, G11",
		Bound: "not one event, and nothing in REST, of the other service's users",
		Fault: func(w *World) {
			other := w.Node(0).NewService()
			resident := w.steady[0]
			rig.Connect(w, w.Node(0).WS(), other, resident, client.Options{})
			var strangers []*rig.Watcher
			for i := range 2 {
				strangers = append(strangers, rig.Watch(w, w.Node(i).WS(), other, fmt.Sprint("stranger", i), w.Identities...))
			}
			w.Kill(2)
			w.Elapse(w.Timers.Lease + w.Timers.Heartbeat)
			w.Restart(2)
			w.Flip(1, false)
			w.Elapse(w.Timers.Heartbeat)
			w.Flip(0, true)
			w.Elapse(w.Timers.Linger)
			for i, s := range strangers {
				if n := s.Events(); n != 0 {
					w.Errorf("stranger %d was told of %d events: %v; want none", i, n, s.Seen())
				}
			}
			for i := range w.Nodes {
				for _, identity := range w.Identities {
					switch u := w.Node(i).User(other, identity); {
					case identity == resident && rig.State(u.IsOnline) != "true":
						w.Errorf("node %d: the other service's own %s is %s; want true", i, identity, rig.State(u.IsOnline))
					case identity != resident && u.SID != "":
						w.Errorf("node %d: %s shows in the other service", i, identity)
					}
				}
			}
			w.Saw("0 events at %d watchers of the other service, and none of the %d names in its REST answers but its own one", len(strangers), len(w.Identities))
		},
	}.run(t)
}

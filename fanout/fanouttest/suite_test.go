package fanouttest_test

import (
	"testing"

	"github.com/rollcall-presence/rollcall/fanout"
	"github.com/rollcall-presence/rollcall/fanout/fanouttest"
	"github.com/rollcall-presence/rollcall/presence"
)

func TestBus(t *testing.T) {
	fanouttest.Run(t, func(_ *testing.T, handler fanout.Handler) fanouttest.Harness {
		b := fanouttest.NewBus(handler)
		return fanouttest.Harness{
			Bus: b,
			Publish: func(_ *testing.T, p presence.Partition, run string, seq uint64, e presence.Event) {
				if p == presence.Services {
					b.DeliverService(run, seq, e.User.Service)
					return
				}
				b.Deliver(p, run, seq, e)
			},
			Cut:  func(*testing.T) { b.Cut() },
			Mend: func(*testing.T) { b.Mend() },
		}
	})
}

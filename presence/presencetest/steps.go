package presencetest

import (
	"fmt"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/rollcall-presence/rollcall/presence"
)

// Step is one operation of a random history that is played on a store and on the
// Model. It names nodes, services and users by number, so that a history can be cut
// anywhere and still means something. Each Op uses the fields that its text shows.
type Step struct {
	Op      string
	Node    int    // 0 to 2
	Who     []Who  // of these, those in the partition of the first
	Again   bool   // as a node registers anew: under the users' SIDs as it knows them
	All     bool   // every partition, every session
	On      bool   // the switch
	Seconds int    // linger, life of a binding, or how long nothing happens
	Address string // of a binding
}

// Who is a session of a user: services 0 and 1, users 0 to 3, sessions 1 and 2.
type Who struct{ Service, User, Session int }

var (
	stepNodes      = []presence.NodeID{"n1", "n2", "n3"}
	stepIdentities = []string{"ada", "bob", "cy", "dan"}
)

func (w Who) user() string { return string(rune('A'+w.Service)) + "/" + stepIdentities[w.User] }

func (s Step) String() string {
	n := stepNodes[s.Node]
	who := make([]string, len(s.Who))
	for i, w := range s.Who {
		who[i] = fmt.Sprintf("%s#%d", w.user(), w.Session)
	}
	list := strings.Join(who, " ")
	one := Who{}
	if len(s.Who) > 0 {
		one = s.Who[0]
	}
	service := string(rune('A' + one.Service))
	switch s.Op {
	case "register":
		if s.Again {
			return fmt.Sprintf("%s registers anew %s", n, list)
		}
		return fmt.Sprintf("%s registers %s", n, list)
	case "end":
		return fmt.Sprintf("%s ends %s, linger %ds", n, list, s.Seconds)
	case "beat", "leave":
		where := "the partition of " + one.user()
		if s.All {
			where = "all partitions"
		}
		return fmt.Sprintf("%s: %s in %s", n, s.Op, where)
	case "ensure", "delete user":
		return s.Op + " " + one.user()
	case "end sessions":
		if s.All {
			return "operator ends all sessions of " + one.user()
		}
		return fmt.Sprintf("operator ends %s#%d of %s", one.user(), one.Session, n)
	case "bind":
		return fmt.Sprintf("bind %s to %s for %ds, with the credential: %v", s.Address, one.user(), s.Seconds, s.On)
	case "unbind":
		return fmt.Sprintf("unbind %s of %s", s.Address, one.user())
	case "expire":
		return "expire bindings in the partition of " + one.user()
	case "flip":
		return fmt.Sprintf("switch of %s: %v", service, s.On)
	case "hear":
		return fmt.Sprintf("%s hears of %s", n, service)
	case "delete service":
		return "delete service " + service
	case "wait":
		return fmt.Sprintf("%ds pass", s.Seconds)
	case "lose":
		return fmt.Sprintf("all data are lost, %s writes the services back", n)
	case "fail over":
		return fmt.Sprintf("what was written since the snapshot is lost, %s writes the services back", n)
	}
	return s.Op // sweep, delete credential, snapshot
}

// stepOps are the operations in their odds; the first are what short cases are made of.
var stepOps = []string{
	"register", "register", "register", "register", "end", "end", "end", "beat", "beat", "beat", "wait", "wait", "flip", "hear", "hear",
	"leave", "delete user", "delete user", "end sessions", "ensure", "bind", "bind", "unbind", "expire", "delete credential",
	"delete service", "sweep", "snapshot", "fail over", "lose",
}

func genStep() *rapid.Generator[Step] {
	who := rapid.Custom(func(rt *rapid.T) Who {
		return Who{rapid.IntRange(0, 1).Draw(rt, "service"), rapid.IntRange(0, len(stepIdentities)-1).Draw(rt, "user"), rapid.IntRange(1, 2).Draw(rt, "session")}
	})
	return rapid.Custom(func(rt *rapid.T) Step {
		s := Step{Op: rapid.SampledFrom(stepOps).Draw(rt, "op")}
		node := func() { s.Node = rapid.IntRange(0, len(stepNodes)-1).Draw(rt, "node") }
		one := func() { s.Who = []Who{who.Draw(rt, "who")} }
		seconds := func(of ...int) { s.Seconds = rapid.SampledFrom(of).Draw(rt, "seconds") }
		switch s.Op {
		case "register":
			node()
			s.Who = rapid.SliceOfN(who, 1, 4).Draw(rt, "who")
			s.Again = rapid.Bool().Draw(rt, "again")
		case "end":
			node()
			s.Who = rapid.SliceOfN(who, 1, 4).Draw(rt, "who")
			seconds(0, 0, 10, 60)
		case "beat", "leave":
			node()
			one()
			s.All = rapid.Bool().Draw(rt, "all")
		case "end sessions":
			node()
			one()
			s.All = rapid.Bool().Draw(rt, "all")
		case "ensure", "delete user", "expire", "delete service":
			one()
		case "bind":
			one()
			s.Address = rapid.SampledFrom([]string{"a", "b", "c"}).Draw(rt, "address")
			s.On = rapid.Bool().Draw(rt, "credential")
			seconds(60, 90, 600)
		case "unbind":
			one()
			s.Address = rapid.SampledFrom([]string{"a", "b", "c"}).Draw(rt, "address")
		case "flip":
			one()
			s.On = rapid.Bool().Draw(rt, "on")
		case "hear":
			node()
			one()
		case "lose", "fail over":
			node()
		case "wait":
			seconds(10, 30, 40, 60)
		}
		return s
	})
}

// model plays random histories of several nodes, each with its own possibly stale
// idea of the services, in several partitions.
func model(t *testing.T, h *Harness) {
	randomly(t, Histories{}, genStep(), func(steps []Step) error { return Play(t.Context(), h, steps) })
}

package presencetest

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

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

// Who is a session of a user: services 0 and 1, users 0 to 2, sessions 1 and 2.
type Who struct{ Service, User, Session int }

var (
	stepNodes      = []presence.NodeID{"n1", "n2", "n3"}
	stepIdentities = []string{"ada", "bob", "cy"}
)

func (w Who) user() string { return string(rune('A'+w.Service)) + "/" + stepIdentities[w.User] } //nolint:gosec // G115: a few

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
	service := string(rune('A' + one.Service)) //nolint:gosec // G115: a few
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
	case "live":
		return fmt.Sprintf("%s lives on for %ds, and beats", n, s.Seconds)
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

// stepOps are the operations in their odds.
var stepOps = []string{
	"register", "register", "register", "end", "end", "beat", "live", "live", "wait", "flip", "flip", "hear", "hear", "leave", "delete user", "end sessions", "ensure",
	"bind", "unbind", "expire", "delete credential", "delete service", "sweep", "snapshot", "fail over", "lose",
}

func genStep(r *rand.Rand, c cast, op string) Step {
	s := Step{Op: op}
	node := func() { s.Node = r.IntN(c.nodes) }
	who := func() Who { return Who{r.IntN(c.services), r.IntN(c.users), 1 + r.IntN(c.sessions)} }
	one := func() { s.Who = []Who{who()} }
	some := func() {
		for range 1 + r.IntN(4) {
			s.Who = append(s.Who, who())
		}
	}
	yes := func() bool { return r.IntN(2) == 0 }
	seconds := func(of ...int) { s.Seconds = of[r.IntN(len(of))] }
	switch op {
	case "register":
		node()
		some()
		s.Again = yes()
	case "end":
		node()
		some()
		seconds(0, 0, 10, 60)
	case "beat", "leave", "end sessions":
		node()
		one()
		s.All = yes()
	case "live":
		node()
		one()
		s.All = true
		seconds(40, 80, 120, 160)
	case "ensure", "delete user", "expire", "delete service":
		one()
	case "bind":
		one()
		s.Address = string(rune('a' + r.IntN(3))) //nolint:gosec // G115: a few
		s.On = yes()
		seconds(60, 90, 600)
	case "unbind":
		one()
		s.Address = string(rune('a' + r.IntN(3))) //nolint:gosec // G115: a few
	case "flip":
		one()
		s.On = yes()
	case "hear":
		node()
		one()
	case "lose", "fail over":
		node()
	case "wait":
		seconds(10, 30, 40, 60)
	}
	return s
}

// Operations plays random histories of several nodes, each with its own possibly stale
// idea of the services, in several partitions.
func Operations(t *testing.T, o Histories, h *Harness) {
	randomly(t, o, stepOps, genStep, func(steps []Step) error { return Play(t.Context(), h, steps) })
}

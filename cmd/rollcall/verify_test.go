package main

import (
	"errors"
	"strings"
	"testing"

	"github.com/rollcall-presence/rollcall/presence/redisstore"
)

// What people read of a disagreement names all that they need, and an identity cannot
// make it look like something else.
func TestPrintVerified(t *testing.T) {
	d := redisstore.Disagreement{
		Partition: 12, Kind: "stuck_online", Service: "IS0", Identity: "ada\n0 disagreements", What: "a user is stuck", Says: "user: online\x1b[2J",
		Cause: "somebody", Repair: "lets go",
	}
	repaired := d
	repaired.Repaired = true
	for _, c := range []struct {
		of     redisstore.Verified
		repair bool
		want   string
	}{
		{redisstore.Verified{Partitions: 256, Services: 3}, false, "All records agree, in 256 partitions and 3 services.\n"},
		{redisstore.Verified{Partitions: 1, Services: 1, Disagreements: []redisstore.Disagreement{d}}, false, `stuck_online: partition 12, service IS0, user "ada\n0 disagreements"
  what    a user is stuck
  says    "user: online\x1b[2J"
  cause   somebody
  repair  lets go (with --repair)

1 disagreements, 0 of them repaired, in 1 partitions and 1 services.
`},
		{redisstore.Verified{Disagreements: []redisstore.Disagreement{repaired}}, true, "  repair  lets go (done)\n\n1 disagreements, 1 of them repaired"},
		{redisstore.Verified{Disagreements: []redisstore.Disagreement{d}}, true, "  repair  lets go (TRIED, and it is still there)\n\n1 disagreements, 0 of them"},
		{redisstore.Verified{Disagreements: []redisstore.Disagreement{d}, Unexamined: 7}, false, "\nThere are more: 7 suspects"},
		{redisstore.Verified{Unexamined: 7}, false, "What was looked at agrees, in 0 partitions and 0 services.\nThere are more: 7 suspects"},
	} {
		var b strings.Builder
		if err := printVerified(&b, c.of, false, c.repair); err != nil || !strings.Contains(b.String(), c.want) {
			t.Errorf("printed %q, %v; want %q", b.String(), err, c.want)
		}
	}
}

// Records agree only if all of them were looked at.
func TestVerdict(t *testing.T) {
	if err := verdict(redisstore.Verified{}); err != nil {
		t.Errorf("of nothing: %v", err)
	}
	d := []redisstore.Disagreement{{}}
	if err := verdict(redisstore.Verified{Disagreements: d, Unexamined: 7}); !errors.Is(err, errDisagree) {
		t.Errorf("of a disagreement: %v; want %v", err, errDisagree)
	}
	err := verdict(redisstore.Verified{Unexamined: 7})
	if _, unchecked := errors.AsType[uncheckedError](err); !unchecked {
		t.Errorf("of what was not looked at: %v; want that it was not", err)
	}
}

package redisstore_test

import (
	"flag"
	"testing"

	"github.com/rollcall-presence/rollcall/internal/testkit"
	"github.com/rollcall-presence/rollcall/presence/redisstore"
)

var update = flag.Bool("update", false, "write the table of kinds into docs/operations.md")

// TestKindsDoc holds the table in docs/operations.md against the kinds that there are;
// go test ./presence/redisstore -run KindsDoc -update writes it.
func TestKindsDoc(t *testing.T) {
	var rows []string
	for _, kind := range redisstore.Kinds() {
		d := redisstore.Explain(kind)
		rows = append(rows, "| `"+kind+"` | "+d.What+" | "+d.Cause+" | "+d.Repair+" |")
	}
	testkit.Table(t, "../../docs/operations.md", "<!-- kinds -->", rows, *update)
}

package redisstore_test

import (
	"flag"
	"os"
	"strings"
	"testing"

	"github.com/rollcall-presence/rollcall/presence/redisstore"
)

var update = flag.Bool("update", false, "write the table of kinds into docs/operations.md")

// TestKindsDoc holds the table in docs/operations.md against the kinds that there are;
// go test ./presence/redisstore -run KindsDoc -update writes it.
func TestKindsDoc(t *testing.T) {
	const file, begin, end = "../../docs/operations.md", "<!-- kinds -->\n", "<!-- end of kinds -->\n"
	table := "| kind | what it is | probable cause | what repairing does |\n|---|---|---|---|\n"
	for _, kind := range redisstore.Kinds() {
		d := redisstore.Explain(kind)
		table += "| `" + kind + "` | " + d.What + " | " + d.Cause + " | " + d.Repair + " |\n"
	}
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	head, rest, ok := strings.Cut(string(b), begin)
	_, tail, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		t.Fatalf("%s has no place for the kinds", file)
	}
	switch want := head + begin + table + end + tail; {
	case string(b) == want:
	case *update:
		if err := os.WriteFile(file, []byte(want), 0o600); err != nil {
			t.Fatal(err)
		}
	default:
		t.Errorf("%s does not tell the kinds as they are; -update writes it", file)
	}
}

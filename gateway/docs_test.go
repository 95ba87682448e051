package gateway_test

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/rollcall-presence/rollcall/gateway"
)

var update = flag.Bool("update", false, "write the generated tables into docs")

// TestProtocolDoc holds the tables in docs against those in code;
// go test ./gateway -update writes them.
func TestProtocolDoc(t *testing.T) {
	var closes, errs []string
	for _, c := range gateway.Closes() {
		closes = append(closes, fmt.Sprintf("| %d | `%s` | %s | %s |", c.Code, c.Name, c.Reconnect, c.Text))
	}
	for _, e := range gateway.ErrorTexts() {
		errs = append(errs, fmt.Sprintf("| %d | `%s` | %s |", e.Code, e.Name, e.Text))
	}
	compare(t, "../docs/protocol.md", "<!-- close codes -->", closes)
	compare(t, "../docs/protocol.md", "<!-- error codes -->", errs)
}

// compare holds the rows of a table, which the marker follows, against those wanted.
func compare(t *testing.T, file, marker string, want []string) {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	before, after, ok := strings.Cut(string(b), marker)
	if !ok {
		t.Fatalf("%s has no %s", file, marker)
	}
	head := strings.LastIndex(before, "|---|") // the last line of the table's head
	head += strings.Index(before[head:], "\n") + 1
	table := strings.Join(want, "\n") + "\n"
	if before[head:] == table {
		return
	}
	if !*update {
		t.Fatalf("the table before %s in %s is not that of the code; run go test ./gateway -update\ngot:\n%s\nwant:\n%s", marker, file, before[head:], table)
	}
	if err := os.WriteFile(file, []byte(before[:head]+table+marker+after), 0o600); err != nil {
		t.Fatal(err)
	}
}

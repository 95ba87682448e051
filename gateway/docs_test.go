package gateway_test

import (
	"flag"
	"fmt"
	"testing"

	"github.com/rollcall-presence/rollcall/gateway"
	"github.com/rollcall-presence/rollcall/internal/testkit"
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
	testkit.Table(t, "../docs/protocol.md", "<!-- close codes -->", closes, *update)
	testkit.Table(t, "../docs/protocol.md", "<!-- error codes -->", errs, *update)
}

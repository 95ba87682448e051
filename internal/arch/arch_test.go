// Package arch holds the test that keeps imports pointing one way.
package arch

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/rollcall-presence/rollcall/"

// allowed is which of our packages each may import, beside internal/testkit in
// tests. What is not listed here must be added here first: that is the point.
var allowed = map[string][]string{
	"presence":              {},
	"presence/redisstore":   {"presence", "internal/keys"},
	"presence/presencetest": {"presence"},
	"fanout":                {"presence"},
	"fanout/redisbus":       {"fanout", "presence", "internal/keys"},
	"fanout/fanouttest":     {"fanout", "presence"},
	"auth":                  {"presence", "internal/plainjson", "internal/rate"},
	"gateway":               {"fanout", "presence", "auth", "internal/rate"},
	"webhook":               {"presence"},
	"gateway/native":        {"gateway", "fanout", "presence", "auth", "internal/plainjson"},
	"gateway/twilsock":      {"gateway", "fanout", "presence"},
	"gateway/rest":          {"presence"},
	"gateway/console":       {"presence"},
	"configs":               {"presence"},
	"client":                {},
	"internal/keys":         {"presence"},
	"internal/rate":         {},
	"internal/plainjson":    {},
	"internal/testkit":      {},
	"internal/testkit/rig":  {"auth", "client", "internal/testkit"},
	"internal/arch":         {},

	"internal/testkit/proxy": {},
	"internal/testkit/skew":  {},

	"internal/load/plan":   {},
	"internal/load":        {"auth", "internal/load/report", "internal/load/wire"},
	"internal/load/report": {},
	"internal/load/wire":   {},

	"cmd/rollcall-load": {"configs", "internal/load", "internal/load/plan", "internal/load/report"},

	"cmd/rollcall": {"auth", "client", "configs", "fanout", "fanout/redisbus", "gateway", "gateway/console", "gateway/native", "gateway/rest", "gateway/twilsock", "presence", "presence/redisstore", "internal/keys", "internal/rate", "webhook"},
}

// standardOnly are the packages that import nothing but the standard library and
// our own: the domain and the fan-out know no Redis, zap, Prometheus or WebSocket.
var standardOnly = []string{"presence", "fanout", "internal/keys", "internal/plainjson", "internal/rate", "internal/load/plan"}

func TestImports(t *testing.T) {
	out, err := exec.CommandContext(t.Context(), "go", "list", "-json=ImportPath,Imports", module+"...").Output()
	if err != nil {
		t.Fatal(err)
	}
	dec := json.NewDecoder(strings.NewReader(string(out)))
	seen := 0
	for {
		var p struct {
			ImportPath string
			Imports    []string
		}
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		name := strings.TrimPrefix(p.ImportPath, module)
		if strings.HasPrefix(name, "test/") {
			continue // black-box tests of the binary may use what clients use
		}
		seen++
		ours, known := allowed[name]
		if !known {
			t.Errorf("package %s has no place in the table of imports: add it", name)
			continue
		}
		for _, i := range p.Imports {
			imported, own := strings.CutPrefix(i, module)
			switch {
			case own && !slices.Contains(ours, imported):
				t.Errorf("%s imports %s; it may import %v", name, imported, ours)
			case !own && strings.Contains(strings.Split(i, "/")[0], ".") && slices.Contains(standardOnly, name):
				t.Errorf("%s imports %s; it may import the standard library only", name, i)
			}
		}
	}
	if seen < 5 {
		t.Errorf("saw %d packages; the test looks at nothing", seen)
	}
}

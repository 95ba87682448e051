package main

import (
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/rollcall-presence/rollcall/configs"
	"github.com/rollcall-presence/rollcall/gateway"
	"github.com/rollcall-presence/rollcall/presence/redisstore"
)

var update = flag.Bool("update", false, "write the table of metrics into docs")

// TestMetricsDoc holds docs/metrics.md against what a node that has done nothing yet shows, so that it also holds every
// label value to being there from the start; go test ./cmd/rollcall -update writes the table.
func TestMetricsDoc(t *testing.T) {
	cfg, err := configs.Load(flag.NewFlagSet("serve", flag.ContinueOnError), nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	client, closeRedis, err := openRedis(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer closeRedis()
	registry := prometheus.NewRegistry()
	client.AddHook(redisstore.NewLatency(registry))
	store := newStore(client, cfg)
	n := newNode("node", cfg, client, store, registry, zap.NewNop())
	if n.server, err = gateway.New(n.gatewayOptions(cfg, registry, zap.NewNop())); err != nil {
		t.Fatal(err)
	}
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	table := "| metric | labels | what it is |\n|---|---|---|\n"
	for _, f := range families {
		values := map[string][]string{}
		for _, m := range f.GetMetric() {
			for _, l := range m.GetLabel() {
				if v := "`" + l.GetValue() + "`"; !slices.Contains(values[l.GetName()], v) {
					values[l.GetName()] = append(values[l.GetName()], v)
				}
			}
		}
		var labels []string
		for name, v := range values {
			slices.Sort(v)
			labels = append(labels, name+": "+strings.Join(v, " "))
		}
		slices.Sort(labels)
		table += fmt.Sprintf("| `%s` | %s | %s |\n", f.GetName(), strings.Join(labels, "; "), f.GetHelp())
	}

	const file, marker = "../../docs/metrics.md", "| metric |"
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	head, _, _ := strings.Cut(string(b), marker)
	switch want := head + table; {
	case string(b) == want:
	case *update:
		if err := os.WriteFile(file, []byte(want), 0o600); err != nil {
			t.Fatal(err)
		}
	default:
		t.Errorf("%s is not what the code says; go test ./cmd/rollcall -update writes it. Want:\n%s", file, want)
	}
}

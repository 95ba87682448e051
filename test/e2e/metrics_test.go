package e2e

import (
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/rollcall-presence/rollcall/client"
)

var (
	helpLine = regexp.MustCompile(`(?m)^# HELP (rollcall_\w+) (.*)$`)
	sample   = regexp.MustCompile(`(?m)^(rollcall_\w+?)(?:_bucket|_sum|_count)?(?:\{(.*)\})? \S+$`)
	label    = regexp.MustCompile(`(\w+)="([^"]*)"`)
	docRow   = regexp.MustCompile("(?m)^\\| `(rollcall_\\w+)` \\|.*\\|$")
)

// docs/metrics.md has a row for each metric that a running node shows, with its
// labels, all their values, and its help, and none for others.
func TestMetricsDocumented(t *testing.T) {
	n := start(t, "embedded")
	text := n.scrape()
	labels := map[string]map[string][]string{} // metric, label, values
	for _, m := range sample.FindAllStringSubmatch(text, -1) {
		if labels[m[1]] == nil {
			labels[m[1]] = map[string][]string{}
		}
		for _, l := range label.FindAllStringSubmatch(m[2], -1) {
			if v := "`" + l[2] + "`"; l[1] != "le" && !slices.Contains(labels[m[1]][l[1]], v) {
				labels[m[1]][l[1]] = append(labels[m[1]][l[1]], v)
			}
		}
	}
	doc, err := os.ReadFile("../../docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	rows := map[string]string{}
	for _, m := range docRow.FindAllStringSubmatch(string(doc), -1) {
		if rows[m[1]] != "" {
			t.Errorf("docs/metrics.md has two rows for %s", m[1])
		}
		rows[m[1]] = m[0]
	}
	helps := helpLine.FindAllStringSubmatch(text, -1)
	if len(helps) < 30 {
		t.Fatalf("only %d metrics are shown", len(helps))
	}
	for _, m := range helps {
		var parts []string
		for name, values := range labels[m[1]] {
			slices.Sort(values)
			parts = append(parts, name+": "+strings.Join(values, " "))
		}
		slices.Sort(parts)
		if _, ok := labels[m[1]]; !ok {
			t.Errorf("%s has no value on a node that has just started", m[1])
		}
		if want := fmt.Sprintf("| `%s` | %s | %s |", m[1], strings.Join(parts, "; "), m[2]); rows[m[1]] != want {
			t.Errorf("docs/metrics.md has\n%s\nfor %s; the node shows\n%s", rows[m[1]], m[1], want)
		}
		delete(rows, m[1])
	}
	for name := range rows {
		t.Errorf("docs/metrics.md has %s, which the node does not show", name)
	}
}

// What the metrics are there for: each moves when it should.
func TestMetricsMove(t *testing.T) {
	n := start(t, "embedded", "ROLLCALL_HEARTBEAT=200ms")
	sid := n.newService()
	w := watch(t, n.ws(), sid, "watcher", "ada")
	eventually(t, "each of the 16 partitions has had a heartbeat", func() error {
		if got := n.metrics()[`rollcall_lease_renewals_total{outcome="ok"}`]; got < 32 {
			return fmt.Errorf("%v heartbeats", got)
		}
		return nil
	})
	before := n.metrics()
	ada := connect(t, n.ws(), sid, "ada", client.Options{})
	if err := ada.Close(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "ada left", func() error {
		if got := w.history("ada"); got != "true false" {
			return fmt.Errorf("saw %q", got)
		}
		return nil
	})
	eventually(t, "all is counted", func() error {
		after := n.metrics()
		for name, grew := range map[string]float64{
			`rollcall_transitions_total{cause="connect",kind="online"}`: 1,
			`rollcall_transitions_total{cause="clean",kind="offline"}`:  1,
			"rollcall_events_published_total":                           2,
			"rollcall_events_received_total":                            2,
			"rollcall_events_delivered_total":                           2,
			`rollcall_closes_total{by="server",code="1000"}`:            1,
			`rollcall_session_ends_total{how="clean"}`:                  1,
			"rollcall_sessions":                                         0,
		} {
			if got := after[name] - before[name]; got != grew {
				return fmt.Errorf("%s grew by %v; want %v", name, got, grew)
			}
		}
		for _, name := range []string{`rollcall_lease_renewals_total{outcome="ok"}`, `rollcall_redis_seconds_count{kind="pipeline",outcome="ok"}`} {
			if after[name] <= before[name] {
				return fmt.Errorf("%s is %v; was %v", name, after[name], before[name])
			}
		}
		if after["rollcall_sessions"] != 1 || after["rollcall_subscriptions"] != 1 {
			return fmt.Errorf("%v sessions, %v subscriptions; want 1 of each", after["rollcall_sessions"], after["rollcall_subscriptions"])
		}
		return nil
	})
}

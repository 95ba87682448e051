package configs_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/rollcall-presence/rollcall/configs"
	"github.com/rollcall-presence/rollcall/presence"
)

// Each way to leave has a bound, and each timer moves just the bounds that it is part of.
func TestBounds(t *testing.T) {
	want := map[presence.End]int{
		presence.EndClean: 2, presence.EndLost: 13, presence.EndReload: 13, presence.EndSilent: 46, presence.EndStuck: 71,
		presence.EndExpired: 13, presence.EndOperator: 3, presence.EndDrain: 23, presence.EndNodeLost: 13, presence.EndAway: 16,
	}
	c := configs.Default()
	b := c.Bounds()
	if len(b.Departures) != len(presence.Ends()) || b.Repair != 3*time.Second || b.Silence != 5*time.Second {
		t.Errorf("%d bounds, repair within %v, silence of %v; want one for each of %d ends, 3 s and 5 s", len(b.Departures), b.Repair, b.Silence, len(presence.Ends()))
	}
	for how, seconds := range want {
		if got := b.Of(how); got != time.Duration(seconds)*time.Second {
			t.Errorf("bound of %s = %v; want %d s", how, got, seconds)
		}
	}
	for name, test := range map[string]struct {
		change  func(*configs.Config)
		changed string
	}{
		"linger":    {func(c *configs.Config) { c.Linger += time.Second }, "lost reload silent stuck expired redis_away"},
		"heartbeat": {func(c *configs.Config) { c.Heartbeat += time.Second }, "lost drained reload silent stuck expired operator node_lost redis_away"},
		"lease":     {func(c *configs.Config) { c.LeaseTTL += time.Second }, "node_lost redis_away"},
		"ping":      {func(c *configs.Config) { c.PingInterval += time.Second }, "silent stuck"},
		"pong":      {func(c *configs.Config) { c.PongTimeout += time.Second }, "silent stuck"},
		"drain":     {func(c *configs.Config) { c.DrainTimeout += time.Minute }, "drained"},
		"handover":  {func(c *configs.Config) { c.Handover = time.Minute }, "drained"},
	} {
		c := configs.Default()
		test.change(&c)
		var changed []string
		for _, how := range presence.Ends() {
			if c.Bounds().Of(how) != b.Of(how) {
				changed = append(changed, how.String())
			}
		}
		if got := strings.Join(changed, " "); got != test.changed {
			t.Errorf("%s changes the bounds of %q; want %q", name, got, test.changed)
		}
	}
	var out strings.Builder
	if err := b.Write(&out); err != nil {
		t.Fatal(err)
	}
	for how, seconds := range want {
		d := time.Duration(seconds) * time.Second
		if !strings.Contains(strings.Join(strings.Fields(out.String()), " "), fmt.Sprintf("%s %v", how, d)) {
			t.Errorf("the table has no %s of %v:\n%s", how, d, out.String())
		}
	}
}

// Left alone, the handover covers whatever linger and drain say.
func TestHandover(t *testing.T) {
	for name, test := range map[string]struct {
		linger, drain, handover, want time.Duration
	}{
		"default":  {10 * time.Second, 25 * time.Second, 0, 20 * time.Second},
		"linger":   {time.Minute, 25 * time.Second, 0, time.Minute},
		"drain":    {10 * time.Second, 5 * time.Minute, 0, 185 * time.Second},
		"explicit": {10 * time.Second, 10 * time.Second, 12 * time.Second, 12 * time.Second},
	} {
		c := configs.Default()
		c.Linger, c.DrainTimeout, c.Handover = test.linger, test.drain, test.handover
		if got := c.HandoverTime(); got != test.want {
			t.Errorf("%s: handover = %v; want %v", name, got, test.want)
		}
	}
}

// Timers that contradict each other are refused with what to change.
func TestContradictions(t *testing.T) {
	for name, test := range map[string]struct {
		args []string
		want []string
	}{
		"heartbeat against lease": {
			[]string{"--heartbeat=5s", "--lease-ttl=10s"},
			[]string{"lease_ttl: is 10s, but a node must be able to miss a heartbeat (5s) and keep its lease: raise it above 10s, or lower heartbeat"},
		},
		"ping against load balancers": {
			[]string{"--ping-interval=50s", "--pong-timeout=8s"},
			[]string{"ping_interval: and pong_timeout are 58s together", "lower them to less than 55s together"},
		},
		"ping against pong": {[]string{"--ping-interval=8s", "--pong-timeout=8s"}, []string{"pong_timeout: is 8s", "make it less than ping_interval"}},
		"handover against linger": {
			[]string{"--handover=15s", "--linger=30s", "--drain-timeout=10s"},
			[]string{"handover: is 15s, less than linger (30s)", "raise it to 30s or more, lower linger, or set it to 0s"},
		},
		"handover against drain": {
			[]string{"--handover=20s", "--drain-timeout=60s"},
			[]string{"handover: is 20s, but a drain_timeout of 1m0s closes connections over 36s", "raise it to 41s or more, lower drain_timeout, or set it to 0s"},
		},
		"wait against finding out": {[]string{"--wait-timeout=2s"}, []string{"wait_timeout: is 2s", "raise it to 3s or more, or set it to 0s"}},
	} {
		_, err := load(test.args, credentials...)
		if err == nil {
			t.Errorf("%s: accepted", name)
			continue
		}
		if lines := strings.Count(err.Error(), "\n"); lines != 0 {
			t.Errorf("%s: %d lines; want one:\n%v", name, lines+1, err)
		}
		for _, want := range test.want {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %v; want %q", name, err, want)
			}
		}
	}
	for _, args := range [][]string{{"--wait-timeout=0s"}, {"--drain-timeout=0s"}, {"--linger=0s"}, {"--drain-timeout=10m"}, {"--linger=1m"}} {
		if _, err := load(args, credentials...); err != nil {
			t.Errorf("%v: %v", args, err)
		}
	}
}

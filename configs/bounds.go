package configs

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/rollcall-presence/rollcall/presence"
)

// StoreTimeout is how long one command to Redis may take. After that Redis counts as away.
const StoreTimeout = 2 * time.Second

// Bound is how long a user who left may still be shown online.
type Bound struct {
	Departure presence.End
	// What happened, and what the time is the sum of.
	What, Formula string
	// Max is the longest time from when it happened to the event that every subscriber's node is sent, while Redis
	// answers as usual: what its answers take comes on top. A service with its own linger has that in place of the
	// default.
	Max time.Duration
}

// Bounds are the longest times that follow from a configuration.
type Bounds struct {
	// Departures has each presence.End once.
	Departures []Bound
	// Silence is how long no node may beat before that time is counted for nobody: after a longer one, whatever caused
	// it, what was due is put off by as long as it lasted, as after Redis was away.
	Silence time.Duration
	// Repair is the time from Redis being back to every subscriber's view being true again.
	Repair time.Duration
}

// Of is the bound of one way to leave.
func (b Bounds) Of(how presence.End) time.Duration {
	for _, d := range b.Departures {
		if d.Departure == how {
			return d.Max
		}
	}
	panic("configs: no bound for " + how.String())
}

// Write writes the bounds as a table for people.
func (b Bounds) Write(w io.Writer) error {
	var out strings.Builder
	table := tabwriter.NewWriter(&out, 0, 8, 3, ' ', 0)
	for _, d := range b.Departures {
		_, _ = fmt.Fprintf(table, "    %s\t%v\t%s\t%s\n", d.Departure, d.Max, d.What, d.Formula)
	}
	_ = table.Flush() // a Builder takes all
	_, err := fmt.Fprintf(w, "  A user who left is shown offline at the latest after\n\n%s\n  A silence of all nodes of more than %v comes on top. Every view is true again %v after Redis is back.\n",
		out.String(), b.Silence, b.Repair)
	return err
}

// DrainWindow is over what time a stopping node spreads the closing of its sessions; the rest of drain_timeout is
// for the last of them to answer.
func (c *Config) DrainWindow() time.Duration { return c.DrainTimeout * 3 / 5 }

const (
	// leastHandover is the longest hint when to come back, 2 s, and time for a few attempts elsewhere.
	leastHandover = 20 * time.Second
	// replacement is what a client needs to come back to a node that takes the place of the one that closed it.
	replacement = 5 * time.Second
)

// HandoverTime is how long users linger whose sessions a stopping node closed: handover, or what covers linger and
// drain if that is 0.
func (c *Config) HandoverTime() time.Duration {
	if c.Handover != 0 {
		return c.Handover
	}
	return max(leastHandover, c.Linger, c.DrainWindow()+replacement)
}

// Bounds computes the bounds of c.
func (c *Config) Bounds() Bounds {
	// The node that saw a session end settles its linger on time; should it die before, the next heartbeat of any other does.
	settled := c.Linger + c.Heartbeat
	return Bounds{
		Departures: []Bound{
			{presence.EndClean, "it signed out: bye, or close code 1000", "one command to Redis", StoreTimeout},
			{presence.EndLost, "its connection broke", "linger + heartbeat", settled},
			{presence.EndReload, "its page was left, or is loaded again and does not come back", "linger + heartbeat", settled},
			{
				presence.EndSilent, "it vanished without a word", "ping_interval + pong_timeout + linger + heartbeat",
				c.PingInterval + c.PongTimeout + settled,
			},
			{
				presence.EndStuck, "it vanished, and so much waits for it that no ping goes out", "2 × ping_interval + pong_timeout + linger + heartbeat",
				2*c.PingInterval + c.PongTimeout + settled,
			},
			{presence.EndExpired, "its token expired", "linger + heartbeat", settled},
			{presence.EndOperator, "an operator ended it, or its token or key was revoked", "heartbeat", c.Heartbeat},
			{presence.EndDrain, "its node stopped, and it does not come back", "handover + heartbeat", c.HandoverTime() + c.Heartbeat},
			{presence.EndNodeLost, "its node was killed, or cut off from Redis", "lease_ttl + heartbeat", c.LeaseTTL + c.Heartbeat},
			{
				presence.EndAway, "any of these while Redis was away or no node ran, from when both are back", "max(linger, lease_ttl) + 2 × heartbeat",
				max(c.Linger, c.LeaseTTL) + 2*c.Heartbeat,
			},
		},
		// A lease may be long; lingers are not, and an outage of any length eats into them.
		Silence: min(c.LeaseTTL/2, 2*c.Heartbeat),
		Repair:  c.Heartbeat,
	}
}

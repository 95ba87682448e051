package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/rollcall-presence/rollcall/configs"
	"github.com/rollcall-presence/rollcall/presence"
	"github.com/rollcall-presence/rollcall/presence/redisstore"
)

// errDisagree tells that verify found something, and printed it.
var errDisagree = errors.New("records disagree")

func runVerify(ctx context.Context, in *invocation) error {
	repair := in.flags.Bool("repair", false, "mend what is found, and tell subscribers where what they see changes")
	asJSON := in.flags.Bool("json", false, "print one JSON object")
	var services []string
	in.flags.Func("service", "`SID` of a service to look at (IS...); repeat it for more (default: all)", func(sid string) error {
		if !presence.IsSID(sid, "IS") {
			return fmt.Errorf("%q is not the SID of a service", sid)
		}
		services = append(services, sid)
		return nil
	})
	cfg, err := in.load()
	if err != nil {
		return err
	}
	if err := in.noArguments(); err != nil {
		return err
	}
	if cfg.RedisURL == configs.Embedded {
		return uncheckedError{errors.New("the embedded store is inside its node and cannot be reached from here: " +
			"set ROLLCALL_REDIS_URL, or look at rollcall_drift_users among the node's metrics")}
	}
	client, closeRedis, err := openRedis(ctx, cfg)
	if err != nil {
		return uncheckedError{err}
	}
	defer closeRedis()
	store := newStore(client, cfg)
	if err := store.Check(ctx); err != nil {
		return uncheckedError{fmt.Errorf("the store at %s: %w", cfg.RedisURL, err)}
	}
	found, err := store.Verify(ctx, redisstore.VerifyOptions{Services: services, Repair: *repair, Confirm: confirm(cfg), Linger: cfg.HandoverTime()})
	if err == nil || len(found.Disagreements) > 0 {
		if e := printVerified(in.stdout, found, *asJSON, *repair); e != nil {
			return uncheckedError{e}
		}
	}
	if err != nil {
		return uncheckedError{fmt.Errorf("the store at %s: %w", cfg.RedisURL, err)}
	}
	return verdict(found)
}

// verdict is what the exit code tells.
func verdict(v redisstore.Verified) error {
	switch {
	case len(v.Disagreements) > 0:
		return errDisagree
	case v.Unexamined > 0:
		return uncheckedError{fmt.Errorf("%d suspects were not looked at again", v.Unexamined)}
	}
	return nil
}

// confirm is how long records must disagree to be reported: nodes mend much with one
// heartbeat, and a move of a push address takes a few commands.
func confirm(cfg configs.Config) time.Duration { return 2*cfg.Heartbeat + configs.StoreTimeout }

func printVerified(w io.Writer, v redisstore.Verified, asJSON, repair bool) error {
	if asJSON {
		if v.Disagreements == nil {
			v.Disagreements = []redisstore.Disagreement{}
		}
		return json.NewEncoder(w).Encode(v)
	}
	var b strings.Builder
	repaired := 0
	for _, d := range v.Disagreements {
		fmt.Fprintf(&b, "%s: partition %d", d.Kind, d.Partition)
		if d.Service != "" {
			fmt.Fprintf(&b, ", service %s", printable(d.Service))
		}
		if d.Identity != "" {
			fmt.Fprintf(&b, ", user %s", printable(d.Identity))
		}
		repairs := "with --repair"
		switch {
		case d.Repaired:
			repaired++
			repairs = "done"
		case repair:
			repairs = "TRIED, and it is still there"
		}
		fmt.Fprintf(&b, "\n  what    %s\n  says    %s\n  cause   %s\n  repair  %s (%s)\n", d.What, printable(d.Says), d.Cause, d.Repair, repairs)
	}
	switch n := len(v.Disagreements); {
	case n > 0:
		fmt.Fprintf(&b, "\n%d disagreements, %d of them repaired", n, repaired)
	case v.Unexamined > 0:
		b.WriteString("What was looked at agrees")
	default:
		b.WriteString("All records agree")
	}
	fmt.Fprintf(&b, ", in %d partitions and %d services.\n", v.Partitions, v.Services)
	if v.Unexamined > 0 {
		fmt.Fprintf(&b, "There are more: %d suspects were not looked at again. Verify once more, after repairing what was found.\n", v.Unexamined)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// loggedDisagreements bounds the lines that one round of the self-check logs.
const loggedDisagreements = 20

func logDisagreements(log *zap.Logger, v redisstore.Verified) {
	for _, d := range v.Disagreements[:min(loggedDisagreements, len(v.Disagreements))] {
		log.Warn("records disagree", zap.String("kind", d.Kind), zap.Int("partition", int(d.Partition)), zap.String("service", d.Service),
			zap.String("user", d.Identity), zap.String("says", d.Says), zap.Bool("repaired", d.Repaired))
	}
	if n := len(v.Disagreements) + v.Unexamined; n > loggedDisagreements {
		kinds := make([]string, 0, len(v.Disagreements))
		for _, d := range v.Disagreements {
			kinds = append(kinds, d.Kind)
		}
		slices.Sort(kinds)
		log.Warn("many records disagree: see rollcall verify", zap.Int("disagreements", n), zap.Strings("kinds", slices.Compact(kinds)))
	}
}

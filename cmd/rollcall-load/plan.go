package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"github.com/rollcall-presence/rollcall/internal/load/plan"
)

func runPlan(args []string, stdout io.Writer) error {
	d, m := plan.DefaultDemand(1_000_000), plan.DefaultMachine()
	perUser := float64(d.Users) / float64(d.Online)
	flags := flag.NewFlagSet("plan", flag.ContinueOnError)
	online := flags.String("online", "10000,100000,1000000,10000000", "`numbers` of users online at one time, separated by commas")
	flags.Float64Var(&perUser, "users-per-online", perUser, "users for each who is online")
	flags.Float64Var(&d.SessionsPerUser, "sessions-per-user", d.SessionsPerUser, "sessions of a user who is online")
	flags.Float64Var(&d.OpensPerHour, "opens-per-hour", d.OpensPerHour, "sessions that a user who is online opens in an hour")
	flags.Float64Var(&d.ChangesPerHour, "changes-per-hour", d.ChangesPerHour, "changes of such a user that are told, in an hour")
	flags.Float64Var(&d.WatchersPerUser, "watchers-per-user", d.WatchersPerUser, "sessions that are subscribed to a user")
	flags.Float64Var(&d.StormShare, "storm-share", d.StormShare, "share of all sessions that are cut at once, from 0 to 1")
	flags.DurationVar(&d.StormTime, "storm-time", d.StormTime, "time within which they are back")
	flags.DurationVar(&d.Linger, "linger", d.Linger, "the nodes' linger")
	flags.DurationVar(&d.PingInterval, "ping-interval", d.PingInterval, "the nodes' ping_interval")
	flags.DurationVar(&d.Heartbeat, "heartbeat", d.Heartbeat, "the nodes' heartbeat")
	flags.IntVar(&d.Partitions, "partitions", d.Partitions, "the nodes' partitions")
	flags.BoolVar(&d.TLS, "tls", d.TLS, "nodes terminate TLS themselves")
	flags.Float64Var(&m.Cores, "cores", m.Cores, "cores of a node")
	gib := func(name string, v *float64, usage string) {
		flags.Func(name, fmt.Sprintf("%s, `GiB` (default %v)", usage, *v/(1<<30)), func(s string) error {
			f, err := strconv.ParseFloat(s, 64)
			*v = f * (1 << 30)
			return err
		})
	}
	gib("memory", &m.Memory, "memory of a node")
	gib("redis-memory", &m.RedisMemory, "memory of a Redis server")
	flags.Float64Var(&m.NIC, "nic", m.NIC, "network of a machine, `bit/s` each way")
	flags.IntVar(&m.FilesPerProcess, "files", m.FilesPerProcess, "files that a process may open")
	flags.IntVar(&m.MaxConnections, "max-connections", m.MaxConnections, "the nodes' max_connections")
	flags.Float64Var(&m.AcceptRate, "accept-rate", m.AcceptRate, "the nodes' accept_rate")
	flags.IntVar(&m.Spare, "spare", m.Spare, "nodes beyond those needed")
	costs := flags.String("costs", "", "JSON `file` of unit costs, in the form of internal/load/plan/costs.json; by default those that were measured")
	if err := parse(flags, args, stdout, "plan [flags]", "compute what a number of users takes, from measured costs", 0, 0); err != nil {
		return err
	}
	c := plan.Measured()
	if *costs != "" {
		f, err := os.Open(*costs)
		if err != nil {
			return err
		}
		defer func() { _ = f.Close() }()
		if c, err = plan.ReadCosts(f); err != nil {
			return fmt.Errorf("%s: %w", *costs, err)
		}
	}
	if !(perUser >= 1 && perUser <= 1e6) {
		return usageError{errors.New("users-per-online: must be from 1 to 1000000")}
	}
	var plans []plan.Plan
	for text := range strings.SplitSeq(*online, ",") {
		n, err := strconv.ParseInt(strings.TrimSpace(text), 10, 64)
		if err != nil || n < 0 || n > 1e12 {
			return usageError{fmt.Errorf("online: %q is no number of users", text)}
		}
		d.Online, d.Users = n, int64(float64(n)*perUser)
		p, err := plan.Compute(c, d, m)
		if err != nil {
			return usageError{err}
		}
		plans = append(plans, p)
	}
	return plan.WriteTable(stdout, plans...)
}

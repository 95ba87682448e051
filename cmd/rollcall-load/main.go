// Command rollcall-load puts load on Rollcall: it plays scenarios with as many sessions
// as the machine allows, checks that each event came, and tells what it cost.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/rollcall-presence/rollcall/configs"
	"github.com/rollcall-presence/rollcall/internal/load"
	"github.com/rollcall-presence/rollcall/internal/load/report"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	os.Exit(run(ctx, os.Args[1:], os.Environ(), os.Stdin, os.Stdout, os.Stderr))
}

// The exit codes.
const (
	exitOK     = 0
	exitFailed = 1 // something that was checked did not hold, or the run could not be done
	exitUsage  = 2 // the command line is wrong
)

// usageError is a mistake in the command line.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

// errChecks tells that a run was done and something did not hold, which was printed.
var errChecks = errors.New("a check failed")

func run(ctx context.Context, args, env []string, stdin io.Reader, stdout io.Writer, stderr *os.File) int {
	err := dispatch(ctx, args, env, stdin, stdout, stderr)
	switch {
	case err == nil, errors.Is(err, flag.ErrHelp):
		return exitOK
	case errors.Is(err, errChecks):
		return exitFailed
	}
	for line := range strings.SplitSeq(strings.TrimSpace(err.Error()), "\n") {
		_, _ = fmt.Fprintln(stderr, "rollcall-load:", line)
	}
	if _, misused := errors.AsType[usageError](err); misused {
		return exitUsage
	}
	return exitFailed
}

func dispatch(ctx context.Context, args, env []string, stdin io.Reader, stdout io.Writer, stderr *os.File) error {
	if len(args) == 0 {
		return usageError{fmt.Errorf("say what to do: %s, compare, growth or plan; see --help", load.Names())}
	}
	switch name, rest := args[0], args[1:]; name {
	case "help", "-h", "-help", "--help":
		return overview(stdout)
	case "worker": // started by a run
		return load.Worker(ctx, stdin, stdout)
	case "bare": // started by a run
		return load.Bare(ctx, stdin, stdout)
	case "compare":
		return runCompare(rest, stdout)
	case "growth":
		return runGrowth(rest, stdout)
	case "plan":
		return runPlan(rest, stdout)
	default:
		s, ok := load.ScenarioOf(name)
		if !ok {
			return usageError{fmt.Errorf("there is no scenario or command %q: there are %s, compare, growth and plan", name, load.Names())}
		}
		return runScenario(ctx, s, rest, env, stdout, stderr)
	}
}

func overview(w io.Writer) error {
	var b strings.Builder
	b.WriteString("rollcall-load puts load on Rollcall, checks what it measures, and tells what it cost.\n\n" +
		"usage: rollcall-load SCENARIO [flags]\n\n")
	for _, s := range load.Scenarios() {
		fmt.Fprintf(&b, "  %-10s %s\n", s.Name, s.Summary)
	}
	b.WriteString("\nusage: rollcall-load COMMAND [flags] [FILE...]\n\n" +
		"  compare    put the reports of two runs side by side\n" +
		"  growth     tell how costs grow over the reports of several runs\n" +
		"  plan       compute what a number of users takes, from measured costs\n\n" +
		"rollcall-load churn --nodes 2 starts two nodes and a redis-server on loopback and needs nothing else.\n" +
		"rollcall-load SCENARIO --help tells more. It ends with 0 if all that was checked held, else with 1.\n")
	_, err := io.WriteString(w, b.String())
	return err
}

// list is a flag with several values, separated by commas or given several times.
type list []string

func (l *list) String() string { return strings.Join(*l, ",") }

func (l *list) Set(v string) error {
	for part := range strings.SplitSeq(v, ",") {
		if part = strings.TrimSpace(part); part != "" {
			*l = append(*l, part)
		}
	}
	return nil
}

func runScenario(ctx context.Context, s load.Scenario, args, environ []string, stdout io.Writer, stderr *os.File) error {
	envOr := func(name, otherwise string) string {
		for _, v := range environ {
			if value, ok := strings.CutPrefix(v, name+"="); ok && value != "" {
				return value
			}
		}
		return otherwise
	}
	opt := load.Options{Settings: s.Defaults, Progress: load.NewProgress(stderr, envOr("TERM", ""))}
	opt.Scenario = s.Name
	flags := flag.NewFlagSet(s.Name, flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	var urls, admins, from, env list
	flags.Var(&urls, "url", "`addresses` of the nodes, such as ws://10.0.0.1:8080/v1/connect, separated by commas")
	flags.Var(&admins, "admin", "`addresses` of the nodes' admin servers, such as http://10.0.0.1:9090, in the same order, to read metrics from")
	flags.StringVar(&opt.Redis, "redis", "", "`address` of Redis, such as redis://10.0.0.2:6379, to read its figures from; with --nodes, what they use")
	flags.IntVar(&opt.Nodes, "nodes", 0, "start so many nodes on loopback for the run, and a redis-server without --redis")
	flags.StringVar(&opt.Binary, "binary", "", "`path` of the rollcall program for --nodes; by default beside this one, or in PATH")
	flags.Var(&env, "env", "further `environment` of --nodes, such as ROLLCALL_HEARTBEAT=6s; several times")
	flags.StringVar(&opt.Account, "account-sid", envOr("ROLLCALL_ACCOUNT_SID", configs.DevAccountSID), "`SID` of the account; also from ROLLCALL_ACCOUNT_SID")
	flags.StringVar(&opt.KeySID, "api-key-sid", envOr("ROLLCALL_API_KEY_SID", configs.DevAPIKeySID), "`SID` of the API key that tokens are signed with; also from ROLLCALL_API_KEY_SID")
	// Secrets come from the environment: a command line can be read by everybody on the machine.
	opt.AuthToken = envOr("ROLLCALL_AUTH_TOKEN", configs.DevAuthToken)
	opt.KeySecret = envOr("ROLLCALL_API_KEY_SECRET", configs.DevAPIKeySecret)

	flags.IntVar(&opt.Sessions, "sessions", opt.Sessions, "how many sessions stay connected")
	flags.IntVar(&opt.Watch, "watch", opt.Watch, "how many users a session watches; in churn, how many sessions watch a user on average")
	flags.Float64Var(&opt.Rate, "rate", opt.Rate, "sessions that connect a second")
	flags.DurationVar(&opt.For, "for", opt.For, "how long the scenario goes on once all are connected")
	flags.IntVar(&opt.Actors, "actors", opt.Actors, "how many users come and go")
	flags.Float64Var(&opt.Acts, "acts", opt.Acts, "comings and goings a second, or reloads")
	flags.Float64Var(&opt.Slow, "slow", opt.Slow, "share of the sessions that barely read")
	flags.DurationVar(&opt.Back, "back", opt.Back, "the time within which sessions that were cut, or pages that were left, are back")
	flags.DurationVar(&opt.Linger, "linger", opt.Linger, "the service's linger; 0s is 10s")
	flags.BoolVar(&opt.Batch, "batch", opt.Batch, "sessions allow batches")
	flags.BoolVar(&opt.Bare, "bare", false, "celebrity: compare with a bare loop of the same WebSocket library, in the same run")
	flags.StringVar(&opt.Restart, "restart", "", "rolling: `command` that restarts the node whose number from 0 is in NODE")
	flags.IntVar(&opt.Processes, "processes", 0, "how many processes the clients are; 0 for as few as the limit on open files allows")
	flags.Var(&from, "from", "local `addresses` to connect from; each is good for about 28,000 connections to a node")
	flags.BoolVar(&opt.AtRest, "at-rest", s.Name == "idle", "measure the nodes' memory after they have collected their garbage; takes up to a minute")
	flags.StringVar(&opt.Profiles, "profiles", "", "`directory` for CPU and heap profiles of the nodes")
	asJSON := flags.String("json", "", "`file` for the report as JSON")
	asHTML := flags.String("html", "", "`file` for the report as one HTML page")
	if err := flags.Parse(args); errors.Is(err, flag.ErrHelp) {
		return errors.Join(err, help(stdout, flags, s.Name, s.Summary))
	} else if err != nil {
		return usageError{err}
	}
	if flags.NArg() > 0 {
		return usageError{fmt.Errorf("%s takes no arguments beside flags: %q", s.Name, flags.Args())}
	}
	opt.URLs, opt.Admins, opt.From, opt.Env = urls, admins, from, env
	if opt.Nodes == 0 && len(admins) == 0 { // what is measured by default is so only if it can be
		asked := false
		flags.Visit(func(f *flag.Flag) { asked = asked || f.Name == "at-rest" })
		opt.AtRest = opt.AtRest && asked
	}
	if opt.Nodes > 0 && opt.Binary == "" {
		var err error
		if opt.Binary, err = findBinary(); err != nil {
			return usageError{err}
		}
	}
	if err := opt.Validate(); err != nil {
		return usageError{err}
	}
	for _, name := range []string{*asJSON, *asHTML} { // better now than after the run
		if err := writable(name); err != nil {
			return err
		}
	}
	rep, failed := load.Run(ctx, opt)
	opt.Progress.End()
	if rep == nil {
		return failed
	}
	rep.Settings = append(rep.Settings, report.Setting{Name: "command", Value: "rollcall-load " + s.Name + " " + strings.Join(args, " ")})
	if err := errors.Join(rep.Text(stdout), write(*asJSON, rep.Write), write(*asHTML, func(w io.Writer) error { return report.HTML(w, rep) })); err != nil {
		return errors.Join(failed, err)
	}
	if failed == nil && !rep.Passed() {
		return errChecks
	}
	return failed
}

// findBinary is the rollcall program beside this one, or in PATH.
func findBinary() (string, error) {
	if self, err := os.Executable(); err == nil {
		path := filepath.Join(filepath.Dir(self), "rollcall")
		if _, err := os.Stat(path); err == nil {
			return path, nil
		}
	}
	path, err := exec.LookPath("rollcall")
	if err != nil {
		return "", errors.New("binary: there is no rollcall beside this program or in PATH; say where it is")
	}
	return path, nil
}

// writable tells whether a file can be made or written, if it has a name, and leaves things as they are.
func writable(name string) error {
	if name == "" {
		return nil
	}
	if f, err := os.OpenFile(name, os.O_WRONLY, 0); err == nil { //nolint:gosec // the user's
		return f.Close()
	} else if !errors.Is(err, os.ErrNotExist) {
		return err
	}
	f, err := os.Create(name) //nolint:gosec // the user's
	if err != nil {
		return err
	}
	return errors.Join(f.Close(), os.Remove(name))
}

// write writes a file, if it has a name.
func write(name string, to func(io.Writer) error) error {
	if name == "" {
		return nil
	}
	f, err := os.Create(name) //nolint:gosec // the user's
	if err != nil {
		return err
	}
	return errors.Join(to(f), f.Close())
}

func help(w io.Writer, flags *flag.FlagSet, usage, summary string) error {
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n\nusage: rollcall-load %s [flags]\n\n", summary, usage)
	flags.SetOutput(&b)
	flags.PrintDefaults()
	_, err := io.WriteString(w, b.String())
	return err
}

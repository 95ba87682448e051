// Command rollcall is the presence gateway, and the tools to run and look at one.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"strings"
	"syscall"

	"github.com/rollcall-presence/rollcall/configs"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	os.Exit(run(ctx, os.Args[1:], os.Environ(), os.Stdout, os.Stderr))
}

// The exit codes.
const (
	exitOK     = 0
	exitFailed = 1 // what was asked for could not be done
	exitUsage  = 2 // the command line or the configuration is wrong, or verify could not look
)

// command is one of the things that rollcall does.
type command struct {
	name, args, summary string
	run                 func(context.Context, *invocation) error
}

func commands() []command {
	return []command{
		{"serve", "", "run a gateway (what rollcall does without a command)", runServe},
		{"token", "--service IS... --identity NAME", "print an access token for a client", runToken},
		{"watch", "--service IS... IDENTITY...", "print what becomes of users, as it happens", runWatch},
		{"verify", "[--repair] [--service IS...]", "compare what the records in Redis say of each other", runVerify},
		{"config", "check|print", "check the configuration, or print what is in force", runConfig},
		{"healthcheck", "", "ask the gateway on this machine whether it is ready", runHealthcheck},
		{"version", "", "print the version", runVersion},
	}
}

// invocation is one command with what it was given. Flags are the command's own; load adds the settings.
type invocation struct {
	*command
	args, env      []string
	stdout, stderr io.Writer
	flags          *flag.FlagSet
}

// usageError is a mistake in the command line or the configuration.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

// uncheckedError tells why verify could not look.
type uncheckedError struct{ error }

func (e uncheckedError) Unwrap() error { return e.error }

func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

// run does what args ask for and returns the exit code. Env holds "KEY=value". A server runs until ctx ends.
func run(ctx context.Context, args, env []string, stdout, stderr io.Writer) int {
	err := dispatch(ctx, args, env, stdout, stderr)
	switch {
	case err == nil, errors.Is(err, flag.ErrHelp):
		return exitOK
	case errors.Is(err, errDisagree): // it is printed
		return exitFailed
	default:
		for line := range strings.SplitSeq(strings.TrimSpace(err.Error()), "\n") {
			fmt.Fprintln(stderr, "rollcall:", line)
		}
		_, misused := errors.AsType[usageError](err)
		if _, unchecked := errors.AsType[uncheckedError](err); misused || unchecked {
			return exitUsage
		}
		return exitFailed
	}
}

func dispatch(ctx context.Context, args, env []string, stdout, stderr io.Writer) error {
	name := "serve"
	if len(args) > 0 {
		switch first := args[0]; {
		case first == "help" || first == "--help" || first == "-help" || first == "-h":
			return overview(stdout)
		case !strings.HasPrefix(first, "-"):
			name, args = first, args[1:]
		}
	}
	for _, c := range commands() {
		if c.name == name {
			flags := flag.NewFlagSet(name, flag.ContinueOnError)
			flags.SetOutput(io.Discard)
			return c.run(ctx, &invocation{&c, args, env, stdout, stderr, flags})
		}
	}
	return usagef("there is no command %q: see rollcall --help", name)
}

func overview(w io.Writer) error {
	var b strings.Builder
	b.WriteString("Rollcall tells clients who is reachable right now.\n\nusage: rollcall [command] [flags]\n\n")
	for _, c := range commands() {
		fmt.Fprintf(&b, "  %-12s %s\n", c.name, c.summary)
	}
	b.WriteString("\nrollcall <command> --help tells more. Without flags and environment rollcall serves on 127.0.0.1:8080 with an\n" +
		"embedded store and development credentials.\n")
	_, err := io.WriteString(w, b.String())
	return err
}

// load parses the command's flags together with all settings. The arguments that remain are in in.flags.Args().
func (in *invocation) load() (configs.Config, error) {
	var own []*flag.Flag
	in.flags.VisitAll(func(f *flag.Flag) { own = append(own, f) })
	cfg, err := configs.Load(in.flags, in.args, in.env)
	if errors.Is(err, flag.ErrHelp) {
		return cfg, errors.Join(err, in.help(own))
	}
	if err != nil {
		return cfg, usageError{err}
	}
	return cfg, nil
}

// help prints the command's usage: its own flags and --config, for serve every setting.
func (in *invocation) help(own []*flag.Flag) error {
	shown := in.flags
	settings := ""
	if in.name != "serve" {
		shown = flag.NewFlagSet(in.name, flag.ContinueOnError)
		for _, f := range append(own, in.flags.Lookup("config")) {
			shown.Var(f.Value, f.Name, f.Usage)
		}
		settings = "\nThe settings of the gateway, from flags, environment or file, hold here too: see rollcall serve --help.\n"
	}
	var b strings.Builder
	usage := strings.Join(strings.Fields("rollcall "+in.name+" "+in.command.args+" [flags]"), " ")
	fmt.Fprintf(&b, "%s\n\nusage: %s\n\n", in.summary, usage)
	shown.SetOutput(&b)
	shown.PrintDefaults()
	_, err := io.WriteString(in.stdout, b.String()+settings)
	return err
}

// noArguments refuses what is left on the command line.
func (in *invocation) noArguments() error {
	if rest := in.flags.Args(); len(rest) > 0 {
		return usagef("rollcall %s takes no argument %q: see rollcall %s --help", in.name, rest[0], in.name)
	}
	return nil
}

func runServe(ctx context.Context, in *invocation) error {
	cfg, err := in.load()
	if err != nil {
		return err
	}
	if err := in.noArguments(); err != nil {
		return err
	}
	return serve(ctx, cfg, in.stdout, in.stderr)
}

func runConfig(_ context.Context, in *invocation) error {
	what := ""
	if len(in.args) > 0 && !strings.HasPrefix(in.args[0], "-") {
		what, in.args = in.args[0], in.args[1:]
	}
	cfg, err := in.load()
	if err != nil {
		return err
	}
	if err := in.noArguments(); err != nil {
		return err
	}
	switch what {
	case "print":
		return cfg.Print(in.stdout)
	case "check":
		_, _ = fmt.Fprint(in.stdout, "The configuration is good.\n\n")
		return cfg.Bounds().Write(in.stdout)
	default:
		return usagef("rollcall config needs one of check and print: see rollcall config --help")
	}
}

func runVersion(_ context.Context, in *invocation) error {
	if err := in.flags.Parse(in.args); errors.Is(err, flag.ErrHelp) {
		_, err := fmt.Fprintf(in.stdout, "%s\n\nusage: rollcall version\n", in.summary)
		return err
	} else if err != nil {
		return usageError{err}
	}
	if err := in.noArguments(); err != nil {
		return err
	}
	_, err := fmt.Fprintln(in.stdout, "rollcall", version())
	return err
}

// version is the module's version, or the commit where there is none, with the Go version and platform.
func version() string {
	v := "(unknown)"
	if info, ok := debug.ReadBuildInfo(); ok {
		v = info.Main.Version
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" && v == "(devel)" {
				v = s.Value[:min(12, len(s.Value))]
			}
		}
	}
	return fmt.Sprintf("%s %s %s/%s", v, runtime.Version(), runtime.GOOS, runtime.GOARCH)
}

package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"

	"github.com/rollcall-presence/rollcall/internal/load/report"
)

// parse parses the flags of a command that takes files. It has printed the help if it returns flag.ErrHelp.
func parse(flags *flag.FlagSet, args []string, stdout io.Writer, usage, summary string, least, most int) error {
	flags.SetOutput(io.Discard)
	if err := flags.Parse(args); errors.Is(err, flag.ErrHelp) {
		return errors.Join(err, help(stdout, flags, usage, summary))
	} else if err != nil {
		return usageError{err}
	}
	if n := flags.NArg(); n < least || n > most {
		return usageError{fmt.Errorf("usage: rollcall-load %s", usage)}
	}
	return nil
}

func read(name string) (*report.Report, error) {
	f, err := os.Open(name) //nolint:gosec // the user's
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	r, err := report.Read(f)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return r, nil
}

func runCompare(args []string, stdout io.Writer) error {
	flags := flag.NewFlagSet("compare", flag.ContinueOnError)
	asHTML := flags.String("html", "", "`file` for the comparison as one HTML page")
	if err := parse(flags, args, stdout, "compare [flags] BEFORE.json AFTER.json", "put the reports of two runs side by side", 2, 2); err != nil {
		return err
	}
	a, err := read(flags.Arg(0))
	if err != nil {
		return err
	}
	b, err := read(flags.Arg(1))
	if err != nil {
		return err
	}
	return errors.Join(report.CompareText(stdout, a, b), write(*asHTML, func(w io.Writer) error { return report.CompareHTML(w, a, b) }))
}

func runGrowth(args []string, stdout io.Writer) error {
	flags := flag.NewFlagSet("growth", flag.ContinueOnError)
	by := flags.String("by", "sessions", "the `setting` that the runs differ in, such as sessions, nodes or watch")
	if err := parse(flags, args, stdout, "growth [flags] FILE.json...", "tell how costs grow over the reports of several runs", 2, 1000); err != nil {
		return err
	}
	var list []*report.Report
	for _, name := range flags.Args() {
		r, err := read(name)
		if err != nil {
			return err
		}
		list = append(list, r)
	}
	return report.Growth(stdout, *by, list)
}

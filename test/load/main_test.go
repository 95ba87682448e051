// Package load drives the real load generator against real nodes on a real Redis: each
// scenario in a short form, and gateways that lie, which it must find out.
package load

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rollcall-presence/rollcall/internal/load/report"
	"github.com/rollcall-presence/rollcall/internal/testkit"
	"github.com/rollcall-presence/rollcall/internal/testkit/rig"
)

// program is the load generator. It is built with the race detector if the tests are.
var program struct {
	path string
	dir  string // its, and of what the race detector finds
}

func TestMain(m *testing.M) {
	flag.Parse()
	if f := flag.Lookup("test.parallel"); f.Value.String() == f.DefValue {
		_ = f.Value.Set("6") // runs mostly wait
	}
	os.Exit(run(m))
}

func run(m *testing.M) int {
	var err error
	if program.dir, err = os.MkdirTemp("", "rollcall-load-test-"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer func() { _ = os.RemoveAll(program.dir) }()
	program.path = filepath.Join(program.dir, "rollcall-load")
	args := []string{"build", "-o", program.path}
	if testkit.Race {
		args = append(args, "-race")
	}
	out, err := exec.Command("go", append(args, rig.Program+"-load")...).CombinedOutput()
	if err != nil {
		fmt.Fprintf(os.Stderr, "the load generator does not build: %v\n%s", err, out)
		return 1
	}
	code := rig.Run(m)
	found, _ := filepath.Glob(filepath.Join(program.dir, "race.*"))
	for _, name := range found {
		data, _ := os.ReadFile(name)
		fmt.Fprintf(os.Stderr, "the load generator:\n%s\n", data)
		code = 1
	}
	return code
}

// command is a call of the program, with its temporary files in a directory of its own.
type command struct {
	*exec.Cmd
	stdout, stderr buffer
	tmp            string
}

// buffer is a bytes.Buffer that may be read while it is written.
type buffer struct {
	mu sync.Mutex // guards b
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// prepare is a call that has yet to be started.
func prepare(t *testing.T, args ...string) *command {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	t.Cleanup(cancel)
	c := &command{Cmd: exec.CommandContext(ctx, program.path, args...), tmp: t.TempDir()}
	c.Env = append(slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "ROLLCALL_") }),
		"ROLLCALL_AUTH_TOKEN="+rig.AuthToken, "ROLLCALL_API_KEY_SECRET="+rig.KeySecret, // as users give them
		"TMPDIR="+c.tmp, "GORACE=atexit_sleep_ms=0 log_path="+filepath.Join(program.dir, "race"))
	c.Stdout, c.Stderr = &c.stdout, &c.stderr
	return c
}

// load calls the program and returns its exit status. Whatever it did, it must have put its temporary files away.
func load(t *testing.T, args ...string) (status int, stdout, stderr string) {
	t.Helper()
	c := prepare(t, args...)
	status = c.ended(t, c.Run())
	return status, c.stdout.String(), c.stderr.String()
}

// ended is the exit status of a call that Run or Wait returned from.
func (c *command) ended(t *testing.T, err error) int {
	t.Helper()
	if exit, ok := errors.AsType[*exec.ExitError](err); err != nil && (!ok || exit.ExitCode() < 0) {
		t.Fatalf("%v: %v\n%s%s", c.Args, err, c.stdout.String(), c.stderr.String())
	}
	var left []string
	_ = filepath.WalkDir(c.tmp, func(name string, _ fs.DirEntry, _ error) error {
		if name != c.tmp {
			left = append(left, name)
		}
		return nil
	})
	if len(left) > 0 {
		t.Errorf("%v left %q behind", c.Args, left)
	}
	return c.ProcessState.ExitCode()
}

// play calls the program for a scenario and returns its report. It fails the test if the status is another one.
func play(t *testing.T, want int, args ...string) *report.Report {
	t.Helper()
	name := filepath.Join(t.TempDir(), "report.json")
	status, stdout, stderr := load(t, append(args, "--json", name)...)
	if status != want {
		t.Fatalf("rollcall-load %s ended with %d; want %d\n%s%s", strings.Join(args, " "), status, want, stdout, stderr)
	}
	r := read(t, name)
	for _, check := range broken(r) { // who reads only what is printed must see it too
		if !regexp.MustCompile(`FAILED +` + regexp.QuoteMeta(check)).MatchString(stdout) {
			t.Errorf("nothing is printed of %q, which does not hold:\n%s", check, stdout)
		}
	}
	return r
}

func read(t *testing.T, name string) *report.Report {
	t.Helper()
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	r, err := report.Read(f)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// result is a figure of a report.
func result(t *testing.T, r *report.Report, name string) float64 {
	t.Helper()
	i := slices.IndexFunc(r.Results, func(x report.Result) bool { return x.Name == name })
	if i < 0 {
		t.Fatalf("the report has no %q; it has %v", name, r.Results)
	}
	return r.Results[i].Value
}

// checked is a check of a report.
func checked(t *testing.T, r *report.Report, name string) report.Check {
	t.Helper()
	i := slices.IndexFunc(r.Checks, func(x report.Check) bool { return x.Name == name })
	if i < 0 {
		t.Fatalf("the report has no check %q; it has %v", name, r.Checks)
	}
	return r.Checks[i]
}

// latency is a distribution of a report.
func latency(t *testing.T, r *report.Report, name string) report.Latency {
	t.Helper()
	i := slices.IndexFunc(r.Latencies, func(x report.Latency) bool { return x.Name == name })
	if i < 0 {
		t.Fatalf("the report has no latency %q", name)
	}
	return r.Latencies[i]
}

// broken are the names of the checks that did not hold.
func broken(r *report.Report) (names []string) {
	for _, c := range r.Checks {
		if !c.OK {
			names = append(names, c.Name)
		}
	}
	return names
}

package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rollcall-presence/rollcall/internal/load"
	"github.com/rollcall-presence/rollcall/internal/load/report"
)

// call runs the program, and is its exit code and what it printed.
func call(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "stderr"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var out bytes.Buffer
	code = run(t.Context(), args, nil, strings.NewReader(""), &out, f)
	data, err := os.ReadFile(f.Name())
	if err != nil {
		t.Fatal(err)
	}
	return code, out.String(), string(data)
}

func TestUsage(t *testing.T) {
	for name, tt := range map[string]struct {
		args []string
		code int
		want string // on stderr, or on stdout if the code is 0
	}{
		"nothing":                 {nil, 2, "say what to do: idle, ramp, churn, celebrity, storm, slow, reload, rolling, compare, growth or plan"},
		"help":                    {[]string{"--help"}, 0, "storm      all connections are cut at once"},
		"another":                 {[]string{"stomr"}, 2, `no scenario or command "stomr"`},
		"help of a scenario":      {[]string{"churn", "--help"}, 0, "users come and go at a rate"},
		"help of a command":       {[]string{"growth", "--help"}, 0, "usage: rollcall-load growth [flags] FILE.json..."},
		"no nodes":                {[]string{"idle"}, 2, "rollcall-load: url: say where the nodes are"},
		"no such flag":            {[]string{"idle", "--sesions", "5"}, 2, "sesions"},
		"arguments":               {[]string{"idle", "5"}, 2, "takes no arguments"},
		"all that is wrong":       {[]string{"ramp", "--url", "http://x", "--sessions", "0", "--from", "x"}, 2, "rollcall-load: from:"},
		"no such program":         {[]string{"ramp", "--nodes", "1", "--binary", "/nowhere/rollcall", "--redis", "redis://127.0.0.1:1"}, 1, "starting node 1"},
		"at rest by default":      {[]string{"idle", "--url", "ws://127.0.0.1:1/v1/connect"}, 1, "making a service for the run: "},
		"at rest if asked":        {[]string{"idle", "--url", "ws://127.0.0.1:1/v1/connect", "--at-rest"}, 2, "at-rest: needs --admin"},
		"nobody there":            {[]string{"ramp", "--url", "ws://127.0.0.1:1/v1/connect"}, 1, "making a service for the run: "},
		"no place for the report": {[]string{"ramp", "--url", "ws://127.0.0.1:1/v1/connect", "--json", "/nowhere/r.json"}, 1, "open /nowhere/r.json: no such file"},
		"a worker by itself":      {[]string{"worker"}, 1, "EOF"},
		"compare one":             {[]string{"compare", "a.json"}, 2, "usage: rollcall-load compare"},
		"compare nothing":         {[]string{"compare", "/nowhere/a.json", "/nowhere/b.json"}, 1, "/nowhere/a.json"},
		"growth of one":           {[]string{"growth", "a.json"}, 2, "usage: rollcall-load growth"},
		"plan of nobody":          {[]string{"plan", "--online", "few"}, 2, `"few" is no number of users`},
		"plan":                    {[]string{"plan", "--online", "10000"}, 0, "nodes, all together"},
	} {
		t.Run(name, func(t *testing.T) {
			code, stdout, stderr := call(t, tt.args...)
			said := stderr
			if tt.code == 0 {
				said = stdout
			}
			if code != tt.code || !strings.Contains(said, tt.want) {
				t.Errorf("exit code %d, %q; want %d, one with %q", code, said, tt.code, tt.want)
			}
		})
	}
}

// The overview names each scenario, and each has help.
func TestEachScenarioHasHelp(t *testing.T) {
	_, overview, _ := call(t, "help")
	for _, s := range load.Scenarios() {
		code, help, _ := call(t, s.Name, "-h")
		if code != 0 || !strings.Contains(help, s.Summary) || !strings.Contains(help, "-linger") || !strings.Contains(overview, s.Summary) {
			t.Errorf("the help of %s: %d, %q", s.Name, code, help)
		}
	}
}

func TestReportsAreReadBack(t *testing.T) {
	dir := t.TempDir()
	file := func(name, sessions string, cpu float64) string {
		path := filepath.Join(dir, name)
		r := &report.Report{
			Scenario: "idle", Settings: []report.Setting{{Name: "sessions", Value: sessions}},
			Results: []report.Result{{Name: "CPU", Value: cpu, Unit: "%", Better: "lower"}},
		}
		if err := write(path, r.Write); err != nil {
			t.Fatal(err)
		}
		return path
	}
	a, b, page := file("a.json", "100", 1), file("b.json", "200", 4), filepath.Join(dir, "page.html")
	if code, out, errs := call(t, "compare", "--html", page, a, b); code != 0 || !strings.Contains(out, "4 times") {
		t.Errorf("compare: %d, %q, %q", code, out, errs)
	}
	if data, err := os.ReadFile(page); err != nil || !bytes.Contains(data, []byte("</html>")) {
		t.Errorf("the page is %.50q, %v", data, err)
	}
	if code, out, errs := call(t, "growth", a, b); code != 0 || !strings.Contains(out, "| CPU, % | 1 | 4 | n^2.00 | faster than linearly |") {
		t.Errorf("growth: %d, %q, %q", code, out, errs)
	}
	if code, _, errs := call(t, "growth", "--by", "nodes", a, b); code != 1 || !strings.Contains(errs, `no setting "nodes"`) {
		t.Errorf("growth by nodes: %d, %q", code, errs)
	}
	junk := filepath.Join(dir, "junk.json")
	if err := os.WriteFile(junk, []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	if code, _, errs := call(t, "compare", a, junk); code != 1 || !strings.Contains(errs, junk) {
		t.Errorf("compare with junk: %d, %q", code, errs)
	}
}

// Whether a file can be written is found without changing anything.
func TestWritable(t *testing.T) {
	dir := t.TempDir()
	there, not := filepath.Join(dir, "there"), filepath.Join(dir, "not")
	if err := os.WriteFile(there, []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"", there, not} {
		if err := writable(name); err != nil {
			t.Errorf("writable(%q) = %v", name, err)
		}
	}
	if data, err := os.ReadFile(there); string(data) != "old" {
		t.Errorf("the file has %q, %v", data, err)
	}
	if _, err := os.Stat(not); err == nil {
		t.Error("the other file is there")
	}
	for _, name := range []string{dir, filepath.Join(there, "x"), "/nowhere/x"} {
		if writable(name) == nil {
			t.Errorf("%q is writable", name)
		}
	}
}

func TestLists(t *testing.T) {
	var l list
	for _, v := range []string{"a, b,,c", "", "d"} {
		if err := l.Set(v); err != nil {
			t.Error(err)
		}
	}
	if got, _ := json.Marshal(l); l.String() != "a,b,c,d" {
		t.Errorf("the list is %s", got)
	}
}

package load

import (
	"cmp"
	"flag"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "rewrite the tables of docs/load-testing.md")

const docs = "../../docs/load-testing.md"

var scenarios = []string{"idle", "ramp", "churn", "celebrity", "storm", "slow", "reload", "rolling"}

// option is a flag as the program's help tells of it.
type option struct {
	name, kind, text, def string
}

// described is an entry of help: a line that names the flag and perhaps what it takes, and one that explains it.
var described = regexp.MustCompile(`(?m)^  -([a-z-]+)(?: (\S+))?\n    \t(.*?)(?: \(default (.*)\))?$`)

// options are the flags of a scenario or command, from its help.
func options(t *testing.T, name string) (list []option) {
	t.Helper()
	status, stdout, stderr := load(t, name, "--help")
	if status != 0 {
		t.Fatalf("%s --help ended with %d\n%s", name, status, stderr)
	}
	for _, m := range described.FindAllStringSubmatch(stdout, -1) {
		list = append(list, option{m[1], m[2], m[3], strings.Trim(m[4], `"`)})
	}
	if want := strings.Count(stdout, "\n  -"); len(list) != want || want == 0 {
		t.Fatalf("%s --help has %d flags, of which %d can be read\n%s", name, want, len(list), stdout)
	}
	return list
}

// row is a flag in a table.
func (o option) row(def string) string {
	name := "--" + o.name
	if o.kind != "" {
		name += " " + strings.ToUpper(map[string]string{"int": "n", "float": "n", "string": "text"}[o.kind])
		if !slices.Contains([]string{"int", "float", "string"}, o.kind) {
			name += strings.ToUpper(o.kind)
		}
	}
	if def != "" {
		def = "`" + def + "`"
	}
	return fmt.Sprintf("| `%s` | %s | %s |\n", name, def, strings.ReplaceAll(o.text, "|", `\|`))
}

// tables are the generated parts of the page, by name.
func tables(t *testing.T) map[string]string {
	t.Helper()
	of := map[string]map[string]option{} // flag, scenario
	var names []string
	for _, s := range scenarios {
		for _, o := range options(t, s) {
			if of[o.name] == nil {
				of[o.name] = map[string]option{}
				names = append(names, o.name)
			}
			of[o.name][s] = o
		}
	}
	slices.Sort(names)
	var flags, defaults strings.Builder
	var differing []string
	flags.WriteString("| flag | default | |\n|---|---|---|\n")
	for _, name := range names {
		first := of[name][scenarios[0]]
		def := first.def
		for _, s := range scenarios {
			o := of[name][s]
			if o.name != name || o.text != first.text || o.kind != first.kind {
				t.Errorf("--%s is another flag in %s: %+v; want %+v", name, s, o, first)
			}
			if o.def != first.def {
				def = ""
			}
		}
		if def != first.def || slices.ContainsFunc(scenarios, func(s string) bool { return of[name][s].def != first.def }) {
			differing = append(differing, name)
			flags.WriteString(strings.Replace(first.row("*"), "`*`", "below", 1))
			continue
		}
		flags.WriteString(first.row(def))
	}
	defaults.WriteString("| | `" + strings.Join(scenarios, "` | `") + "` |\n|---|" + strings.Repeat("--:|", len(scenarios)) + "\n")
	for _, name := range differing {
		fmt.Fprintf(&defaults, "| `--%s` |", name)
		for _, s := range scenarios {
			defaults.WriteString(" " + cmp.Or(of[name][s].def, "–") + " |")
		}
		defaults.WriteString("\n")
	}
	out := map[string]string{"flags": flags.String(), "defaults": defaults.String()}
	for _, name := range []string{"compare", "growth", "plan"} {
		var b strings.Builder
		b.WriteString("| flag | default | |\n|---|---|---|\n")
		for _, o := range options(t, name) {
			b.WriteString(o.row(o.def))
		}
		out["flags of "+name] = b.String()
	}
	return out
}

// TestDocs keeps the tables of docs/load-testing.md in step: go test ./test/load -run TestDocs -update rewrites them.
func TestDocs(t *testing.T) {
	t.Parallel()
	data, err := os.ReadFile(docs)
	if err != nil {
		t.Fatal(err)
	}
	page := string(data)
	for name, table := range tables(t) {
		begin, end := "<!-- "+name+": written by go test ./test/load -run TestDocs -update -->\n", "<!-- end of "+name+" -->\n"
		before, rest, ok := strings.Cut(page, begin)
		_, after, closed := strings.Cut(rest, end)
		if !ok || !closed {
			t.Errorf("%s has no place for %q: %s%s", docs, name, begin, end)
			continue
		}
		page = before + begin + "\n" + table + "\n" + end + after
	}
	if *update && !t.Failed() {
		if err := os.WriteFile(docs, []byte(page), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if diff := gocmp.Diff(string(data), page); diff != "" {
		t.Errorf("%s is out of step; go test ./test/load -run TestDocs -update rewrites it (-have +want):\n%s", docs, diff)
	}
}

// called is a call of the program in a page.
var called = regexp.MustCompile(`(?m)^(?:    |\$ |)(?:[A-Z_]+=\S+ )*(?:\./)?bin/rollcall-load ([^\n]*)$`)

// TestDocsCommands holds the calls in pages to be ones that the program understands. Those of docs/load-testing.md
// have been made as they stand there.
func TestDocsCommands(t *testing.T) {
	t.Parallel()
	seen := 0
	for _, name := range []string{docs, "../../README.md", "../../docs/performance.md", "../../docs/scaling.md"} {
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		// what goes on in the next line belongs to it
		for _, m := range called.FindAllStringSubmatch(strings.ReplaceAll(string(data), "\\\n", ""), -1) {
			seen++
			command, _, _ := strings.Cut(m[1], " >")
			var args []string
			for _, a := range words.FindAllString(command, -1) {
				args = append(args, strings.NewReplacer("'", "", `"`, "").Replace(a))
			}
			if status, _, stderr := load(t, append(args, "--help")...); status != 0 && slices.Contains(append(scenarios, "plan"), args[0]) {
				t.Errorf("%s: rollcall-load %s: %s", name, m[1], stderr)
			}
		}
	}
	if seen < 10 {
		t.Errorf("saw %d calls; the test looks at nothing", seen)
	}
}

var words = regexp.MustCompile(`(?:'[^']*'|"[^"]*"|\S)+`)

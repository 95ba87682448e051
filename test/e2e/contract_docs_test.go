package e2e

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/rollcall-presence/rollcall/internal/testkit"
)

// suites are the files of test/rest that drive the published operations, by tag.
var suites = map[string]string{
	"Services": "services.mjs", "Configuration": "services.mjs", "Users": "users.mjs", "Roles": "users.mjs", "Push": "bindings.mjs", "Webhooks": "webhooks.mjs",
}

// TestRestDocs holds the table of docs/rest.md against openapi.yaml, which the route
// table is held against, and against the tests: go test ./test/e2e -run TestRestDocs
// -update writes it anew.
func TestRestDocs(t *testing.T) {
	const file, marker = "../../docs/rest.md", "<!-- operations -->"
	docs, err := documents()
	if err != nil {
		t.Fatal(err)
	}
	var table strings.Builder
	table.WriteString("| operation | request | parameters | success | codes of its own | Node |\n|---|---|---|---|---|---|\n")
	tested := map[string]bool{}
	for _, o := range operations {
		i := slices.IndexFunc(docs.Own().Operations, func(op testkit.Operation) bool { return op.OperationID == o.id })
		if i < 0 || tested[o.id] {
			t.Errorf("%s is in the table of tests twice, or in openapi.yaml not at all", o.id)
			continue
		}
		tested[o.id] = true
		op, suite := docs.Own().Operations[i], "✚"
		if !op.Extension {
			suite = suites[op.Tags[0]]
			if _, err := os.Stat("../rest/" + suite); err != nil || suite == "" {
				t.Errorf("%s, tag %v: no file of test/rest drives it: %v", o.id, op.Tags, err)
			}
		}
		fmt.Fprintf(&table, "| `%s` | `%s %s` | %s | %s | %s | %s |\n", o.id, op.Method, op.Path, inTable(op), success(op), codes(o), suite)
	}
	for _, op := range docs.Own().Operations {
		if !tested[op.OperationID] {
			t.Errorf("%s has no test", op.OperationID)
		}
	}
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	before, after, ok := strings.Cut(string(data), marker)
	if !ok {
		t.Fatalf("%s has no %s", file, marker)
	}
	head := strings.LastIndex(before, "| operation |")
	if head < 0 {
		head = len(before)
	}
	if before[head:] == table.String() {
		return
	}
	if !*update {
		t.Fatalf("the table of %s is not that of openapi.yaml and the tests; run go test ./test/e2e -run TestRestDocs -update\nwant:\n%s", file, &table)
	}
	if err := os.WriteFile(file, []byte(before[:head]+table.String()+marker+after), 0o600); err != nil {
		t.Fatal(err)
	}
}

// inTable is an operation's parameters, those that are required bold.
func inTable(op testkit.Operation) string {
	shown := make([]string, len(op.Parameters))
	for i, name := range slices.Sorted(slices.Values(op.Parameters)) {
		shown[i] = "`" + name + "`"
		if slices.Contains(op.Required, name) {
			shown[i] = "**" + shown[i] + "**"
		}
	}
	return strings.Join(shown, " ")
}

// success is the status that an operation succeeds with.
func success(op testkit.Operation) string {
	for _, status := range []string{"200", "201", "204"} {
		if op.Responses.Value(status) != nil {
			return status
		}
	}
	return ""
}

// codes are what an operation refuses beyond what all do, each of which is tried.
func codes(op operation) string {
	var all []string
	for _, r := range op.refuses {
		if r.code != 20001 {
			all = append(all, fmt.Sprintf("%d/%d", r.status, r.code))
		}
	}
	slices.Sort(all)
	return strings.Join(slices.Compact(all), " ")
}

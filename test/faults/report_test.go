package faults

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"
)

// result is a scenario that was run and passed.
type result struct {
	Scenario
	users, nodes int
	took         time.Duration
	seed         uint64
	verdict      Verdict
	saw          []string
}

// results are the scenarios that were run.
var results resultList

type resultList struct {
	mu     sync.Mutex // guards the following
	passed []result
	failed []string // by name
}

func (l *resultList) add(r result, failed bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if failed {
		l.failed = append(l.failed, r.Name)
	} else {
		l.passed = append(l.passed, r)
	}
}

// row is the result as a line of the table.
func (r result) row() string {
	seen := slices.Clone(r.saw)
	seen = append(seen, r.verdict.Summary())
	for _, why := range slices.Sorted(maps.Keys(r.verdict.Excused)) {
		seen = append(seen, fmt.Sprintf("%d× %s", r.verdict.Excused[why], why))
	}
	return fmt.Sprintf("| %s | %s | %d users, %d nodes, %.0f s, seed %d | %s | %s |",
		r.Guarantees, r.Name, r.users, r.nodes, r.took.Seconds(), r.seed, strings.Join(seen, "; "), r.Bound)
}

const tableHead = "| guarantee | fault | run | seen | bound |\n|---|---|---|---|---|\n"

var markers = regexp.MustCompile(`(?s)(<!-- table: begin -->\n)(.*)(<!-- table: end -->)`)

// writeReport puts a row for each scenario that passed between the markers of a file, takes out those of scenarios that
// failed, and leaves those that were not run.
func writeReport(path string) error {
	doc, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	found := markers.FindSubmatch(doc)
	if found == nil {
		return errors.New(path + " has no markers for the table")
	}
	rows := map[string]string{} // by the scenario's name, in the second column
	for line := range strings.Lines(strings.TrimPrefix(string(found[2]), tableHead)) {
		if columns := strings.Split(line, " | "); len(columns) > 1 {
			rows[columns[1]] = strings.TrimSuffix(line, "\n")
		}
	}
	results.mu.Lock()
	defer results.mu.Unlock()
	for _, name := range results.failed {
		delete(rows, name)
	}
	for _, r := range results.passed {
		rows[r.Name] = r.row()
	}
	table := tableHead
	for _, name := range slices.Sorted(maps.Keys(rows)) {
		table += rows[name] + "\n"
	}
	return os.WriteFile(path, markers.ReplaceAll(doc, []byte("${1}"+strings.ReplaceAll(table, "$", "$$")+"${3}")), 0o644)
}

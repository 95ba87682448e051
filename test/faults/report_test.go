package faults

import (
	"cmp"
	"errors"
	"fmt"
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

var results resultList

type resultList struct {
	mu   sync.Mutex // guards list
	list []result
}

func (l *resultList) add(r result) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.list = append(l.list, r)
}

// row is the result as a line of the table.
func (r result) row() string {
	seen := slices.Clone(r.saw)
	seen = append(seen, r.verdict.Summary())
	for why, n := range r.verdict.Excused {
		seen = append(seen, fmt.Sprintf("%d× %s", n, why))
	}
	return fmt.Sprintf("| %s | %s | %d users, %d nodes, %.0f s, seed %d | %s | %s |\n",
		r.Guarantees, r.Name, r.users, r.nodes, r.took.Seconds(), r.seed, strings.Join(seen, "; "), r.Bound)
}

var markers = regexp.MustCompile(`(?s)(<!-- table: begin -->\n).*(<!-- table: end -->)`)

// writeReport puts the table of what was run between the markers of a file.
func writeReport(path string) error {
	doc, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if !markers.Match(doc) {
		return errors.New(path + " has no markers for the table")
	}
	results.mu.Lock()
	defer results.mu.Unlock()
	slices.SortStableFunc(results.list, func(a, b result) int { return cmp.Compare(a.Name, b.Name) })
	table := "| guarantee | fault | run | seen | bound |\n|---|---|---|---|---|\n"
	for _, r := range results.list {
		table += r.row()
	}
	return os.WriteFile(path, markers.ReplaceAll(doc, []byte("${1}"+strings.ReplaceAll(table, "$", "$$")+"${2}")), 0o644)
}

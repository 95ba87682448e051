package report

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"unicode/utf8"
)

// shown are the percentiles that the tables have, beside the largest value.
var shown = []float64{50, 90, 99, 99.9}

// Text writes r as tables for a terminal or a log, without its charts.
func (r *Report) Text(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %s\n", scenario(r), summary(r))
	if len(r.Settings) > 0 {
		words := make([]string, len(r.Settings))
		for i, s := range r.Settings {
			words[i] = plain(s.Name + "=" + s.Value)
		}
		wrap(&b, "  ", words)
	}
	if len(r.Checks) > 0 {
		b.WriteString("\nCHECKS\n")
		rows := make([][]string, len(r.Checks))
		for i, c := range r.Checks {
			rows[i] = []string{state(c.OK), c.Name, c.Got, "want " + c.Want}
		}
		columns(&b, rows, 1, 3)
	}
	if len(r.Results) > 0 {
		b.WriteString("\nRESULTS\n")
		rows := make([][]string, len(r.Results))
		for i, x := range r.Results {
			rows[i] = []string{x.Name, figure(x.Value), unit(x.Unit)}
		}
		columns(&b, rows, 2)
	}
	if len(r.Latencies) > 0 {
		b.WriteString("\nLATENCIES, ms\n")
		head := append(append([]string{""}, names()...), "max", "mean", "count")
		columns(&b, append([][]string{head}, latencyTable(r)...))
	}
	notes(&b, "NOTES", r)
	_, err := io.WriteString(w, b.String())
	return err
}

// CompareText writes the reports a and b side by side as tables: what b has become
// against a, for the better or the worse. They may be of different scenarios, which is
// then said.
func CompareText(w io.Writer, a, b *Report) error {
	var t strings.Builder
	fmt.Fprintf(&t, "A  %s: %s\nB  %s: %s\n", scenario(a), summary(a), scenario(b), summary(b))
	if a.Scenario != b.Scenario {
		t.WriteString("\n!! " + otherScenario + "\n")
	}
	if _, rows := settings(a, b); len(rows) > 0 {
		t.WriteString("\nSETTINGS THAT DIFFER\n")
		columns(&t, append([][]string{{"", "A", "B"}}, rows...), 1, 2)
	}
	if checks := pairChecks(a, b); len(checks) > 0 {
		t.WriteString("\nCHECKS\n")
		rows := [][]string{{"", "A", "B"}}
		for _, p := range checks {
			rows = append(rows, []string{either(p).Name, checked(p.a), checked(p.b)})
		}
		columns(&t, rows, 1, 2)
	}
	if results := pairResults(a, b); len(results) > 0 {
		t.WriteString("\nRESULTS\n")
		rows := [][]string{{"", "", "A", "B", "change", ""}}
		for _, p := range results {
			x := resultRow(p)
			rows = append(rows, append([]string{x.name, unit(either(p).Unit)}, x.cells...))
		}
		columns(&t, rows, 1, 5)
	}
	for i, p := range pairLatencies(a, b) {
		if i == 0 {
			t.WriteString("\nLATENCIES, ms\n")
		}
		found := latencyRows(p)
		if len(found) == 0 {
			t.WriteString("  " + plain(either(p).Name) + ": none\n")
			continue
		}
		t.WriteString("  " + plain(either(p).Name) + "\n")
		rows := [][]string{{"", "A", "B", "change", ""}}
		for _, x := range found {
			rows = append(rows, append([]string{"  " + x.name}, x.cells...))
		}
		columns(&t, rows, 4)
	}
	notes(&t, "NOTES OF A", a)
	notes(&t, "NOTES OF B", b)
	_, err := io.WriteString(w, t.String())
	return err
}

const otherScenario = "These are runs of different scenarios: what they did differs, not only how well."

func scenario(r *Report) string {
	if r.Scenario == "" {
		return "unnamed scenario"
	}
	return plain(r.Scenario)
}

// verdict is whether the run passed, in words.
func verdict(r *Report) string {
	held := 0
	for _, c := range r.Checks {
		if c.OK {
			held++
		}
	}
	switch {
	case len(r.Checks) == 0:
		return "nothing checked"
	case r.Passed():
		return fmt.Sprintf("passed, all %d checks held", held)
	default:
		return fmt.Sprintf("FAILED, %d of %d checks held", held, len(r.Checks))
	}
}

func summary(r *Report) string {
	return fmt.Sprintf("%s; took %s, began %s", verdict(r), span(r.Seconds), when(r.Began))
}

func state(ok bool) string {
	if ok {
		return "ok"
	}
	return "FAILED"
}

// checked is how a check went in one report, if it has it.
func checked(c *Check) string {
	if c == nil {
		return "-"
	}
	return fmt.Sprintf("%s: %s, want %s", state(c.OK), c.Got, c.Want)
}

// within is the percentile, unless there were too few values for it to mean anything.
func (l *Latency) within(percent float64) (ms float64, ok bool) {
	for _, p := range l.Percentiles {
		if p.Percent >= percent {
			return p.MS, p.Percent < 100
		}
	}
	return 0, false
}

// names are the headings of shown.
func names() []string {
	out := make([]string, len(shown))
	for i, p := range shown {
		out[i] = "p" + figure(p)
	}
	return out
}

// latencyTable has a row for each latency: its name, the percentiles that are shown, the
// largest, the mean and the count.
func latencyTable(r *Report) [][]string {
	rows := make([][]string, len(r.Latencies))
	for i := range r.Latencies {
		l := &r.Latencies[i]
		row := []string{l.Name}
		for _, p := range shown {
			v, ok := l.within(p)
			row = append(row, orDash(v, ok))
		}
		some := l.Count > 0
		rows[i] = append(row, orDash(l.Max, some), orDash(l.Mean, some), separated(strconv.FormatInt(l.Count, 10)))
	}
	return rows
}

func orDash(v float64, ok bool) string {
	if !ok {
		return "-"
	}
	return figure(v)
}

// notes writes the notes as a list.
func notes(b *strings.Builder, title string, r *Report) {
	if len(r.Notes) > 0 {
		b.WriteString("\n" + title + "\n")
	}
	for _, n := range r.Notes {
		wrap(b, "  - ", strings.Fields(plain(n)))
	}
}

// wrap writes words in lines of at most 100 columns if none is longer; the first begins
// with lead, the others with as much space.
func wrap(b *strings.Builder, lead string, words []string) {
	column := utf8.RuneCountInString(lead)
	indent := strings.Repeat(" ", column)
	b.WriteString(lead)
	for i, word := range words {
		size := utf8.RuneCountInString(word)
		switch {
		case i == 0:
		case column+1+size > 100:
			b.WriteString("\n" + indent)
			column = len(indent)
		default:
			b.WriteByte(' ')
			column++
		}
		b.WriteString(word)
		column += size
	}
	b.WriteByte('\n')
}

package report

import (
	"math"
	"strconv"
)

// both is what two reports say of the same thing; the one that only one has is nil.
type both[T any] struct{ a, b *T }

// pair finds what a and b have in common: of the same key, and of several of one key
// the first with the first. The order is that of a; what only b has follows.
func pair[T any](a, b []T, key func(*T) string) []both[T] {
	rest := make(map[string][]*T, len(b))
	for i := range b {
		k := key(&b[i])
		rest[k] = append(rest[k], &b[i])
	}
	var out []both[T]
	for i := range a {
		p := both[T]{a: &a[i]}
		k := key(p.a)
		if found := rest[k]; len(found) > 0 {
			p.b, rest[k] = found[0], found[1:]
		}
		out = append(out, p)
	}
	for i := range b {
		if k := key(&b[i]); len(rest[k]) > 0 && rest[k][0] == &b[i] {
			out = append(out, both[T]{b: &b[i]})
			rest[k] = rest[k][1:]
		}
	}
	return out
}

// settings are those that a and b share, and of the others name and the value of each.
func settings(a, b *Report) (same []Setting, differing [][]string) {
	value := func(s *Setting) string {
		if s == nil {
			return "-"
		}
		return s.Value
	}
	for _, p := range pair(a.Settings, b.Settings, func(s *Setting) string { return s.Name }) {
		if p.a != nil && p.b != nil && p.a.Value == p.b.Value {
			same = append(same, *p.a)
		} else {
			differing = append(differing, []string{either(p).Name, value(p.a), value(p.b)})
		}
	}
	return same, differing
}

func pairChecks(a, b *Report) []both[Check] {
	return pair(a.Checks, b.Checks, func(c *Check) string { return c.Name })
}

func pairResults(a, b *Report) []both[Result] {
	return pair(a.Results, b.Results, func(r *Result) string { return r.Name + "\x00" + r.Unit })
}

func pairLatencies(a, b *Report) []both[Latency] {
	return pair(a.Latencies, b.Latencies, func(l *Latency) string { return l.Name })
}

func pairCharts(a, b *Report) []both[Chart] {
	return pair(a.Charts, b.Charts, func(c *Chart) string { return c.Title + "\x00" + c.Unit })
}

// change is how a figure of b stands to that of a.
type change struct {
	Text    string // such as "+12.3 %", "12.5 times"
	Verdict string // "better", "worse", "same" or empty
}

// compare tells how b stands to a. What shows as +0.0 % is the same.
func compare(a, b float64, better string) change {
	c := change{Text: "same", Verdict: "same"}
	switch ratio := b / a; {
	case a == b:
		return c
	case a <= 0 || ratio < 0 || math.IsNaN(ratio) || math.IsInf(ratio, 0):
		c.Text = figure(b - a)
		if b > a {
			c.Text = "+" + c.Text
		}
	case ratio >= 3:
		c.Text = figure(round(ratio, 3)) + " times"
	case math.Abs(ratio-1) < 0.0005:
		return c
	default:
		c.Text = strconv.FormatFloat(100*(ratio-1), 'f', 1, 64) + " %"
		if ratio > 1 {
			c.Text = "+" + c.Text
		}
	}
	switch {
	case better == "":
		c.Verdict = ""
	case (better == "lower") == (b < a):
		c.Verdict = "better"
	default:
		c.Verdict = "worse"
	}
	return c
}

// either is the one that is there, that of a if both are.
func either[T any](p both[T]) *T {
	if p.a != nil {
		return p.a
	}
	return p.b
}

// row is one line of a table that compares latencies: its cells are the value of a,
// that of b, the change and the verdict.
type row struct {
	name  string
	cells []string
}

// comparison are those cells. What only one has is a dash.
func comparison(a, b *float64, better string) []string {
	cells := []string{"-", "-", "", ""}
	if a != nil {
		cells[0], cells[2] = figure(*a), "only in A"
	}
	if b != nil {
		cells[1], cells[2] = figure(*b), "only in B"
	}
	if a != nil && b != nil {
		c := compare(*a, *b, better)
		cells[2], cells[3] = c.Text, c.Verdict
	}
	if cells[2] == cells[3] { // "same"
		cells[3] = ""
	}
	return cells
}

// resultRow compares one figure.
func resultRow(p both[Result]) row {
	value := func(r *Result) *float64 {
		if r == nil {
			return nil
		}
		return &r.Value
	}
	return row{either(p).Name, comparison(value(p.a), value(p.b), either(p).Better)}
}

// latencyRows compares a distribution: the percentiles that are shown, the largest, the
// mean and the count, as far as one of the two has them.
func latencyRows(p both[Latency]) []row {
	of := func(l *Latency, get func(*Latency) (float64, bool)) *float64 {
		if l == nil || l.Count == 0 {
			return nil
		}
		if v, ok := get(l); ok {
			return &v
		}
		return nil
	}
	var rows []row
	add := func(name, better string, get func(*Latency) (float64, bool)) {
		if a, b := of(p.a, get), of(p.b, get); a != nil || b != nil {
			rows = append(rows, row{name, comparison(a, b, better)})
		}
	}
	for i, name := range names() {
		add(name, "lower", func(l *Latency) (float64, bool) { return l.within(shown[i]) })
	}
	add("max", "lower", func(l *Latency) (float64, bool) { return l.Max, true })
	add("mean", "lower", func(l *Latency) (float64, bool) { return l.Mean, true })
	add("count", "", func(l *Latency) (float64, bool) { return float64(l.Count), true })
	return rows
}

package report

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"
)

// Growth writes, as a Markdown table, how the figures of several runs of a scenario grow with
// one of their settings, such as "sessions": the exponent x of n^x that fits them best (least
// squares of the logarithms), and what that means for the cost as a whole, which of a figure a
// session, say, is that of all sessions. Figures that not all runs have, or of which one is not
// above 0, are left out. The error tells of runs that cannot be compared so.
func Growth(w io.Writer, by string, runs []*Report) error {
	if len(runs) < 2 {
		return errors.New("growth takes two reports or more")
	}
	sizes := map[*Report]float64{}
	for _, r := range runs {
		if r.Scenario != runs[0].Scenario {
			return fmt.Errorf("the reports are of %s and of %s, which cannot be compared", runs[0].Scenario, r.Scenario)
		}
		n, err := r.number(by)
		if err != nil {
			return err
		}
		sizes[r] = n
	}
	runs = slices.SortedStableFunc(slices.Values(runs), func(a, b *Report) int { return cmp.Compare(sizes[a], sizes[b]) })
	if sizes[runs[0]] == sizes[runs[len(runs)-1]] {
		return fmt.Errorf("the setting %q is the same in all reports", by)
	}
	xs := make([]float64, len(runs))
	for i, r := range runs {
		xs[i] = sizes[r]
	}
	var b strings.Builder
	fmt.Fprintf(&b, "| %s, by %s |", runs[0].Scenario, by)
	for _, x := range xs {
		fmt.Fprintf(&b, " %s |", figure(x))
	}
	b.WriteString(" grows as | as a whole |\n|---|" + strings.Repeat("--:|", len(runs)) + "--:|---|\n")
	for _, result := range runs[0].Results {
		values := make([]float64, 0, len(runs))
		wholes := make([]float64, 0, len(runs))
		for _, r := range runs {
			v := r.positive(result.Name, result.Unit)
			if v == 0 {
				break
			}
			values = append(values, v)
			if n := r.units(result.Name); n > 0 {
				wholes = append(wholes, v*n)
			}
		}
		if len(values) < len(runs) {
			continue
		}
		fmt.Fprintf(&b, "| %s |", strings.TrimSuffix(result.Name+", "+result.Unit, ", "))
		for _, v := range values {
			fmt.Fprintf(&b, " %s |", figure(v))
		}
		whole := "-"
		if len(wholes) == len(runs) {
			whole = growth(exponent(xs, wholes))
		}
		fmt.Fprintf(&b, " n^%.2f | %s |\n", exponent(xs, values), whole)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// number is a setting that is a number above 0, perhaps of what there is of a second.
func (r *Report) number(setting string) (float64, error) {
	i := slices.IndexFunc(r.Settings, func(s Setting) bool { return s.Name == setting })
	if i < 0 {
		return 0, fmt.Errorf("a report of %s has no setting %q", r.Scenario, setting)
	}
	n, err := strconv.ParseFloat(strings.TrimSuffix(r.Settings[i].Value, "/s"), 64)
	if err != nil || !(n > 0) || !finite(n) {
		return 0, fmt.Errorf("the setting %q of a report of %s is %q, which is no number above 0", setting, r.Scenario, r.Settings[i].Value)
	}
	return n, nil
}

// positive is a figure, 0 if there is none above that.
func (r *Report) positive(name, unit string) float64 {
	i := slices.IndexFunc(r.Results, func(other Result) bool { return other.Name == name && other.Unit == unit })
	if i < 0 {
		return 0
	}
	return max(r.Results[i].Value, 0)
}

// units is by what a figure is to be multiplied to be that of all the run: 1 of one that is, 0 if that is not known.
func (r *Report) units(figure string) float64 {
	switch {
	case strings.Contains(figure, " an event"):
		return r.positive("events a second", "/s")
	case strings.Contains(figure, " a session"), strings.Contains(figure, " a connection"):
		n, _ := r.number("sessions")
		return n
	case strings.Contains(figure, " a node"):
		n, _ := r.number("nodes")
		return n
	default:
		return 1
	}
}

// exponent is the slope of the line that fits the logarithms best.
func exponent(xs, ys []float64) float64 {
	var sx, sy, sxx, sxy float64
	n := float64(len(xs))
	for i := range xs {
		x, y := math.Log(xs[i]), math.Log(ys[i])
		sx, sy, sxx, sxy = sx+x, sy+y, sxx+x*x, sxy+x*y
	}
	return (n*sxy - sx*sy) / (n*sxx - sx*sx)
}

// growth is an exponent in words. A tenth is what measurements of CPU time repeat within.
func growth(x float64) string {
	switch {
	case x < -0.1:
		return "falls"
	case x <= 0.1:
		return "stays"
	case x < 0.9:
		return "slower than linearly"
	case x <= 1.1:
		return "linearly"
	default:
		return "faster than linearly"
	}
}

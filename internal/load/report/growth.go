package report

import (
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"
)

// unitCost marks figures that are divided by what a run was of: if they stay, what all of it costs grows linearly.
var unitCost = []string{" a session", " an event", " a connection"}

// Growth writes, as a Markdown table, how the figures of several runs grow with one of
// their settings, such as "sessions": the exponent x of n^x that fits them best (least squares
// of the logarithms), and what that means for the cost as a whole. Figures that not all runs
// have are left out. The error tells of runs that cannot be compared so.
func Growth(w io.Writer, by string, runs []*Report) error {
	if len(runs) < 2 {
		return fmt.Errorf("growth takes two reports or more")
	}
	sizes := map[*Report]float64{}
	for _, r := range runs {
		i := slices.IndexFunc(r.Settings, func(s Setting) bool { return s.Name == by })
		if i < 0 {
			return fmt.Errorf("a report of %s has no setting %q", r.Scenario, by)
		}
		n, err := strconv.ParseFloat(r.Settings[i].Value, 64)
		if err != nil || n <= 0 {
			return fmt.Errorf("the setting %q of a report of %s is %q, which is no number above 0", by, r.Scenario, r.Settings[i].Value)
		}
		sizes[r] = n
	}
	runs = slices.SortedFunc(slices.Values(runs), func(a, b *Report) int { return int(math.Copysign(1, sizes[a]-sizes[b])) })
	if sizes[runs[0]] == sizes[runs[len(runs)-1]] {
		return fmt.Errorf("the setting %q is the same in all reports", by)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "| %s, by %s |", runs[0].Scenario, by)
	for _, r := range runs {
		fmt.Fprintf(&b, " %s |", figure(sizes[r]))
	}
	b.WriteString(" grows as | as a whole |\n|---|" + strings.Repeat("--:|", len(runs)) + "--:|---|\n")
	for _, result := range runs[0].Results {
		values := make([]float64, 0, len(runs))
		for _, r := range runs {
			i := slices.IndexFunc(r.Results, func(other Result) bool { return other.Name == result.Name && other.Unit == result.Unit })
			if i >= 0 && r.Results[i].Value > 0 {
				values = append(values, r.Results[i].Value)
			}
		}
		if len(values) < len(runs) {
			continue
		}
		xs := make([]float64, len(runs))
		for i, r := range runs {
			xs[i] = sizes[r]
		}
		x := exponent(xs, values)
		whole := x
		if slices.ContainsFunc(unitCost, func(suffix string) bool { return strings.Contains(result.Name, suffix) }) {
			whole++
		}
		fmt.Fprintf(&b, "| %s |", strings.TrimSpace(result.Name+", "+result.Unit))
		for _, v := range values {
			fmt.Fprintf(&b, " %s |", figure(v))
		}
		fmt.Fprintf(&b, " n^%.2f | %s |\n", x, growth(whole))
	}
	_, err := io.WriteString(w, b.String())
	return err
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

package report

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"sort"
	"strconv"
	"strings"
)

// The bounds of what is drawn. They keep the arithmetic of scales finite and a page small,
// whatever a report says.
const (
	maxSeconds = 1e9
	maxValue   = 1e15
	// spans is in how many equal parts the width of a plot is divided; of the points in
	// each, the lowest and the highest are drawn, so no peak is lost.
	spans = 300
	// tableRows is how many moments the table of a plot has.
	tableRows = 20
)

// The kinds of horizontal axes: seconds, and percentiles by how many nines they have, so
// that 90, 99 and 99.9 are equally far apart.
const (
	overTime    = "time"
	overPercent = "percent"
)

// plot is a picture ready for the page. All positions are in percent of its width, from
// the left, or height, from the top.
type plot struct {
	Kind   string
	Run    string // which of two reports, empty if there is one
	Title  string
	Unit   string
	Log    bool
	Label  string // says in words what is seen
	X, Y   []tick
	Curves []curve // with paths, each of which is in thousandths of width and height
	Data   data
	Head   []string   // of the table
	Table  [][]string // the values in figures
}

type tick struct {
	At   float64
	Text string
	Wide bool // the text has room on a wide screen only
}

// curve is one line of a plot.
type curve struct {
	Name   string
	Color  int
	Dashed bool
	Path   string
	Dots   string // points without neighbours, which a line would not show
	points [][2]float64
	gap    float64 // points further apart are not joined: there was nothing between them
}

// data is what the page's script needs to show values under the pointer.
type data struct {
	Kind  string     `json:"kind"`
	Unit  string     `json:"unit"`
	X0    float64    `json:"x0"`
	X1    float64    `json:"x1"`
	Lines []dataLine `json:"lines"`
}

type dataLine struct {
	Name   string       `json:"name"`
	Color  int          `json:"color"`
	Gap    float64      `json:"gap"`
	Points [][2]float64 `json:"points"`
}

// colors is how many there are in the style sheet. Lines beyond are dashed.
const colors = 8

func newCurve(name string, index int, points [][2]float64) curve {
	return curve{Name: name, Color: index % colors, Dashed: index/colors%2 == 1, points: tidy(points)}
}

// tidy is the points that can be drawn, ascending.
func tidy(points [][2]float64) [][2]float64 {
	out := make([][2]float64, 0, len(points))
	for _, p := range points {
		if !finite(p[0]) || !finite(p[1]) {
			continue
		}
		out = append(out, [2]float64{clamp(p[0], maxSeconds), clamp(p[1], maxValue)})
	}
	slices.SortStableFunc(out, func(a, b [2]float64) int { return cmp.Compare(a[0], b[0]) })
	return out
}

func finite(v float64) bool { return !math.IsNaN(v) && !math.IsInf(v, 0) }

func clamp(v, limit float64) float64 { return max(-limit, min(v, limit)) }

// thin leaves the lowest and the highest point in each of the spans between x0 and x1,
// and the first and the last.
func thin(points [][2]float64, x0, x1 float64) [][2]float64 {
	if len(points) <= 2*spans {
		return points
	}
	of := func(p [2]float64) int { return int(spans * (p[0] - x0) / (x1 - x0)) }
	out := points[:1:1]
	for begin := 1; begin < len(points)-1; {
		low, high, end := begin, begin, begin
		for ; end < len(points)-1 && of(points[end]) == of(points[begin]); end++ {
			if points[end][1] < points[low][1] {
				low = end
			}
			if points[end][1] > points[high][1] {
				high = end
			}
		}
		out = append(out, points[min(low, high)])
		if low != high {
			out = append(out, points[max(low, high)])
		}
		begin = end
	}
	return append(out, points[len(points)-1])
}

// gapOf is how far apart two points may be and still be joined: five times what is usual.
func gapOf(points [][2]float64, width float64) float64 {
	if len(points) < 3 {
		return math.Inf(1)
	}
	steps := make([]float64, len(points)-1)
	for i := range steps {
		steps[i] = points[i+1][0] - points[i][0]
	}
	slices.Sort(steps)
	return max(5*steps[len(steps)/2], 3*width/spans)
}

// axes are what plots that are to be compared have in common.
type axes struct {
	kind, unit string
	x0, x1     float64
	y0, y1     float64
	log        bool
	x, y       []tick
}

// newAxes makes axes that all curves fit in. Values begin at 0, except durations that
// are far apart: they get a logarithmic axis.
func newAxes(kind, unit string, x0, x1 float64, all ...curve) axes {
	a := axes{kind: kind, unit: unit, x0: x0, x1: x1}
	low, high, positive := 0.0, 0.0, math.Inf(1)
	for _, c := range all {
		for _, p := range c.points {
			low, high = min(low, p[1]), max(high, p[1])
			if p[1] > 1e-9 {
				positive = min(positive, p[1])
			}
		}
	}
	if duration := slices.Contains([]string{"us", "ms", "s"}, unit); duration && low == 0 && high > 50*positive {
		a.log = true
		a.y0, a.y1, a.y = logTicks(max(positive, high/1e4), high)
	} else {
		a.y0, a.y1, a.y = linearTicks(low, high)
	}
	if kind == overPercent {
		a.x = nineTicks(x1)
	} else {
		a.x = timeTicks(x0, x1)
	}
	for i := range a.x {
		a.x[i].At = 100 * (a.x[i].At - x0) / (x1 - x0)
	}
	for i := range a.y {
		a.y[i].At = 100 * (1 - a.height(a.y[i].At))
	}
	return a
}

// height is where v is, from 0 to 1.
func (a *axes) height(v float64) float64 {
	if !a.log {
		return (v - a.y0) / (a.y1 - a.y0)
	}
	return math.Log(max(v, a.y0)/a.y0) / math.Log(a.y1/a.y0)
}

// draw makes a plot of the curves that have points.
func (a *axes) draw(title, run string, curves []curve) *plot {
	p := &plot{Kind: a.kind, Run: run, Title: title, Unit: unit(a.unit), Log: a.log, X: a.x, Y: a.y}
	p.Data = data{Kind: a.kind, Unit: unit(a.unit), X0: a.x0, X1: a.x1}
	for _, c := range curves {
		if len(c.points) == 0 {
			continue
		}
		c.gap = math.MaxFloat64
		if a.kind == overTime {
			c.gap = min(gapOf(c.points, a.x1-a.x0), math.MaxFloat64)
		}
		few := thin(c.points, a.x0, a.x1)
		c.Path, c.Dots = a.paths(few, c.gap)
		p.Curves = append(p.Curves, c)
		line := dataLine{Name: c.Name, Color: c.Color, Gap: c.gap, Points: make([][2]float64, len(few))}
		for i, q := range few {
			line.Points[i] = [2]float64{math.Round(q[0]*1e6) / 1e6, round(q[1], 5)}
		}
		p.Data.Lines = append(p.Data.Lines, line)
	}
	if len(p.Curves) == 0 {
		return nil
	}
	p.tabulate(a)
	return p
}

// paths are what SVG draws, in thousandths.
func (a *axes) paths(points [][2]float64, gap float64) (line, dots string) {
	number := func(v float64) string {
		return strconv.FormatFloat(math.Round(v*1e4)/10, 'f', -1, 64)
	}
	var l, d strings.Builder
	for i, p := range points {
		at := number((p[0]-a.x0)/(a.x1-a.x0)) + " " + number(1-a.height(p[1]))
		begins := i == 0 || p[0]-points[i-1][0] > gap
		ends := i == len(points)-1 || points[i+1][0]-p[0] > gap
		switch {
		case begins && ends:
			d.WriteString("M" + at + "h0")
		case begins:
			l.WriteString("M" + at)
		default:
			l.WriteString("L" + at)
		}
	}
	return l.String(), d.String()
}

// tabulate adds the table, and the label from what it says.
func (p *plot) tabulate(a *axes) {
	var lows, means, highs []string
	var words []string
	p.Head = []string{"time"}
	for _, c := range p.Curves {
		low, high, sum := c.points[0][1], c.points[0][1], 0.0
		for _, q := range c.points {
			low, high, sum = min(low, q[1]), max(high, q[1]), sum+q[1]
		}
		p.Head = append(p.Head, c.Name)
		lows, highs = append(lows, figure(low)), append(highs, figure(high))
		means = append(means, figure(sum/float64(len(c.points))))
		words = append(words, fmt.Sprintf("%s from %s to %s", c.Name, figure(low), measure(high, a.unit)))
	}
	p.Label = p.Title + ": " + strings.Join(words, "; ")
	if a.kind == overPercent {
		return // the table of latencies says it
	}
	p.Table = [][]string{append([]string{"lowest"}, lows...), append([]string{"mean"}, means...), append([]string{"highest"}, highs...)}
	step := timeStep((a.x1 - a.x0) / tableRows)
	for i := math.Ceil(a.x0 / step); i*step <= a.x1; i++ {
		p.Table = append(p.Table, p.values(span(i*step), i*step))
	}
}

// values is a row of the table: the last value that each curve had at x.
func (p *plot) values(name string, x float64) []string {
	row := []string{name}
	for _, c := range p.Curves {
		after := sort.Search(len(c.points), func(i int) bool { return c.points[i][0] > x })
		if after == 0 || x-c.points[after-1][0] > c.gap {
			row = append(row, "-")
			continue
		}
		row = append(row, figure(c.points[after-1][1]))
	}
	return row
}

// step is the least of 1, 2 and 5 times a power of ten that is at least v.
func step(v float64) float64 {
	unit := math.Pow(10, math.Floor(math.Log10(v)))
	for _, m := range []float64{1, 2, 5} {
		if m*unit >= v*(1-1e-9) {
			return m * unit
		}
	}
	return 10 * unit
}

// timeStep is like step, but of seconds, minutes and hours.
func timeStep(v float64) float64 {
	if v <= 5 {
		return step(max(v, 1e-3))
	}
	for _, s := range []float64{10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600} {
		if s >= v {
			return s
		}
	}
	return 3600 * step(v/3600)
}

func linearTicks(low, high float64) (y0, y1 float64, ticks []tick) {
	if high-low < 1e-12 {
		high = low + 1
	}
	s := step((high - low) / 5)
	first, last := math.Floor(low/s+1e-9), math.Ceil(high/s-1e-9)
	for i := first; i <= last; i++ {
		ticks = append(ticks, tick{At: i * s, Text: short(i * s)})
	}
	return first * s, last * s, ticks
}

// logTicks has 1, 2 and 5 of each decade, or 1 only if there are many. Both are above 0.
func logTicks(low, high float64) (y0, y1 float64, ticks []tick) {
	y0, y1 = step(low/2.5), step(high) // y0 is the step below low, or the one below that
	if next := step(y0 * 1.5); next <= low {
		y0 = next
	}
	many := y1/y0 > 1e3
	for v := y0; v <= y1*(1+1e-9); v = step(v * 1.5) {
		if lead := v / math.Pow(10, math.Floor(math.Log10(v)+1e-9)); !many || lead < 1.5 {
			ticks = append(ticks, tick{At: v, Text: short(v)})
		}
	}
	return y0, y1, ticks
}

func timeTicks(x0, x1 float64) []tick {
	s := timeStep((x1 - x0) / 5)
	var ticks []tick
	for i := math.Ceil(x0/s - 1e-9); i*s <= x1*(1+1e-9); i++ {
		ticks = append(ticks, tick{At: i * s, Text: span(i * s)})
	}
	return ticks
}

// nines is where a percentile is on its axis: 90 at 1, 99 at 2, 99.9 at 3.
func nines(percent float64) float64 {
	return math.Log10(100 / (100 - percent))
}

// pastNines is how far behind the last percentile the largest value is drawn, which has
// no place on an axis of nines.
const pastNines = 0.6

func nineTicks(x1 float64) []tick {
	many := x1 > 5
	ticks := []tick{{At: 0, Text: "0"}, {At: nines(50), Text: "50", Wide: many}}
	for i := 1; float64(i) <= x1-pastNines+1e-9; i++ {
		ticks = append(ticks, tick{
			At:   float64(i),
			Text: strconv.FormatFloat(100-100*math.Pow10(-i), 'f', max(i-2, 0), 64),
			Wide: many && (i%2 == 0 || float64(i) > x1-1),
		})
	}
	return append(ticks, tick{At: x1, Text: "max"})
}

// short is a figure for the space beside an axis.
func short(v float64) string {
	for _, u := range []struct {
		of   float64
		name string
	}{{1e12, "T"}, {1e9, "G"}, {1e6, "M"}} {
		if math.Abs(v) >= u.of {
			return figure(v/u.of) + u.name
		}
	}
	return figure(round(v, 6))
}

// timeRange is the horizontal axis that all charts of the reports share.
func timeRange(reports ...*Report) (x0, x1 float64) {
	for _, r := range reports {
		if finite(r.Seconds) {
			x1 = max(x1, min(r.Seconds, maxSeconds))
		}
		for _, c := range r.Charts {
			for _, l := range c.Lines {
				for _, p := range l.Points {
					if finite(p[0]) {
						x0, x1 = min(x0, clamp(p[0], maxSeconds)), max(x1, clamp(p[0], maxSeconds))
					}
				}
			}
		}
	}
	if x1-x0 < 1e-3 {
		x1 = x0 + 1
	}
	return x0, x1
}

// chartPlots draws the same chart of one or two reports with the same axes and the same
// colours. A chart that is nil or has no points has no plot.
func chartPlots(x0, x1 float64, runs []string, charts ...*Chart) []*plot {
	index := map[string]int{}
	curves := make([][]curve, len(charts))
	var all []curve
	var about *Chart
	for i, c := range charts {
		if c == nil {
			continue
		}
		about = c
		for _, l := range c.Lines {
			if _, known := index[l.Name]; !known {
				index[l.Name] = len(index)
			}
			curves[i] = append(curves[i], newCurve(l.Name, index[l.Name], l.Points))
		}
		all = append(all, curves[i]...)
	}
	a := newAxes(overTime, about.Unit, x0, x1, all...)
	plots := make([]*plot, len(charts))
	for i := range charts {
		plots[i] = a.draw(about.Title, runs[i], curves[i])
	}
	return plots
}

// latencyPlot draws distributions over percentiles, nil if there is nothing to draw.
func latencyPlot(title string, names []string, latencies []*Latency) *plot {
	last := 1.0 // the highest percentile below 100
	for _, l := range latencies {
		for _, p := range l.Percentiles {
			if p.Percent > 0 && p.Percent < 100 {
				last = max(last, nines(p.Percent))
			}
		}
	}
	x1 := last + pastNines
	curves := make([]curve, len(latencies))
	for i, l := range latencies {
		points := make([][2]float64, len(l.Percentiles))
		for j, p := range l.Percentiles {
			x := x1
			if p.Percent < 100 {
				x = nines(max(p.Percent, 0))
			}
			points[j] = [2]float64{x, p.MS}
		}
		curves[i] = newCurve(names[i], i, points)
	}
	a := newAxes(overPercent, "ms", 0, x1, curves...)
	return a.draw(title, "", curves)
}

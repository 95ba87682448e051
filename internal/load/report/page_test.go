package report_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/rollcall-presence/rollcall/internal/load/report"
)

var out = flag.String("out", "", "folder that gets the sample pages, to be looked at")

// TestSamples writes the sample pages to -out.
func TestSamples(t *testing.T) {
	a, b := storm(1), other()
	for name, write := range map[string]func(*bytes.Buffer) error{
		"storm.html":   func(w *bytes.Buffer) error { return report.HTML(w, a) },
		"storm.txt":    func(w *bytes.Buffer) error { return a.Text(w) },
		"storm.json":   func(w *bytes.Buffer) error { return a.Write(w) },
		"odd.html":     func(w *bytes.Buffer) error { return report.HTML(w, odd()) },
		"empty.html":   func(w *bytes.Buffer) error { return report.HTML(w, &report.Report{}) },
		"compare.html": func(w *bytes.Buffer) error { return report.CompareHTML(w, a, b) },
		"compare.txt":  func(w *bytes.Buffer) error { return report.CompareText(w, a, b) },
		"strange.html": func(w *bytes.Buffer) error { return report.CompareHTML(w, odd(), a) },
	} {
		var w bytes.Buffer
		if err := write(&w); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if *out != "" {
			if err := os.WriteFile(filepath.Join(*out, name), w.Bytes(), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// evil is what must stay text wherever it stands.
const evil = `</script><script>alert(1)</script><img src=x onerror="alert(2)"> "' --> ]]> {{.}} \u003c javascript:alert(3) http://evil.example/`

// odd is a report whose every string is evil, with charts of odd shapes.
func odd() *report.Report {
	line := func(points ...[2]float64) report.Line { return report.Line{Name: evil, Points: points} }
	many := make([]report.Line, 12)
	for i := range many {
		many[i] = report.Line{Name: fmt.Sprintf("node %d", i), Points: [][2]float64{{0, float64(i)}, {9, float64(2 * i)}, {11, 3}}}
	}
	return &report.Report{
		Scenario:  evil,
		Seconds:   12,
		Settings:  []report.Setting{{evil, evil}},
		Checks:    []report.Check{{evil, evil, evil, false}, {evil, evil, evil, true}},
		Results:   []report.Result{{evil, 1, evil, evil}},
		Latencies: []report.Latency{{Name: evil, Count: 1, Percentiles: []report.Percentile{{100, 4}}}, {Name: "none"}},
		Charts: []report.Chart{
			{"one point", "ms", []report.Line{line([2]float64{3, 7})}},
			{"constant", "%", []report.Line{line([2]float64{0, 5}, [2]float64{6, 5}, [2]float64{12, 5})}},
			{"constant zero", evil, []report.Line{line([2]float64{0, 0}, [2]float64{12, 0})}},
			{"no points", "", []report.Line{line(), line()}},
			{"no lines", "", nil},
			{"below zero, not in order, not finite", "", []report.Line{line([2]float64{9, -3}, [2]float64{2, 1}, [2]float64{4, math.NaN()}, [2]float64{5, math.Inf(1)})}},
			{"a gap", "s", []report.Line{line([2]float64{1, .001}, [2]float64{1.5, 1}, [2]float64{2, .2}, [2]float64{9, .4}, [2]float64{11.5, .4}, [2]float64{12, .5})}},
			{"twelve lines", "MiB", many},
		},
		Notes: []string{evil},
	}
}

func page(t *testing.T, reports ...*report.Report) string {
	t.Helper()
	var b strings.Builder
	var err error
	if len(reports) == 2 {
		err = report.CompareHTML(&b, reports[0], reports[1])
	} else {
		err = report.HTML(&b, reports[0])
	}
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// drawn is what the page's script gets to know of a plot.
type drawn struct {
	Kind   string
	X0, X1 float64
	Lines  []struct {
		Name   string
		Color  int
		Gap    float64
		Points [][2]float64
	}
}

var dataBlock = regexp.MustCompile(`(?s)<script type="application/json">(.*?)</script>`)

func plots(t *testing.T, page string) []drawn {
	t.Helper()
	var all []drawn
	for _, m := range dataBlock.FindAllStringSubmatch(page, -1) {
		var d drawn
		if err := json.Unmarshal([]byte(m[1]), &d); err != nil {
			t.Fatalf("data of a plot: %v in %.300s", err, m[1])
		}
		all = append(all, d)
	}
	return all
}

func TestPageStandsAlone(t *testing.T) {
	for name, p := range map[string]string{
		"one":   page(t, storm(1)),
		"odd":   page(t, odd()),
		"two":   page(t, storm(1), other()),
		"empty": page(t, new(report.Report)),
	} {
		policy := strings.Index(p, `<meta http-equiv="Content-Security-Policy" content="default-src 'none'; `)
		if policy < 0 || policy > strings.Index(p, "<style>") {
			t.Errorf("%s: no policy before the style sheet", name)
		}
		tags := regexp.MustCompile(`<[a-zA-Z][^<>]*>`).FindAllString(p, -1)
		for _, tag := range tags {
			if regexp.MustCompile(`^<(link|img|iframe|object|embed|base|form|image|use|a)\b`).MatchString(tag) {
				t.Errorf("%s: has the element %.200s", name, tag)
			}
			bare := regexp.MustCompile(`"[^"]*"`).ReplaceAllString(tag, `""`)
			if regexp.MustCompile(`(?i)\s(src|href|xlink:href|action|style|srcset|on[a-z]+)=`).MatchString(bare) {
				t.Errorf("%s: has the attribute %.200s", name, tag)
			}
		}
		style := p[strings.Index(p, "<style>"):strings.Index(p, "</style>")]
		if strings.Contains(style, "url(") || strings.Contains(style, "@import") {
			t.Errorf("%s: the style sheet loads something", name)
		}
	}
}

func TestPageKeepsTextAsText(t *testing.T) {
	for name, p := range map[string]string{"one": page(t, odd()), "two": page(t, odd(), storm(1)), "two, the other way": page(t, storm(1), odd())} {
		for _, bad := range []string{"<img", "<script>alert", "</script><script>alert"} {
			if strings.Contains(p, bad) {
				t.Errorf("%s: has %q", name, bad)
			}
		}
		if scripts, blocks := strings.Count(p, "<script"), len(dataBlock.FindAllString(p, -1)); scripts != blocks+1 {
			t.Errorf("%s: has %d scripts, of which %d are data; want one that is none", name, scripts, blocks)
		}
		found := false
		for _, d := range plots(t, p) {
			for _, l := range d.Lines {
				found = found || l.Name == evil
			}
		}
		if !found {
			t.Errorf("%s: the data of no plot has the name %q", name, evil)
		}
		if m := broken.FindString(p); m != "" {
			t.Errorf("%s: draws %.200s", name, m)
		}
	}
}

func TestPageLeavesOutWhatIsEmpty(t *testing.T) {
	p := page(t, new(report.Report))
	for _, bad := range []string{"<h2", "<table", "<figure", "<dl", "<ul"} {
		if strings.Contains(p, bad) {
			t.Errorf("the page of an empty report has %s", bad)
		}
	}
	p = page(t, odd())
	for title, want := range map[string]bool{"one point": true, "constant": true, "constant zero": true, "no points": false, "no lines": false} {
		if got := strings.Contains(p, "<h3>"+title); got != want {
			t.Errorf("the page has a chart %q: %v; want %v", title, got, want)
		}
	}
}

// TestPlots looks at the paths of charts of odd shapes, in thousandths of the plot.
func TestPlots(t *testing.T) {
	for name, c := range map[string]struct {
		points [][2]float64
		want   string
	}{
		"one point is a dot":          {[][2]float64{{5, 10}}, "M500 0h0"},
		"zero is at the bottom":       {[][2]float64{{0, 0}, {10, 0}}, "M0 1000L1000 1000"},
		"a constant is above zero":    {[][2]float64{{0, 8}, {10, 8}}, "M0 0L1000 0"},
		"what is infinite":            {[][2]float64{{0, 0}, {3, math.Inf(1)}, {math.Inf(-1), 7}, {10, 10}}, "M0 1000L1000 0"},
		"values below zero":           {[][2]float64{{0, -10}, {10, 10}}, "M0 1000L1000 0"},
		"what is out of order":        {[][2]float64{{10, 10}, {0, 0}}, "M0 1000L1000 0"},
		"what is no number":           {[][2]float64{{0, 0}, {math.NaN(), 5}, {5, math.NaN()}, {10, 10}}, "M0 1000L1000 0"},
		"no line where nothing was":   {[][2]float64{{0, 0}, {1, 0}, {2, 0}, {9, 10}}, `M0 1000L100 1000L200 1000"/><path class="line dot" d="M900 0h0`},
		"a line where steps are wide": {[][2]float64{{0, 0}, {2, 0}, {10, 10}}, "M0 1000L200 1000L1000 0"},
	} {
		r := &report.Report{Seconds: 10, Charts: []report.Chart{{"c", "x", []report.Line{{"l", c.points}}}}}
		p := page(t, r)
		if !strings.Contains(p, `d="`+c.want+`"`) {
			t.Errorf("%s: %v is drawn as %q; want %q", name, c.points, regexp.MustCompile(`<g class="c0">.*?</g>`).FindString(p), c.want)
		}
	}
}

func TestPageKeepsPeaksOfLongLines(t *testing.T) {
	const n, peak, dip = 100_000, 77_777, 12_345
	points := make([][2]float64, n)
	for i := range points {
		points[i] = [2]float64{float64(i) / 10, 50 + float64(i%7)}
	}
	points[peak][1], points[dip][1] = 999, 1
	r := &report.Report{Seconds: n / 10, Charts: []report.Chart{{"long", "ms", []report.Line{{"a", points}, {"b", points}, {"c", points}}}}}
	p := page(t, r)
	if len(p) > 150_000 {
		t.Errorf("the page of three lines of %d points has %d bytes", n, len(p))
	}
	for _, l := range plots(t, p)[0].Lines {
		if len(l.Points) > 700 {
			t.Errorf("line %s has %d points", l.Name, len(l.Points))
		}
		has := map[[2]float64]bool{}
		for _, p := range l.Points {
			has[p] = true
		}
		for _, i := range []int{0, dip, peak, n - 1} {
			if !has[points[i]] {
				t.Errorf("line %s lost its point %v", l.Name, points[i])
			}
		}
	}
	if strings.Count(p, "M") > 100 {
		t.Error("a line without a gap is drawn in pieces")
	}
}

func TestComparedPage(t *testing.T) {
	a, b := storm(1), other()
	p := page(t, a, b)
	for _, want := range []string{
		"Different scenarios.",
		`<th scope="row">nodes</th><td>3</td><td>4</td>`,
		`<th scope="row">linger</th><td>-</td><td>10s</td>`,
		`<th scope="row">events missing</th><td><span class="passed">✓ ok</span> 0 <small>want 0</small></td><td><small>not checked</small></td>`,
		`<th scope="row">memory of a session <small>B</small></th><td class="n">23,412</td><td class="n">39,800</td><td class="n">&#43;70.0 %</td><td class="v failed">✗ worse</td>`,
		`<th scope="row">logins <small>/s</small></th><td class="n">-</td><td class="n">812</td><td class="n">only in B</td>`,
		`<span class="name">B</span> has nothing of this.`,
		`<span class="name">A</span> has nothing of this.`,
	} {
		if !strings.Contains(p, want) {
			t.Errorf("the page lacks %s", want)
		}
	}
	var over []drawn
	for _, d := range plots(t, p) {
		if d.Kind == "time" {
			over = append(over, d)
			if d.X0 != 0 || d.X1 != b.Seconds {
				t.Errorf("an axis is from %v to %v; want 0 to %v, the longer of both", d.X0, d.X1, b.Seconds)
			}
		}
	}
	if len(over) != 5*2+1+1 {
		t.Errorf("%d plots over time; want 5 of both, one of A, one of B", len(over))
	}
	if strings.Contains(page(t, a, storm(2)), "Different scenarios") {
		t.Error("two runs of one scenario are called different")
	}
}

// TestComparedChartsShareTheirAxes draws the same values beside ones that are larger, and
// lines in another order.
func TestComparedChartsShareTheirAxes(t *testing.T) {
	chart := func(names []string, v float64) []report.Chart {
		c := report.Chart{Title: "CPU"}
		for _, n := range names {
			c.Lines = append(c.Lines, report.Line{Name: n, Points: [][2]float64{{0, v}, {10, v}}})
		}
		return []report.Chart{c}
	}
	p := page(t,
		&report.Report{Seconds: 10, Charts: chart([]string{"node 1", "node 2"}, 50)},
		&report.Report{Seconds: 10, Charts: chart([]string{"Redis", "node 2", "node 1"}, 100)})
	var got []string
	for _, m := range regexp.MustCompile(`<g class="(c\d)"><path class="line" d="(M\d[^"]*)"`).FindAllStringSubmatch(p, -1) {
		got = append(got, m[1]+" "+m[2])
	}
	want := []string{
		"c0 M0 500L1000 500", "c1 M0 500L1000 500",
		"c2 M0 0L1000 0", "c1 M0 0L1000 0", "c0 M0 0L1000 0",
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("lines (-want +got):\n%s", d)
	}
}

func TestAxes(t *testing.T) {
	ticks := func(p, class string) string {
		var all []string
		for _, m := range regexp.MustCompile(`<text class="`+class+`( wide)?" [^>]*>([^<]*)`).FindAllStringSubmatch(p, -1) {
			all = append(all, m[2])
		}
		return strings.Join(all, " ")
	}
	for _, c := range []struct {
		seconds, low, high float64
		unit               string
		x, y               string
	}{
		{10, 0, 4, "", "0s 2s 4s 6s 8s 10s", "0 1 2 3 4"},
		{0.5, 0, 0.07, "ms", "0s 0.1s 0.2s 0.3s 0.4s 0.5s", "0 0.02 0.04 0.06 0.08"},
		{183, -3, 3, "%", "0s 1m 2m 3m", "-4 -2 0 2 4"},
		{90, 3, 900, "ms", "0s 30s 1m 1m30s", "2 5 10 20 50 100 200 500 1,000"},
		{7200, 0.4, 81_000, "us", "0s 30m 1h 1h30m 2h", "10 100 1,000 10,000 100,000"},
		{7200 * 24, 0, 2_400_000, "/s", "0s 10h 20h 30h 40h", "0 500,000 1M 1.5M 2M 2.5M"},
	} {
		p := page(t, &report.Report{Seconds: c.seconds, Charts: []report.Chart{{"c", c.unit, []report.Line{{"l", [][2]float64{{0, c.low}, {c.seconds, c.high}}}}}}})
		if x, y := ticks(p, "x"), ticks(p, "y"); x != c.x || y != c.y {
			t.Errorf("axes of %v seconds and %v to %v %s: %q and %q; want %q and %q", c.seconds, c.low, c.high, c.unit, x, y, c.x, c.y)
		}
	}
	p := page(t, &report.Report{Latencies: []report.Latency{latency("connect", 39_874, 31, .7)}})
	if got, want := ticks(p, "x"), "0 50 90 99 99.9 max"; got != want {
		t.Errorf("axis of percentiles: %q; want %q", got, want)
	}
}

package report

import (
	"bytes"
	"crypto/sha256"
	_ "embed" // for the files of the page
	"encoding/base64"
	"html/template"
	"io"
)

var (
	//go:embed page.css
	pageCSS string
	//go:embed page.js
	pageJS string
	//go:embed page.html.tmpl
	pageHTML string

	pageTemplate = template.Must(template.New("page").Parse(pageHTML))
)

// HTML writes r as one page that needs nothing else: no network, which its policy also
// forbids, and without its script only the read-out under the pointer is missing. Of
// lines with thousands of points it draws those that show all peaks.
func HTML(w io.Writer, r *Report) error { return writePage(w, r) }

// CompareHTML writes the page of a and b side by side, each pair of charts with the same
// axes. They may be of different scenarios, which is then said.
func CompareHTML(w io.Writer, a, b *Report) error { return writePage(w, a, b) }

// page is what the template gets: the same things of one report or of two.
type page struct {
	CSS       template.CSS
	JS        template.JS
	CSSHash   string // for the policy that lets nothing but these run
	JSHash    string
	Title     string
	Warning   string
	Compared  bool
	Runs      []runView
	Settings  []Setting  // of one report, or those that two share
	Differing [][]string // of two: name, and the value of each
	Checks    []checkView
	Results   []resultView
	Latencies []latencyView
	Shown     []string // the percentiles in the tables
	Charts    []chartView
}

type runView struct {
	Name     string // "A" or "B", empty if there is one
	Scenario string
	Verdict  string
	State    string // class of the style sheet
	Took     string
	When     string
	Notes    []string
}

type checkView struct {
	Name string
	Runs []*Check
}

type resultView struct {
	Name  string
	Unit  string
	Value string   // of one report
	Cells []string // of two: a, b, change, verdict
}

// latencyView is all latencies of one report, or one of two.
type latencyView struct {
	Name string
	Plot *plot
	Rows [][]string
}

type chartView struct {
	Title string
	Unit  string
	Plots []plotView
}

// plotView is a plot, or what is said in its place.
type plotView struct {
	Plot    *plot
	Run     string
	Missing bool
}

func writePage(w io.Writer, reports ...*Report) error {
	p := &page{
		CSS:      template.CSS(pageCSS), //nolint:gosec // a file of this package
		JS:       template.JS(pageJS),   //nolint:gosec // a file of this package
		CSSHash:  hash(pageCSS),
		JSHash:   hash(pageJS),
		Title:    scenario(reports[0]),
		Compared: len(reports) == 2,
		Shown:    names(),
	}
	for i, r := range reports {
		v := runView{Scenario: scenario(r), Verdict: verdict(r), State: "passed", Took: span(r.Seconds), When: when(r.Began), Notes: r.Notes}
		switch {
		case len(r.Checks) == 0:
			v.State = "unchecked"
		case !r.Passed():
			v.State = "failed"
		}
		if p.Compared {
			v.Name = string(rune('A' + i))
		}
		p.Runs = append(p.Runs, v)
	}
	if p.Compared {
		p.compare(reports[0], reports[1])
	} else {
		p.show(reports[0])
	}
	var b bytes.Buffer
	if err := pageTemplate.Execute(&b, p); err != nil {
		return err
	}
	_, err := w.Write(b.Bytes())
	return err
}

func hash(s string) string {
	sum := sha256.Sum256([]byte(s))
	return "sha256-" + base64.StdEncoding.EncodeToString(sum[:])
}

// show fills p with one report.
func (p *page) show(r *Report) {
	p.Settings = r.Settings
	for i := range r.Checks {
		p.Checks = append(p.Checks, checkView{Name: r.Checks[i].Name, Runs: []*Check{&r.Checks[i]}})
	}
	for _, x := range r.Results {
		p.Results = append(p.Results, resultView{Name: x.Name, Unit: unit(x.Unit), Value: figure(x.Value)})
	}
	if len(r.Latencies) > 0 {
		v := latencyView{Rows: latencyTable(r)}
		var titles []string
		var all []*Latency
		for i := range r.Latencies {
			titles, all = append(titles, r.Latencies[i].Name), append(all, &r.Latencies[i])
		}
		v.Plot = latencyPlot("latency by percentile", titles, all)
		p.Latencies = append(p.Latencies, v)
	}
	x0, x1 := timeRange(r)
	for i := range r.Charts {
		c := &r.Charts[i]
		if drawn := chartPlots(x0, x1, []string{""}, c)[0]; drawn != nil {
			p.Charts = append(p.Charts, chartView{Title: c.Title, Unit: unit(c.Unit), Plots: []plotView{{Plot: drawn}}})
		}
	}
}

// compare fills p with two reports.
func (p *page) compare(a, b *Report) {
	p.Title += " against " + scenario(b)
	if a.Scenario != b.Scenario {
		p.Warning = otherScenario
	}
	p.Settings, p.Differing = settings(a, b)
	for _, c := range pairChecks(a, b) {
		p.Checks = append(p.Checks, checkView{Name: either(c).Name, Runs: []*Check{c.a, c.b}})
	}
	for _, x := range pairResults(a, b) {
		r := resultRow(x)
		p.Results = append(p.Results, resultView{Name: r.name, Unit: unit(either(x).Unit), Cells: r.cells})
	}
	for _, l := range pairLatencies(a, b) {
		v := latencyView{Name: either(l).Name}
		for _, r := range latencyRows(l) {
			v.Rows = append(v.Rows, append([]string{r.name}, r.cells...))
		}
		none := &Latency{}
		of := []*Latency{none, none}
		if l.a != nil {
			of[0] = l.a
		}
		if l.b != nil {
			of[1] = l.b
		}
		v.Plot = latencyPlot(v.Name, []string{"A", "B"}, of)
		p.Latencies = append(p.Latencies, v)
	}
	x0, x1 := timeRange(a, b)
	for _, c := range pairCharts(a, b) {
		v := chartView{Title: either(c).Title, Unit: unit(either(c).Unit)}
		drawn := chartPlots(x0, x1, []string{"A", "B"}, c.a, c.b)
		if drawn[0] == nil && drawn[1] == nil {
			continue
		}
		for i, d := range drawn {
			v.Plots = append(v.Plots, plotView{Plot: d, Run: p.Runs[i].Name, Missing: d == nil})
		}
		p.Charts = append(p.Charts, v)
	}
}

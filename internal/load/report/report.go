// Package report is what a load test found: its JSON form, which is the record; a table
// for a terminal, a page for a browser, and the comparison of two.
package report

import "time"

// Version is the version of the JSON form. It grows when a reader of the older one
// would misread the newer one.
const Version = 1

// Report is one run of a scenario. The zero value is an empty report.
type Report struct {
	Version  int       `json:"version"`
	Scenario string    `json:"scenario"`
	Began    time.Time `json:"began"`
	// Seconds is how long the run took, from the first connection to the last check.
	Seconds float64 `json:"seconds"`
	// Settings are what was asked for, in the order of the command's help, and the
	// programs' versions: enough to run it again.
	Settings []Setting `json:"settings"`
	// Checks are what had to hold. The run passed if each did.
	Checks []Check `json:"checks"`
	// Results are the figures, the most telling first.
	Results []Result `json:"results"`
	// Latencies are distributions.
	Latencies []Latency `json:"latencies"`
	// Charts are what changed over time.
	Charts []Chart `json:"charts"`
	// Notes say in words what a reader must know to judge the figures.
	Notes []string `json:"notes,omitempty"`
}

// Passed reports whether all checks held.
func (r *Report) Passed() bool {
	for _, c := range r.Checks {
		if !c.OK {
			return false
		}
	}
	return true
}

// Setting is one thing that was asked for.
type Setting struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// Check is one thing that had to hold.
type Check struct {
	Name string `json:"name"` // such as "events missing"
	Want string `json:"want"` // such as "0"
	Got  string `json:"got"`
	OK   bool   `json:"ok"`
}

// Result is one figure.
type Result struct {
	// Name says what it is; with Unit it identifies the figure in comparisons.
	Name  string  `json:"name"`
	Value float64 `json:"value"`
	Unit  string  `json:"unit"` // such as "us", "B", "%", "/s"; empty for a plain number
	// Better is "lower" or "higher", empty if neither is.
	Better string `json:"better,omitempty"`
}

// Latency is a distribution of durations, corrected for coordinated omission: each is
// counted from when the act was due, not from when the load generator got round to it.
type Latency struct {
	Name  string `json:"name"` // such as "act to event"
	Count int64  `json:"count"`
	// All in ms.
	Mean float64 `json:"mean_ms"`
	Min  float64 `json:"min_ms"`
	Max  float64 `json:"max_ms"`
	// Percentiles ascend, from 0 to 100, dense enough to draw: the last ones are 99,
	// 99.9, 99.99 and so on, as far as Count means anything, then 100.
	Percentiles []Percentile `json:"percentiles"`
}

// Percentile is the duration which Percent of all do not exceed.
type Percentile struct {
	Percent float64 `json:"percent"`
	MS      float64 `json:"ms"`
}

// At is the value of the lowest percentile that is at least percent, 0 if there is none.
func (l *Latency) At(percent float64) float64 {
	for _, p := range l.Percentiles {
		if p.Percent >= percent {
			return p.MS
		}
	}
	return 0
}

// Chart is a picture over time with one or more lines.
type Chart struct {
	Title string `json:"title"` // such as "server CPU"
	Unit  string `json:"unit"`  // of the values
	Lines []Line `json:"lines"`
}

// Line is one thing over time.
type Line struct {
	Name string `json:"name"` // such as "node 1" or "p99"
	// Points are pairs of seconds since Began, ascending, and value. A time without a
	// value is left out.
	Points [][2]float64 `json:"points"`
}

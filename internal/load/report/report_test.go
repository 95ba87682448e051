package report_test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"time"

	"github.com/rollcall-presence/rollcall/internal/load/report"
)

// storm is a realistic report; slow stretches its latencies.
func storm(slow float64) *report.Report {
	rnd := rand.New(rand.NewPCG(1, uint64(slow*1000)))
	r := &report.Report{
		Version:  report.Version,
		Scenario: "storm",
		Began:    time.Date(2026, 11, 26, 17, 5, 51, 0, time.UTC),
		Seconds:  183.4,
		Settings: []report.Setting{
			{"sessions", "20000"},
			{"nodes", "3"},
			{"rate", "500/s"},
			{"for", "3m0s"},
			{"subscriptions", "10"},
			{"payload", "rollcall.v1.json"},
			{"seed", "7"},
			{"server", "rollcall 0.9.0 (go1.26.8 linux/amd64)"},
			{"redis", "7.4.2"},
		},
		Checks: []report.Check{
			{"events missing", "0", "0", true},
			{"false offline", "0", "0", true},
			{"revisions out of order", "0", "0", true},
			{"act to event p99", "at most 250 ms", fmt.Sprintf("%.0f ms", 120*slow), 120*slow <= 250},
			{"all back within", "at most 60 s", "41.2 s", true},
		},
		Results: []report.Result{
			{"events delivered", 48_212 / slow, "/s", "higher"},
			{"connections a second, at best", 2_911 / slow, "/s", "higher"},
			{"memory of a session", 23_412 * slow, "B", "lower"},
			{"CPU of an event", 18.42 * slow, "us", "lower"},
			{"sessions", 20_000, "", ""},
			{"reconnects", 19_874, "", "lower"},
			{"Redis commands of an act", 1.38, "", "lower"},
		},
		Latencies: []report.Latency{
			latency("act to event", 3_812_331, 2.1*slow, 0.9),
			latency("connect", 39_874, 31*slow, 0.7),
			latency("snapshot", 812, 4.4*slow, 0.5),
		},
		Notes: []string{
			"Server, Redis and load generator share two cores: the latencies include the generator's own delays, which were 1.2 ms at the 99th percentile.",
			"The storm ended all sessions at 1m0s.",
		},
	}
	series := func(name string, base, noise float64, peak bool) report.Line {
		l := report.Line{Name: name}
		for t := 1.0; t <= r.Seconds; t++ {
			if peak && t > 60 && t < 66 && name == "node 2" {
				continue
			}
			v := base * (1 + noise*rnd.NormFloat64()) * math.Min(1, t/20)
			if peak && t > 60 && t < 100 {
				v *= 1 + 3*math.Exp(-(t-60)/12)
			}
			l.Points = append(l.Points, [2]float64{t, math.Max(0, v)})
		}
		return l
	}
	r.Charts = []report.Chart{
		{"latency: act to event", "ms", []report.Line{series("p50", 2.1*slow, .05, true), series("p99", 21*slow, .15, true), series("max", 70*slow, .4, true)}},
		{"connections", "", []report.Line{series("open", 20_000, 0, false), series("connecting", 120, .5, true)}},
		{"events", "/s", []report.Line{series("sent", 4_800, .02, true), series("received", 48_000/slow, .02, true)}},
		{"server CPU", "% of a core", []report.Line{series("node 1", 31, .08, true), series("node 2", 29, .08, true), series("node 3", 33, .08, true), series("Redis", 12, .1, true)}},
		{"server memory", "MiB", []report.Line{series("node 1", 212, .01, false), series("node 2", 208, .01, false), series("node 3", 215, .01, false)}},
		{"Redis commands", "/s", []report.Line{series("node 1", 2_412, .05, true), series("node 2", 2_380, .05, true), series("node 3", 2_501, .05, true)}},
		{"nothing came", "/s", []report.Line{{Name: "node 1"}}},
	}
	return r
}

// latency is a log-normal distribution.
func latency(name string, count int64, median, sigma float64) report.Latency {
	at := func(percent float64) float64 {
		return math.Round(1000*median*math.Exp(sigma*math.Sqrt2*math.Erfinv(2*percent/100-1))) / 1000
	}
	l := report.Latency{Name: name, Count: count, Mean: median * math.Exp(sigma*sigma/2), Min: at(0.001), Max: at(100 - 60/float64(count))}
	add := func(percent, ms float64) {
		l.Percentiles = append(l.Percentiles, report.Percentile{Percent: percent, MS: ms})
	}
	add(0, l.Min)
	for p := 5.0; p < 90; p += 5 {
		add(p, at(p))
	}
	for rest := 10.0; rest*float64(count)/100 >= 5; rest /= 10 {
		for _, part := range []float64{1, .75, .5, .25, .15} {
			add(math.Round(1e9*(100-rest*part))/1e9, at(100-rest*part))
		}
	}
	add(100, l.Max)
	return l
}

// other is a run to be compared with storm: slower, of another scenario, and each of the
// two has some things that the other lacks.
func other() *report.Report {
	r := storm(1.7)
	r.Scenario = "churn"
	r.Seconds = 241
	r.Settings[1].Value = "4"
	r.Settings = append(r.Settings[:6:6], report.Setting{Name: "linger", Value: "10s"})
	r.Checks = append(r.Checks[1:], report.Check{Name: "kicked", Want: "0", Got: "0", OK: true})
	r.Results = append(r.Results[:5:5], report.Result{Name: "logins", Value: 812, Unit: "/s", Better: "higher"})
	r.Latencies = append(r.Latencies[:2:2], latency("REST", 4_812, 3, .6))
	r.Charts = append(r.Charts[:5:5], report.Chart{Title: "logins", Unit: "/s", Lines: r.Charts[2].Lines[:1]})
	return r
}

package load

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/rollcall-presence/rollcall/internal/load/report"
)

// sorted puts a latency's percentiles in order, each once.
func sorted(l report.Latency) report.Latency {
	slices.SortFunc(l.Percentiles, func(a, b report.Percentile) int { return cmp.Compare(a.Percent, b.Percent) })
	l.Percentiles = slices.CompactFunc(l.Percentiles, func(a, b report.Percentile) bool { return a.Percent == b.Percent })
	return l
}

func (r *run) report() *report.Report {
	out := &report.Report{
		Version: report.Version, Scenario: r.opt.Scenario, Began: r.began.UTC().Truncate(time.Second), Seconds: time.Since(r.began).Seconds(),
		Settings: r.settings(), Checks: r.checks(), Results: r.results(), Charts: r.totals.charts(len(r.opt.URLs)),
	}
	for _, name := range []string{latencyEvent, latencyBare, latencySetUp} {
		if l, ok := r.totals.latency(name); ok {
			out.Latencies = append(out.Latencies, l)
		}
	}
	out.Notes = r.notes()
	return out
}

func (r *run) settings() []report.Setting {
	o := &r.opt
	list := []report.Setting{
		{Name: "sessions", Value: strconv.Itoa(o.Sessions)},
		{Name: "watch", Value: strconv.Itoa(o.Watch)},
		{Name: "actors", Value: strconv.Itoa(o.Actors)},
		{Name: "acts", Value: fmt.Sprintf("%v/s", o.Acts)},
		{Name: "rate", Value: fmt.Sprintf("%v/s", o.Rate)},
		{Name: "for", Value: o.For.String()},
		{Name: "linger", Value: o.Linger.String()},
		{Name: "batch", Value: strconv.FormatBool(o.Batch)},
		{Name: "nodes", Value: strconv.Itoa(len(o.URLs))},
		{Name: "processes", Value: strconv.Itoa(r.clients)},
	}
	if o.Slow > 0 {
		list = append(list, report.Setting{Name: "slow", Value: fmt.Sprint(o.Slow)})
	}
	if o.Back > 0 {
		list = append(list, report.Setting{Name: "back", Value: o.Back.String()})
	}
	if len(o.Env) > 0 {
		list = append(list, report.Setting{Name: "env", Value: strings.Join(o.Env, " ")})
	}
	return list
}

func (r *run) checks() []report.Check {
	var list []report.Check
	check := func(ok bool, name, want, got string) {
		list = append(list, report.Check{Name: name, Want: want, Got: got, OK: ok})
	}
	zero := func(name string, n int64) { check(n == 0, name, "0", strconv.FormatInt(n, 10)) }
	end := r.atEnd
	if r.stopped != nil { // what else has to hold, has to at the end
		check(false, "played to the end", "yes", r.stopped.Error())
		zero("events unexpected", end.Unexpected)
		zero("revisions out of order", end.Disordered)
		return list
	}
	want := int64(r.opt.Sessions)
	if r.opt.Bare {
		want *= 2
	}
	// in the other scenarios some actors may be there
	check(end.Open >= want && end.Open <= want+int64(r.opt.Actors), "sessions open at the end", "at least "+strconv.FormatInt(want, 10), strconv.FormatInt(end.Open, 10))
	zero("events missing", r.behind)
	zero("events unexpected", end.Unexpected)
	zero("revisions out of order", end.Disordered)
	if r.opt.scenario().Silent {
		zero("events once all were connected", end.Events-r.atRamped.Events)
	}
	if len(r.opt.Admins) > 0 {
		merged, conflated := end.Merged+end.SlowMerged, conflated(&r.before, &r.acted)
		check(merged <= conflated, "events merged", fmt.Sprintf("at most the nodes' %d", conflated), strconv.FormatInt(merged, 10))
	}
	switch {
	case r.opt.Batch: // they wait for each other, and may be merged meanwhile
	case r.opt.Slow > 0:
		zero("events merged for readers that keep up", end.Merged)
	case len(r.opt.Admins) == 0:
		zero("events merged or lost (--admin tells which)", end.Merged)
	}
	lost := maps.Clone(end.Lost)
	if r.opt.Slow > 0 {
		delete(lost, "3003") // docs/protocol.md: a reader that makes no progress is closed as slow
	}
	if !r.opt.scenario().Broken {
		n := int64(0)
		for _, v := range lost {
			n += v
		}
		zero("connections lost", n)
	}
	if r.opt.Scenario == "rolling" {
		check(r.restarts == len(r.opt.URLs), "nodes restarted", strconv.Itoa(len(r.opt.URLs)), strconv.Itoa(r.restarts))
	}
	if r.opt.Scenario == "storm" {
		check(end.Opened >= 2*want, "sessions that came back", strconv.FormatInt(want, 10), strconv.FormatInt(end.Opened-want, 10))
	}
	return list
}

// conflated is how many updates the nodes say they merged between two samples.
func conflated(before, after *sample) (n int64) {
	for i, now := range after.nodes {
		was := before.nodes[i].conflated
		if now.conflated < was { // the node was restarted, and counted anew
			was = 0
		}
		n += int64(now.conflated - was)
	}
	return n
}

func (r *run) results() []report.Result {
	var list []report.Result
	add := func(name string, v float64, unit, better string) {
		if !math.IsNaN(v) && !math.IsInf(v, 0) { // nothing by nothing is no figure
			list = append(list, report.Result{Name: name, Value: v, Unit: unit, Better: better})
		}
	}
	if r.stopped != nil {
		return nil
	}
	const lower = "lower"
	sessions := float64(r.opt.Sessions)
	events := float64(r.atEnd.Events + r.atEnd.SlowEvents - r.atRamped.Events - r.atRamped.SlowEvents)
	acts := float64(r.atEnd.Acts - r.atRamped.Acts)
	told := r.before.told() && r.ramped.told() && r.acting.told() && r.acted.told()
	span := r.acted.at.Sub(r.acting.at).Seconds()
	cpu := r.acted.cpu() - r.acting.cpu()
	restarted := r.opt.Scenario == "rolling" // counters began anew

	if event, ok := r.totals.latency(latencyEvent); ok && events > 0 {
		add("act to event, p99", event.At(99), "ms", lower)
		if bare, ok := r.totals.latency(latencyBare); ok {
			add("the same of the bare loop", bare.At(99), "ms", "")
			add("ratio of the two", event.At(99)/bare.At(99), "", lower)
		}
	}
	if events > 0 {
		add("acts a second", acts/r.acts.Seconds(), "/s", "")
		add("events a second", events/r.acts.Seconds(), "/s", "")
		if told && !restarted {
			add("CPU of the nodes an event", cpu/events*1e6, "us", lower)
		}
	}
	if told && !restarted && span > 0 {
		add("CPU of the nodes, "+r.opt.Scenario, cpu/span*100, "% of a core", lower)
		of := func(s *sample) float64 { return s.sum(func(n nodeSample) float64 { return n.commands }) }
		add("commands to Redis a node, "+r.opt.Scenario, (of(&r.acted)-of(&r.acting))/span/float64(len(r.opt.URLs)), "/s", lower)
	}
	if a, b := r.acting.redis, r.acted.redis; a.ok && b.ok && span > 0 {
		add("CPU of Redis, "+r.opt.Scenario, (b.cpu-a.cpu)/span*100, "% of a core", lower)
	}
	add("connections a second", float64(r.atRamped.Opened)/r.ramp.Seconds(), "/s", "")
	if told {
		add("CPU of the nodes a connection", (r.ramped.cpu()-r.before.cpu())/sessions*1e6, "us", lower)
	}
	if a, b := r.before.redis, r.ramped.redis; a.ok && b.ok {
		add("memory of Redis a session", (b.used-a.used)/sessions, "B", lower)
		add("CPU of Redis a connection", (b.cpu-a.cpu)/sessions*1e6, "us", lower)
	}
	if r.opt.AtRest {
		of := func(s *sample) float64 { return s.sum(func(n nodeSample) float64 { return n.resident }) }
		all := func(s *sample) float64 { return s.sum(func(n nodeSample) float64 { return n.goroutines }) }
		add("memory of the nodes a session, at rest", (of(&r.rested)-of(&r.before))/sessions/1024, "KiB", lower)
		add("memory of the nodes, at rest", of(&r.rested)/(1<<20), "MiB", lower)
		add("goroutines of the nodes a session", (all(&r.rested)-all(&r.before))/sessions, "", lower)
	}
	if r.atRamped.Resident > 0 {
		add("memory of the load generator a connection", float64(r.atRamped.Resident-r.atRamped.Base)/float64(r.atRamped.Open)/1024, "KiB", lower)
	}
	if n := r.atEnd.Lenient; r.opt.Scenario == "storm" {
		add("users away for about the linger", float64(n), "", lower)
		add("until all were back", float64(r.atEnd.BackMS)/1000, "s", lower)
	}
	return list
}

func (r *run) notes() []string {
	notes := []string{"Latencies are counted from when an act was due, so that one which the load generator or the server was late for counts in full."}
	words := func(m map[string]int64) string {
		var parts []string
		for _, k := range slices.Sorted(maps.Keys(m)) {
			parts = append(parts, fmt.Sprintf("%d × %s", m[k], k))
		}
		return strings.Join(parts, ", ")
	}
	if len(r.atEnd.Lost) > 0 {
		notes = append(notes, "Connections ended by the other side: "+words(r.atEnd.Lost)+".")
	}
	if len(r.atEnd.Refused) > 0 {
		notes = append(notes, "Attempts to connect that failed, and were repeated: "+words(r.atEnd.Refused)+".")
	}
	if r.cluster != nil {
		notes = append(notes, "Nodes, Redis and clients shared this machine.")
	}
	if r.opt.Slow > 0 {
		notes = append(notes, fmt.Sprintf("Slow readers saw %d events, into which %d others were merged; the latency is that of the other readers.", r.atEnd.SlowEvents, r.atEnd.SlowMerged))
		if r.stopped == nil && r.atEnd.SlowMerged == 0 {
			notes = append(notes, "Nothing was merged for them, so they were not behind for long enough to matter: have more --acts, or --for longer.")
		}
	}
	return notes
}

package plan

import (
	"fmt"
	"io"
	"math"
	"strings"
	"text/tabwriter"
	"time"
)

// WriteTable writes plans side by side, as text for people.
func WriteTable(w io.Writer, plans ...Plan) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	var err error
	write := func(format string, args ...any) {
		if err == nil {
			_, err = fmt.Fprintf(t, format, args...)
		}
	}
	row := func(name string, cell func(p *Plan) string) {
		write("%-30s\t", name)
		for i := range plans {
			write("%s\t", cell(&plans[i]))
		}
		write("\n")
	}
	head := func(name string) { write("\n%s\n", name) }
	// nodes, redis: a cell that only a plan that can be has.
	nodes := func(cell func(p *Plan) string) func(p *Plan) string {
		return func(p *Plan) string {
			if p.Nodes == None {
				return "-"
			}
			return cell(p)
		}
	}

	row("users online", func(p *Plan) string { return count(float64(p.Demand.Online)) })
	row("users", func(p *Plan) string { return count(float64(p.Demand.Users)) })
	row("sessions", func(p *Plan) string { return count(p.Sessions) })
	row("subscriptions", func(p *Plan) string { return count(p.Subscriptions) })
	row("sessions let in a second", func(p *Plan) string { return count(p.Opens) })
	row("changes a second", func(p *Plan) string { return count(p.Changes) })
	row("updates sent a second", func(p *Plan) string { return count(p.Frames) })
	row("in a storm, let in a second", func(p *Plan) string { return count(p.StormOpens) })
	row("in a storm, changes", func(p *Plan) string { return count(p.StormChanges) })
	row("in a storm, updates", func(p *Plan) string { return count(p.StormFrames) })

	head("nodes, all together")
	row("nodes, with spare ones", func(p *Plan) string { return machines(p.Nodes) })
	row("because of", func(p *Plan) string { return because(p.By) })
	row("CPU", nodes(func(p *Plan) string { return cores(p.CPU) }))
	row("of it to receive events", nodes(func(p *Plan) string { return cores(p.ReceiveCPU) }))
	row("CPU in a storm", nodes(func(p *Plan) string { return cores(p.StormCPU) }))
	row("memory", nodes(func(p *Plan) string { return size(p.Memory) }))
	row("and the kernel's, for sockets", nodes(func(p *Plan) string { return size(p.KernelMemory) }))
	row("sent to clients in a storm", nodes(func(p *Plan) string { return rate(p.Out) }))
	limits(row, "nodes", func(p *Plan) []Limit { return p.Limits }, plans)

	head("Redis, all primaries together")
	row("primaries", func(p *Plan) string { return machines(p.Redis.Shards) })
	row("because of", nodes(func(p *Plan) string { return because(p.Redis.By) }))
	row("memory", nodes(func(p *Plan) string { return size(p.Redis.Memory) }))
	row("CPU", nodes(func(p *Plan) string { return cores(p.Redis.CPU) }))
	row("for sessions that come and go", nodes(func(p *Plan) string { return cores(p.Redis.Transitions) }))
	row("for reads of subscribers", nodes(func(p *Plan) string { return cores(p.Redis.Reads) }))
	row("for renewals", nodes(func(p *Plan) string { return cores(p.Redis.Renewals) }))
	row("for heartbeats", nodes(func(p *Plan) string { return cores(p.Redis.Heartbeats) }))
	row("to deliver events to nodes", nodes(func(p *Plan) string { return cores(p.Redis.PubSub) }))
	row("CPU in a storm", nodes(func(p *Plan) string { return cores(p.Redis.StormCPU) }))
	row("sent to nodes in a storm", nodes(func(p *Plan) string { return rate(p.Redis.Out) }))
	row("connections to each, at most", nodes(func(p *Plan) string { return count(float64(p.Redis.Clients)) }))
	row("a round of the self-check", nodes(func(p *Plan) string { return span(p.Redis.Round) }))
	limits(row, "primaries", func(p *Plan) []Limit { return p.Redis.Limits }, plans)

	if err == nil {
		err = t.Flush()
	}
	if err != nil {
		return err
	}
	seen := map[string]bool{}
	say := func(s string) {
		if err == nil && !seen[s] {
			seen[s] = true
			_, err = fmt.Fprintf(w, "\n%s\n", s)
		}
	}
	for i := range plans {
		p := &plans[i]
		tell := func(what string, w Wall) {
			if w.Online > 0 {
				say(fmt.Sprintf("%s from %s users online, all else in proportion: %s.\nWhat moves that: %s.", what, count(w.Online), w.What, w.Moves))
			}
		}
		tell("One Redis is not enough", p.OneRedis)
		tell("No number of machines is enough", p.Cluster)
		for _, note := range p.Notes {
			say("Note: " + note + ".")
		}
	}
	return err
}

// limits writes what each limit asks for and how full it is.
func limits(row func(string, func(*Plan) string), what string, of func(*Plan) []Limit, plans []Plan) {
	if len(plans) == 0 {
		return
	}
	first := plans[0]
	for i := range plans {
		if len(of(&plans[i])) > len(of(&first)) {
			first = plans[i]
		}
	}
	for i, l := range of(&first) {
		row(what+" for "+l.Name, func(p *Plan) string {
			list := of(p)
			if i >= len(list) {
				return "-"
			}
			return fmt.Sprintf("%s (%s)", machines(list[i].Need), percent(list[i].Full))
		})
	}
}

func machines(n int) string {
	if n == None {
		return "none is enough"
	}
	return count(float64(n))
}

func because(by string) string {
	if by == "" {
		return "-"
	}
	return by
}

// digits is a number with two or three digits that mean something.
func digits(v float64) string {
	switch {
	case v == 0:
		return "0"
	case v < 0.01:
		return fmt.Sprintf("%.2g", v)
	case v < 10:
		return strings.TrimSuffix(strings.TrimRight(fmt.Sprintf("%.2f", v), "0"), ".")
	case v < 100:
		return strings.TrimSuffix(fmt.Sprintf("%.1f", v), ".0")
	}
	return fmt.Sprintf("%.0f", v)
}

func scaled(v, base float64, units ...string) string {
	for i, unit := range units {
		// 999.9 would be written as 1000
		if v < base*0.9995 || i == len(units)-1 {
			return digits(v) + unit
		}
		v /= base
	}
	return digits(v)
}

func count(v float64) string { return scaled(v, 1000, "", "k", "M", "G") }
func size(v float64) string  { return scaled(v, 1024, " B", " KiB", " MiB", " GiB", " TiB") }
func rate(v float64) string {
	return scaled(v, 1000, " bit/s", " kbit/s", " Mbit/s", " Gbit/s", " Tbit/s")
}

func cores(v float64) string {
	if v > 0 && v < 0.005 {
		return "under 0.01 cores"
	}
	return digits(v) + " cores"
}

func percent(v float64) string {
	if math.IsInf(v, 0) || v > 99.99 {
		return "over"
	}
	return digits(math.Round(v*1000)/10) + "%"
}

func span(d time.Duration) string {
	switch {
	case d < 2*time.Hour:
		return fmt.Sprintf("%.0f min", d.Minutes())
	case d < 48*time.Hour:
		return fmt.Sprintf("%.1f h", d.Hours())
	}
	return fmt.Sprintf("%.1f days", d.Hours()/24)
}

package plan_test

import (
	"bytes"
	"flag"
	"fmt"
	"math"
	"reflect"
	"strconv"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/rollcall-presence/rollcall/internal/load/plan"
	"github.com/rollcall-presence/rollcall/internal/testkit"
)

var update = flag.Bool("update", false, "write the generated tables into docs")

// TestDocs holds the tables of docs/scaling.md against the program;
// go test ./internal/load/plan -update writes them.
func TestDocs(t *testing.T) {
	const doc = "../../../docs/scaling.md"
	var plans []plan.Plan
	for online := int64(10_000); online <= 10_000_000; online *= 10 {
		plans = append(plans, compute(t, plan.DefaultDemand(online), plan.DefaultMachine()))
	}
	var b bytes.Buffer
	if err := plan.WriteTable(&b, plans...); err != nil {
		t.Fatal(err)
	}
	testkit.Block(t, doc, "<!-- plan -->", b.String(), *update)
	var rows []string
	for _, v := range variations {
		d, m := plan.DefaultDemand(1_000_000), plan.DefaultMachine()
		v.change(&d, &m)
		p := compute(t, d, m)
		rows = append(rows, fmt.Sprintf("| %s | %d | %d | %s | %s |", v.name, p.Nodes, p.Redis.Shards, millions(p.OneRedis.Online), millions(p.Cluster.Online)))
	}
	testkit.Table(t, doc, "<!-- variations -->", rows, *update)
	costs := plan.Measured()
	rows = nil
	for name, c := range costs.All() {
		rows = append(rows, fmt.Sprintf("| `%s` | %s %s | %s |", name, strconv.FormatFloat(c.Value, 'f', -1, 64), c.Unit, c.Source))
	}
	testkit.Table(t, doc, "<!-- costs -->", rows, *update)
}

func millions(v float64) string {
	digits := math.Pow(10, math.Floor(math.Log10(v))-1) // two of them mean something
	return strconv.FormatFloat(math.Round(v/digits)*digits/1e6, 'g', 4, 64) + " million"
}

// variations are what the page shows the effect of, one at a time.
var variations = []struct {
	name   string
	change func(*plan.Demand, *plan.Machine)
}{
	{"as above", func(*plan.Demand, *plan.Machine) {}},
	{"everybody comes back over 10 minutes", func(d *plan.Demand, _ *plan.Machine) { d.StormTime = 10 * time.Minute }},
	{"everybody comes back over 30 s", func(d *plan.Demand, _ *plan.Machine) { d.StormTime = 30 * time.Second }},
	{"over 30 s, and the linger is 30 s", func(d *plan.Demand, _ *plan.Machine) { d.StormTime, d.Linger = 30*time.Second, 30*time.Second }},
	{"no storm", func(d *plan.Demand, _ *plan.Machine) { d.StormShare = 0 }},
	{"10 times the changes and sessions", func(d *plan.Demand, _ *plan.Machine) { d.ChangesPerHour, d.OpensPerHour = 20, 20 }},
	{"100 watchers a user", func(d *plan.Demand, _ *plan.Machine) { d.WatchersPerUser = 100 }},
	{"1,024 partitions", func(d *plan.Demand, _ *plan.Machine) { d.Partitions = 1024 }},
	{"1,024 partitions, heartbeats every 10 s", func(d *plan.Demand, _ *plan.Machine) { d.Partitions, d.Heartbeat = 1024, 10*time.Second }},
	{"nodes of 2 cores, 4 GiB, 50,000 connections", func(_ *plan.Demand, m *plan.Machine) { m.Cores, m.Memory, m.MaxConnections = 2, 4<<30, 50_000 }},
	{"half of the users online, not a quarter", func(d *plan.Demand, _ *plan.Machine) { d.Users = 2 * d.Online }},
}

func compute(t testing.TB, d plan.Demand, m plan.Machine) plan.Plan {
	t.Helper()
	p, err := plan.Compute(plan.Measured(), d, m)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func limit(t *testing.T, list []plan.Limit, name string) plan.Limit {
	t.Helper()
	for _, l := range list {
		if l.Name == name {
			return l
		}
	}
	t.Fatalf("no limit %s in %v", name, list)
	return plan.Limit{}
}

func near(got, want float64) bool { return math.Abs(got-want) <= 1e-9*math.Max(1, math.Abs(want)) }

// The figures of one demand, computed by hand.
func TestCompute(t *testing.T) {
	c := plan.Measured()
	for cost, v := range map[*plan.Cost]float64{
		&c.SessionMemory: 10_000, &c.SubscriptionMemory: 300, &c.NodeMemory: 50_000_000, &c.SocketMemory: 5000, &c.GCFactor: 1.5,
		&c.AcceptCPU: 400, &c.SubscribeCPU: 5, &c.EndCPU: 100, &c.PingCPU: 50, &c.RenewCPU: 2, &c.BeatCPU: 12, &c.ReceiveCPU: 2, &c.DecodeCPU: 1, &c.FrameCPU: 10,
		&c.RedisOnlineMemory: 1200, &c.RedisOfflineMemory: 1000, &c.RedisSessionMemory: 100, &c.RedisOpenCPU: 90, &c.RedisReadCPU: 2,
		&c.RedisEndCPU: 110, &c.RedisRenewCPU: 9, &c.RedisBeatCPU: 30, &c.RedisDeliverCPU: 0.5, &c.RedisCheckCPU: 200,
	} {
		cost.Value = v
	}
	d := plan.DefaultDemand(360_000) // 432,000 sessions with 33.3 subscriptions each
	d.StormShare = 0
	m := plan.DefaultMachine()
	m.MaxConnections, m.Spare = 100_000, 0
	p, err := plan.Compute(c, d, m)
	if err != nil {
		t.Fatal(err)
	}
	if p.Nodes != 5 || p.By != "sockets" || p.Redis.Shards != 1 || p.Redis.By != "" {
		t.Errorf("%d nodes because of %q, %d primaries because of %q; want 5, sockets, 1, nothing", p.Nodes, p.By, p.Redis.Shards, p.Redis.By)
	}
	each := 4 * 360_000 * 10. / 432_000
	beats := 5 * 256 / 3.
	for what, v := range map[string][2]float64{
		"sessions": {p.Sessions, 432_000}, "subscriptions": {p.Subscriptions, 14_400_000}, "opens": {p.Opens, 200}, "changes": {p.Changes, 200}, "frames": {p.Frames, 2000},
		"memory": {p.Memory, 1.5 * (5*50e6 + 432_000*(10_000+(each-1)*300))}, "of the kernel": {p.KernelMemory, 432_000 * 5000},
		"CPU":             {p.CPU, (200*(400+each*5+100) + 432_000/25.*50 + 432_000/225.*2 + beats*12 + 5*200*3 + 2000*10) / 1e6},
		"to receive":      {p.ReceiveCPU, 5 * 200 * 3 / 1e6},
		"memory of Redis": {p.Redis.Memory, 1_440_000*1000 + 360_000*200 + 72_000*100},
		"transitions":     {p.Redis.Transitions, 200 * 200 / 1e6}, "reads": {p.Redis.Reads, 200 * each * 2 / 1e6}, "renewals": {p.Redis.Renewals, 432_000 / 225. * 9 / 1e6},
		"heartbeats": {p.Redis.Heartbeats, beats * 30 / 1e6}, "pub/sub": {p.Redis.PubSub, 200 * 5 * 0.5 / 1e6}, "self-check": {p.Redis.SelfCheck, 0.002},
		"full sockets": {limit(t, p.Limits, "sockets").Full, 0.864},
	} {
		if !near(v[0], v[1]) {
			t.Errorf("%s: %v; want %v", what, v[0], v[1])
		}
	}
	if p.StormCPU != p.CPU || p.StormOpens != 0 || p.Redis.StormCPU != p.Redis.CPU {
		t.Errorf("without a storm: CPU %v and %v, opens %v", p.StormCPU, p.CPU, p.StormOpens)
	}
}

// Each limit decides where there is little of it.
func TestLimits(t *testing.T) {
	for by, change := range map[string]func(*plan.Demand, *plan.Machine){
		"memory":           func(_ *plan.Demand, m *plan.Machine) { m.Memory = 1 << 30 },
		"sockets":          func(_ *plan.Demand, m *plan.Machine) { m.FilesPerProcess = 10_000 },
		"CPU":              func(d *plan.Demand, _ *plan.Machine) { d.PingInterval, d.StormShare = time.Second, 0 },
		"CPU in a storm":   func(d *plan.Demand, m *plan.Machine) { d.StormTime, m.AcceptRate = time.Second, 1e9 },
		"receiving events": func(d *plan.Demand, _ *plan.Machine) { d.ChangesPerHour, d.WatchersPerUser = 5000, 0.001 },
		"accept_rate":      func(_ *plan.Demand, m *plan.Machine) { m.AcceptRate = 100 },
		"network":          func(_ *plan.Demand, m *plan.Machine) { m.NIC = 100e6 },
	} {
		d, m := plan.DefaultDemand(1_000_000), plan.DefaultMachine()
		change(&d, &m)
		if p := compute(t, d, m); p.By != by {
			t.Errorf("with little %s: %d nodes because of %q", by, p.Nodes, p.By)
		}
	}
	for by, change := range map[string]func(*plan.Demand, *plan.Machine){
		"memory":         func(_ *plan.Demand, m *plan.Machine) { m.RedisMemory = 1 << 28 },
		"CPU":            func(d *plan.Demand, _ *plan.Machine) { d.OpensPerHour, d.StormShare = 50, 0 },
		"CPU in a storm": func(*plan.Demand, *plan.Machine) {},
		"network":        func(_ *plan.Demand, m *plan.Machine) { m.NIC = 100e6 },
	} {
		d, m := plan.DefaultDemand(1_000_000), plan.DefaultMachine()
		change(&d, &m)
		if p := compute(t, d, m); p.Redis.By != by {
			t.Errorf("with little %s: %d primaries because of %q", by, p.Redis.Shards, p.Redis.By)
		}
	}
}

// What cannot be is said to be so.
func TestNone(t *testing.T) {
	d, m := plan.DefaultDemand(1_000_000), plan.DefaultMachine()
	m.Memory, m.MemoryTarget = 64<<20, 0.5
	p := compute(t, d, m)
	if p.Nodes != plan.None || p.By != "memory" || p.Redis.Shards != plan.None {
		t.Errorf("nodes that are full when empty: %d because of %q", p.Nodes, p.By)
	}
	var b bytes.Buffer
	if err := plan.WriteTable(&b, p); err != nil || !strings.Contains(b.String(), "none is enough") {
		t.Errorf("table (%v):\n%s", err, b.String())
	}
	d.Partitions = 2
	if p := compute(t, d, plan.DefaultMachine()); p.Redis.Shards != plan.None || p.Cluster.Online == 0 || p.Cluster.Online > 1e6 {
		t.Errorf("with 2 partitions: %d primaries, a wall at %v", p.Redis.Shards, p.Cluster.Online)
	}
	if p := compute(t, plan.DefaultDemand(0), plan.DefaultMachine()); p.OneRedis != (plan.Wall{}) || p.Cluster != (plan.Wall{}) {
		t.Errorf("walls of no users: %+v, %+v", p.OneRedis, p.Cluster)
	}
	if err := plan.WriteTable(&b); err != nil {
		t.Errorf("no plans: %v", err)
	}
}

// A wall stands where the plans on its two sides differ.
func TestWalls(t *testing.T) {
	p := compute(t, plan.DefaultDemand(1000), plan.DefaultMachine())
	for _, w := range []plan.Wall{p.OneRedis, p.Cluster} {
		if w.Online == 0 || w.What == "" || w.Moves == "" {
			t.Fatalf("wall %+v; want one", w)
		}
	}
	at := func(online float64) plan.Plan {
		return compute(t, plan.DefaultDemand(int64(online)), plan.DefaultMachine())
	}
	if a, b := at(0.99*p.OneRedis.Online), at(1.01*p.OneRedis.Online); a.Redis.Shards != 1 || b.Redis.Shards < 2 {
		t.Errorf("primaries below and above %v: %d, %d", p.OneRedis.Online, a.Redis.Shards, b.Redis.Shards)
	}
	if a, b := at(0.99*p.Cluster.Online), at(1.01*p.Cluster.Online); a.Redis.Shards == plan.None || b.Redis.Shards != plan.None {
		t.Errorf("primaries below and above %v: %d, %d", p.Cluster.Online, a.Redis.Shards, b.Redis.Shards)
	}
}

func TestNotes(t *testing.T) {
	d := plan.DefaultDemand(10_000_000)
	d.TLS = true
	m := plan.DefaultMachine()
	m.Cores = 64
	p := compute(t, d, m)
	all := strings.Join(p.Notes, "\n")
	for _, want := range []string{"tls_memory, tls_cpu", "maxclients", "self-check"} {
		if !strings.Contains(all, want) {
			t.Errorf("notes %q; want one of %s", all, want)
		}
	}
}

func TestValidate(t *testing.T) {
	d, m := plan.DefaultDemand(100), plan.DefaultMachine()
	d.Users, d.PingInterval, d.WatchersPerUser, d.Partitions, d.StormTime = 99, 0, math.NaN(), 5000, 0
	m.Cores, m.NIC, m.CPUTarget, m.FilesPerProcess = 0, math.Inf(1), 1.5, 1000
	c := plan.Measured()
	c.AcceptCPU.Unit, c.FrameCPU.Value, c.PingBytes.Source, c.GCFactor.Value = "ms", math.NaN(), "", 0.5
	_, err := plan.Compute(c, d, m)
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{
		"Users: is 99; want one from 100 to", "PingInterval: is 0s; want one from 1s to 1h0m0s", "WatchersPerUser: is NaN", "Partitions: is 5000; want one from 1 to 4096",
		"StormTime: is 0s", "Cores: is 0", "NIC: is +Inf", "CPUTarget: is 1.5; want one from 0.01 to 1", "FilesPerProcess: is 1000",
		`accept_cpu: its unit is "ms"; want "us"`, "frame_cpu: its value is NaN", "ping_bytes: it has no source", "gc_factor: its value is 0.5",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("Compute = %v; want %q in it", err, want)
		}
	}
}

func TestReadCosts(t *testing.T) {
	for name, in := range map[string]string{
		"empty": `{}`, "unknown": `{"walks": {}}`, "trailing": `{} {}`, "no JSON": `costs`,
	} {
		if _, err := plan.ReadCosts(strings.NewReader(in)); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	c := plan.Measured()
	if got := c.Unmeasured(); !reflect.DeepEqual(got, []string{"tls_memory", "tls_cpu"}) {
		t.Errorf("Unmeasured() = %v", got)
	}
}

func genDemand(rt *rapid.T) plan.Demand {
	d := plan.DefaultDemand(rapid.Int64Range(0, 20_000_000).Draw(rt, "online"))
	d.Users = d.Online * rapid.Int64Range(1, 20).Draw(rt, "users an online one")
	d.SessionsPerUser = rapid.Float64Range(1, 4).Draw(rt, "sessions")
	d.OpensPerHour = rapid.Float64Range(0, 60).Draw(rt, "opens")
	d.ChangesPerHour = rapid.Float64Range(0, 60).Draw(rt, "changes")
	d.WatchersPerUser = rapid.Float64Range(0, 500).Draw(rt, "watchers")
	d.StormShare = rapid.Float64Range(0, 1).Draw(rt, "storm")
	d.StormTime = time.Duration(rapid.Int64Range(1, 3600).Draw(rt, "storm seconds")) * time.Second
	d.Partitions = rapid.IntRange(1, 4096).Draw(rt, "partitions")
	d.TLS = rapid.Bool().Draw(rt, "TLS")
	return d
}

func genMachine(rt *rapid.T) plan.Machine {
	m := plan.DefaultMachine()
	m.Cores = rapid.Float64Range(0.5, 128).Draw(rt, "cores")
	m.Memory = rapid.Float64Range(1<<28, 1<<40).Draw(rt, "memory")
	m.RedisMemory = rapid.Float64Range(1<<28, 1<<40).Draw(rt, "memory of Redis")
	m.NIC = rapid.Float64Range(1e8, 1e11).Draw(rt, "network")
	m.AcceptRate = rapid.Float64Range(10, 1e5).Draw(rt, "accept rate")
	m.Spare = rapid.IntRange(0, 3).Draw(rt, "spare")
	return m
}

func must(rt *rapid.T, d plan.Demand, m plan.Machine) plan.Plan {
	p, err := plan.Compute(plan.Measured(), d, m)
	if err != nil {
		rt.Fatal(err)
	}
	return p
}

// Whatever the demand, all figures are numbers and the table can be written; and more
// users never need less.
func TestMoreNeedsMore(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		d, m := genDemand(rt), genMachine(rt)
		more := d
		factor := rapid.Float64Range(1, 10).Draw(rt, "factor")
		more.Online, more.Users = int64(float64(d.Online)*factor), int64(float64(d.Users)*factor)
		// Rounded alike, or there might be fewer watchers a session.
		more.Users = max(more.Users, more.Online*max(1, d.Users/max(d.Online, 1)))
		p, q := must(rt, d, m), must(rt, more, m)
		finite(rt, reflect.ValueOf(p))
		finite(rt, reflect.ValueOf(q))
		if q.Nodes < p.Nodes || q.Redis.Shards < p.Redis.Shards {
			rt.Errorf("%d users: %d nodes, %d primaries; %d: %d, %d", d.Online, p.Nodes, p.Redis.Shards, more.Online, q.Nodes, q.Redis.Shards)
		}
		if p.Nodes < 1+m.Spare || p.Redis.Shards < 1 || p.Redis.Shards != plan.None && p.Redis.Shards > d.Partitions {
			rt.Errorf("%d nodes, %d primaries of %d partitions", p.Nodes, p.Redis.Shards, d.Partitions)
		}
		for _, l := range p.Limits {
			if p.Nodes != plan.None && (l.Full > 1 || l.Need > p.Nodes-m.Spare) {
				rt.Errorf("%d nodes: %+v", p.Nodes, l)
			}
		}
		for _, l := range p.Redis.Limits {
			if p.Redis.Shards != plan.None && (l.Full > 1 || l.Need > p.Redis.Shards) {
				rt.Errorf("%d primaries: %+v", p.Redis.Shards, l)
			}
		}
		var b bytes.Buffer
		if err := plan.WriteTable(&b, p, q); err != nil || strings.Contains(b.String(), "NaN") || strings.Contains(b.String(), "Inf") {
			rt.Errorf("table (%v):\n%s", err, b.String())
		}
	})
}

// finite looks at every number of a value.
func finite(rt *rapid.T, v reflect.Value) {
	switch v.Kind() {
	case reflect.Float64:
		if f := v.Float(); math.IsNaN(f) || math.IsInf(f, 0) || f < 0 {
			rt.Errorf("a figure is %v", f)
		}
	case reflect.Struct:
		for _, f := range v.Fields() {
			finite(rt, f)
		}
	case reflect.Slice:
		for i := range v.Len() {
			finite(rt, v.Index(i))
		}
	default:
	}
}

// Where nobody watches anybody, nothing of a node's load grows with the number of nodes:
// so many times the users take at most so many times the nodes, and their memory and work
// is so many times as much. With watchers, it is never less.
func TestGrowthIsLinearWithoutWatchers(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		d, m := genDemand(rt), genMachine(rt)
		m.Spare = 0
		alone := d
		alone.WatchersPerUser = 0
		factor := rapid.IntRange(1, 20).Draw(rt, "factor")
		scale := func(d plan.Demand) plan.Demand {
			d.Online, d.Users = d.Online*int64(factor), d.Users*int64(factor)
			return d
		}
		p, q := must(rt, alone, m), must(rt, scale(alone), m)
		if p.Nodes != plan.None && p.Nodes*factor < 50_000 && q.Nodes > p.Nodes*factor {
			rt.Errorf("%d nodes, and %d for %d times the users", p.Nodes, q.Nodes, factor)
		}
		if p.Nodes != plan.None && q.Nodes != plan.None {
			for what, v := range map[string][2]float64{
				"memory of Redis": {p.Redis.Memory, q.Redis.Memory}, "transitions": {p.Redis.Transitions, q.Redis.Transitions},
				"renewals": {p.Redis.Renewals, q.Redis.Renewals}, "memory of the kernel": {p.KernelMemory, q.KernelMemory},
			} {
				if !near(v[1], v[0]*float64(factor)) {
					rt.Errorf("%s: %v, and %v for %d times the users", what, v[0], v[1], factor)
				}
			}
		}
		if r := must(rt, d, m); r.Nodes < p.Nodes {
			rt.Errorf("%d nodes with watchers, %d without", r.Nodes, p.Nodes)
		}
	})
}

// No users need one node, one Redis, and the spare ones.
func TestNobody(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		d, m := genDemand(rt), plan.DefaultMachine()
		d.Online, d.Users = 0, 0
		if p := must(rt, d, m); p.Nodes != 1+m.Spare || p.Redis.Shards != 1 || p.Redis.Memory != 0 || p.KernelMemory != 0 {
			rt.Errorf("nobody takes %d nodes, %d primaries, %v B of Redis", p.Nodes, p.Redis.Shards, p.Redis.Memory)
		}
	})
}

// Package plan is arithmetic of capacity: from what one of everything was measured to
// cost, and a demand, to how many nodes and Redis servers that takes, which limit says
// so, and where no number of them would do any more.
//
// It measures nothing and promises nothing: a plan is as good as its costs, which say
// where they are from, and errs on the side of more machines where something is not
// known. docs/scaling.md has the formulas in words.
package plan

import (
	"errors"
	"fmt"
	"math"
	"time"
)

// Demand is what is asked of a deployment. DefaultDemand is one to begin with.
type Demand struct {
	// Users are known to Redis; Online of them are so at one time.
	Users, Online int64
	// SessionsPerUser is how many sessions a user who is online has; at least 1.
	SessionsPerUser float64
	// OpensPerHour is how many sessions a user who is online opens in an hour, each of
	// which ends. ChangesPerHour is how many events are published about it: transitions
	// that outlast the linger, and changes of its profile.
	OpensPerHour, ChangesPerHour float64
	// WatchersPerUser is how many sessions that are online are subscribed to a user, on
	// average of all users.
	WatchersPerUser float64
	// StormShare of all sessions lose their connection at once and come back evenly over
	// StormTime; 0 for no storm.
	StormShare float64
	StormTime  time.Duration

	// Settings of the nodes.
	Linger, PingInterval, Heartbeat, Renew time.Duration
	Partitions                             int
	// TLS tells that nodes terminate TLS themselves.
	TLS bool
}

// DefaultDemand is that of a chat with so many users online, at the default settings.
func DefaultDemand(online int64) Demand {
	return Demand{
		Users: 4 * online, Online: online, SessionsPerUser: 1.2, OpensPerHour: 2, ChangesPerHour: 2, WatchersPerUser: 10,
		StormShare: 1, StormTime: 2 * time.Minute,
		Linger: 10 * time.Second, PingInterval: 25 * time.Second, Heartbeat: 3 * time.Second, Renew: 5 * time.Minute, Partitions: 256,
	}
}

// Machine is what a node, and what a Redis server, may use, and how much of it is
// planned for.
type Machine struct {
	Cores  float64
	Memory float64 // B
	NIC    float64 // bit/s, each way
	// FilesPerProcess is the limit of open files, and MaxConnections and AcceptRate (a
	// second) are the nodes' settings of these names.
	FilesPerProcess, MaxConnections int
	AcceptRate                      float64
	// RedisMemory is of one Redis server, B. Its network is NIC, and of its cores one
	// carries out commands.
	RedisMemory float64

	// How full things may be: CPU, and CPU in a storm; memory; memory of Redis, which
	// copies what changes while it saves; the network.
	CPUTarget, StormTarget, MemoryTarget, RedisMemoryTarget, NICTarget float64
	// Spare are nodes beyond those needed, so that as many may be away.
	Spare int
}

// DefaultMachine has 8 cores, 16 GiB and 10 Gbit/s, and a Redis of 16 GiB. It is allowed
// more open files, and its nodes more connections and a higher accept_rate, than by default.
func DefaultMachine() Machine {
	return Machine{
		Cores: 8, Memory: 16 << 30, NIC: 10e9, FilesPerProcess: 262_144, MaxConnections: 250_000, AcceptRate: 4000, RedisMemory: 16 << 30,
		CPUTarget: 0.6, StormTarget: 0.9, MemoryTarget: 0.8, RedisMemoryTarget: 0.5, NICTarget: 0.6, Spare: 1,
	}
}

const (
	// None stands for a number of machines where none is enough.
	None = math.MaxInt32
	// maxNodes bounds the search.
	maxNodes = 100_000
	// maxPartitions is that of the configuration.
	maxPartitions = 4096
	// otherFiles are those of a node that are no sessions.
	otherFiles = 1000
	// The self-check runs so many scripts a second, for so many users each, and so many
	// of each partition whoever is in it.
	checkRate, checkUsers, checkPartition = 10, 19, 4
	// poolPerCore is how many connections to each Redis a node's client may make.
	poolPerCore = 10
	// maxClients is Redis's own default.
	maxClients = 10_000
)

// Limit is one thing that there is only so much of.
type Limit struct {
	Name string
	// Need is how many machines it asks for by itself; None if no number is enough.
	Need int
	// Full is how much of the whole the plan uses: 1 is all of a machine, not of what is
	// planned for.
	Full float64
}

// Redis is what the plan asks of Redis.
type Redis struct {
	// Shards is how many primaries; with more than one they are a Cluster.
	Shards int
	By     string // the limit that asks for most
	Limits []Limit
	Memory float64 // B, all primaries together
	// CPU in cores, all primaries together, by what it goes to, and in a storm.
	Transitions, Reads, Renewals, Heartbeats, PubSub, SelfCheck float64
	CPU, StormCPU                                               float64
	// Out is what leaves Redis in a storm, bit/s.
	Out float64
	// Clients is how many connections each primary may get.
	Clients int
	// Round is how long the self-check takes to have seen everything once.
	Round time.Duration
}

// Wall is where a kind of growth ends.
type Wall struct {
	// Online is how many users are online there, all else in proportion; 0 if there is no
	// such wall below ten thousand million.
	Online float64
	What   string // is full there
	Moves  string // what moves the wall
}

// Plan is what a demand takes.
type Plan struct {
	Demand  Demand
	Machine Machine

	Sessions, Subscriptions float64
	// A second: sessions let in, events published, updates sent; each by and by and in a
	// storm, on top.
	Opens, Changes, Frames                float64
	StormOpens, StormChanges, StormFrames float64

	// Nodes with the spare ones; None if no number is enough.
	Nodes  int
	By     string // the limit that asks for most
	Limits []Limit
	// All nodes together, the spare ones idle: CPU in cores, also in a storm; memory of
	// processes, and of the kernel for sockets, B; and what leaves in a storm, bit/s.
	CPU, StormCPU, Memory, KernelMemory, Out float64
	// ReceiveCPU is, of CPU, what goes to receiving events: each node receives those of all
	// partitions in which it has a subscriber, so it grows with nodes times users.
	ReceiveCPU float64

	Redis Redis
	// OneRedis is where one Redis is full, and Cluster where more of anything no longer helps.
	OneRedis, Cluster Wall
	// Notes are what a reader must know.
	Notes []string
}

// Compute returns the plan, or all that is wrong with what it is given.
func Compute(c Costs, d Demand, m Machine) (Plan, error) {
	if err := errors.Join(c.Validate(), d.Validate(), m.Validate()); err != nil {
		return Plan{}, err
	}
	x := model{c: &c, d: d, m: m, users: float64(d.Users), online: float64(d.Online)}
	p := x.plan()
	p.OneRedis, p.Cluster = x.walls()
	p.Notes = notes(&c, &p)
	return p, nil
}

// Validate reports all that is wrong with the demand.
func (d *Demand) Validate() error {
	var p problems
	p.whole("Online", d.Online, 0, 1e10)
	p.whole("Users", d.Users, d.Online, 1e11)
	p.real("SessionsPerUser", d.SessionsPerUser, 1, 1000)
	p.real("OpensPerHour", d.OpensPerHour, 0, 1e5)
	p.real("ChangesPerHour", d.ChangesPerHour, 0, 1e5)
	p.real("WatchersPerUser", d.WatchersPerUser, 0, 1e6)
	p.real("StormShare", d.StormShare, 0, 1)
	if d.StormShare > 0 {
		p.span("StormTime", d.StormTime, time.Second, 24*time.Hour)
	}
	p.span("Linger", d.Linger, 0, time.Hour)
	p.span("PingInterval", d.PingInterval, time.Second, time.Hour)
	p.span("Heartbeat", d.Heartbeat, 100*time.Millisecond, time.Hour)
	p.span("Renew", d.Renew, time.Second, 24*time.Hour)
	p.whole("Partitions", int64(d.Partitions), 1, maxPartitions)
	return errors.Join(p...)
}

// Validate reports all that is wrong with the machine.
func (m *Machine) Validate() error {
	var p problems
	p.real("Cores", m.Cores, 0.1, 10_000)
	p.real("Memory", m.Memory, 64<<20, 1<<50)
	p.real("NIC", m.NIC, 1e6, 1e15)
	p.whole("FilesPerProcess", int64(m.FilesPerProcess), otherFiles+1, 1<<31)
	p.whole("MaxConnections", int64(m.MaxConnections), 1, 1<<31)
	p.real("AcceptRate", m.AcceptRate, 1, 1e9)
	p.real("RedisMemory", m.RedisMemory, 1<<20, 1<<50)
	for _, share := range []struct {
		name string
		v    float64
	}{{"CPUTarget", m.CPUTarget}, {"StormTarget", m.StormTarget}, {"MemoryTarget", m.MemoryTarget}, {"RedisMemoryTarget", m.RedisMemoryTarget}, {"NICTarget", m.NICTarget}} {
		p.real(share.name, share.v, 0.01, 1)
	}
	p.whole("Spare", int64(m.Spare), 0, 1000)
	return errors.Join(p...)
}

type problems []error

func (p *problems) add(name string, v, from, to any) {
	*p = append(*p, fmt.Errorf("%s: is %v; want one from %v to %v", name, v, from, to))
}

func (p *problems) whole(name string, v, from, to int64) {
	if v < from || v > to {
		p.add(name, v, from, to)
	}
}

func (p *problems) real(name string, v, from, to float64) {
	if !(v >= from && v <= to) { // NaN is neither
		p.add(name, v, from, to)
	}
}

func (p *problems) span(name string, v, from, to time.Duration) {
	if v < from || v > to {
		p.add(name, v, from, to)
	}
}

package plan

import (
	"fmt"
	"math"
	"strings"
	"time"
)

// model computes with numbers of users that need not be whole, so that a demand can be
// scaled.
type model struct {
	c             *Costs
	d             Demand
	m             Machine
	users, online float64
}

// rates are what happens a second in the whole deployment, by and by and in a storm.
type rates struct {
	sessions, subs, each float64 // each: subscriptions a session
	opens, changes       float64
	stormOpens           float64
	stormChanges         float64
	pings, renewals      float64
}

const hour = 3600

func (x *model) rates() rates {
	d := &x.d
	r := rates{
		sessions: x.online * d.SessionsPerUser, opens: x.online * d.OpensPerHour / hour, changes: x.online * d.ChangesPerHour / hour,
	}
	if r.sessions > 0 {
		r.subs = x.users * d.WatchersPerUser
		r.each = r.subs / r.sessions
	}
	r.pings = r.sessions / d.PingInterval.Seconds()
	r.renewals = r.sessions / (d.Renew.Seconds() * 3 / 4) // each is after half of Renew to all of it
	if d.StormShare > 0 {
		r.stormOpens = r.sessions * d.StormShare / d.StormTime.Seconds()
		// Who comes back after its linger has been shown offline, and is online again.
		late := max(0, 1-d.Linger.Seconds()/d.StormTime.Seconds())
		r.stormChanges = 2 * x.online * d.StormShare * late / d.StormTime.Seconds()
	}
	return r
}

// listen is the share of the partitions in which one of n nodes has a subscriber.
func (x *model) listen(r *rates, n float64) float64 {
	if r.subs == 0 {
		return 0
	}
	return -math.Expm1(r.subs / n * math.Log1p(-1/float64(x.d.Partitions)))
}

// node is what one of n nodes uses.
type node struct {
	memory, kernel             float64 // B
	cpu, storm, receive, event float64 // cores; event: of what is done for one event at a time, in a storm
	accepts                    float64 // a second, in a storm
	out, in                    float64 // bit/s, in a storm
}

func (x *model) node(r *rates, n float64) node {
	c, d := x.c, &x.d
	listen, sessions := x.listen(r, n), r.sessions/n
	accept, memory := c.AcceptCPU.Value+r.each*c.SubscribeCPU.Value, c.SocketMemory.Value
	if d.TLS {
		accept += c.TLSCPU.Value
		memory += c.TLSMemory.Value
	}
	var u node
	u.kernel = sessions * memory
	u.memory = c.GCFactor.Value * (c.NodeMemory.Value + sessions*(c.SessionMemory.Value+max(0, r.each-1)*c.SubscriptionMemory.Value))
	work := func(opens, changes float64) (receive, us float64) {
		receive = changes * listen * (c.ReceiveCPU.Value + c.DecodeCPU.Value)
		return receive, opens/n*(accept+c.EndCPU.Value) + receive + changes*d.WatchersPerUser/n*c.FrameCPU.Value
	}
	receive, us := work(r.opens, r.changes)
	us += r.pings/n*c.PingCPU.Value + r.renewals/n*c.RenewCPU.Value + float64(d.Partitions)/d.Heartbeat.Seconds()*c.BeatCPU.Value
	_, more := work(r.stormOpens, r.stormChanges)
	u.receive, u.cpu, u.storm = receive/1e6, us/1e6, (us+more)/1e6
	changes := r.changes + r.stormChanges
	u.event = changes * (listen*c.DecodeCPU.Value + d.WatchersPerUser/n*c.PutCPU.Value) / 1e6
	u.accepts = (r.opens + r.stormOpens) / n
	u.out = 8 * (changes*d.WatchersPerUser/n*c.FrameBytes.Value + r.pings/n*c.PingBytes.Value +
		u.accepts*(c.ConnectBytes.Value+r.each*c.SnapshotBytes.Value))
	u.in = 8 * (changes*listen*c.EventBytes.Value + u.accepts*r.each*c.UserBytes.Value)
	return u
}

// limit is one thing that there is only so much of: how much of it is used where there
// are so many machines, which more machines never increase, and how much may be.
type limit struct {
	name   string
	use    func(machines float64) float64
	whole  float64
	target float64
}

// need is the least number of machines, up to most, that is enough.
func (l *limit) need(most int) int {
	enough := func(n int) bool { return l.use(float64(n)) <= l.whole*l.target }
	if !enough(most) {
		return None
	}
	low, high := 0, most // low is not enough, high is
	for n := 1; n < most; n *= 2 {
		if enough(n) {
			high = n
			break
		}
		low = n
	}
	for high-low > 1 {
		if mid := low + (high-low)/2; enough(mid) {
			high = mid
		} else {
			low = mid
		}
	}
	return high
}

// most is the largest need of limits, whose it is, and how full each is where so many
// machines are used.
func most(limits []limit, bound int) (need int, by string, list []Limit) {
	need = 0
	for i := range limits {
		l := Limit{Name: limits[i].name, Need: limits[i].need(bound)}
		if l.Need > need {
			need, by = l.Need, l.Name
		}
		list = append(list, l)
	}
	for i := range limits {
		list[i].Full = limits[i].use(float64(min(need, bound))) / limits[i].whole
	}
	if need == 1 {
		by = ""
	}
	return need, by, list
}

// The names of limits.
const (
	limitMemory  = "memory"
	limitSockets = "sockets"
	limitCPU     = "CPU"
	limitStorm   = "CPU in a storm"
	limitEvents  = "receiving events"
	limitAccepts = "accept_rate"
	limitNetwork = "network"
)

func (x *model) nodeLimits(r *rates) []limit {
	m := &x.m
	of := func(f func(u *node) float64) func(float64) float64 {
		return func(n float64) float64 { u := x.node(r, n); return f(&u) }
	}
	return []limit{
		{limitMemory, of(func(u *node) float64 { return u.memory + u.kernel }), m.Memory, m.MemoryTarget},
		{limitSockets, func(n float64) float64 { return r.sessions / n }, float64(min(m.FilesPerProcess-otherFiles, m.MaxConnections)), 1},
		{limitCPU, of(func(u *node) float64 { return u.cpu }), m.Cores, m.CPUTarget},
		{limitStorm, of(func(u *node) float64 { return u.storm }), m.Cores, m.StormTarget},
		{limitEvents, of(func(u *node) float64 { return u.event }), 1, m.StormTarget},
		{limitAccepts, of(func(u *node) float64 { return u.accepts }), m.AcceptRate, 1},
		{limitNetwork, of(func(u *node) float64 { return max(u.out, u.in) }), m.NIC, m.NICTarget},
	}
}

// redis is what n nodes ask of Redis as a whole.
func (x *model) redis(r *rates, n float64) Redis {
	c, d := x.c, &x.d
	heard := n * x.listen(r, n) // nodes to which an event is delivered
	cores := func(rate float64, c Cost) float64 { return rate * c.Value / 1e6 }
	u := Redis{
		Memory: x.users*c.RedisOfflineMemory.Value + x.online*max(0, c.RedisOnlineMemory.Value-c.RedisOfflineMemory.Value) +
			max(0, r.sessions-x.online)*c.RedisSessionMemory.Value,
		Transitions: cores(r.opens, c.RedisOpenCPU) + cores(r.opens, c.RedisEndCPU),
		Reads:       cores(r.opens*r.each, c.RedisReadCPU),
		Renewals:    cores(r.renewals, c.RedisRenewCPU),
		Heartbeats:  cores(n*float64(d.Partitions)/d.Heartbeat.Seconds(), c.RedisBeatCPU),
		PubSub:      cores(r.changes*heard, c.RedisDeliverCPU),
		SelfCheck:   cores(checkRate, c.RedisCheckCPU),
		Out:         8 * ((r.changes+r.stormChanges)*heard*c.EventBytes.Value + (r.opens+r.stormOpens)*r.each*c.UserBytes.Value),
	}
	u.CPU = u.Transitions + u.Reads + u.Renewals + u.Heartbeats + u.PubSub + u.SelfCheck
	u.StormCPU = u.CPU + cores(r.stormOpens, c.RedisOpenCPU) + cores(r.stormOpens, c.RedisEndCPU) + cores(r.stormOpens*r.each, c.RedisReadCPU) +
		cores(r.stormChanges*heard, c.RedisDeliverCPU)
	return u
}

func (x *model) redisLimits(u *Redis) []limit {
	m := &x.m
	partitions := float64(x.d.Partitions)
	// The busiest shard has what is left when the others have as many partitions as it.
	share := func(v float64) func(float64) float64 {
		return func(shards float64) float64 { return v * math.Ceil(partitions/shards) / partitions }
	}
	return []limit{
		{limitMemory, share(u.Memory), m.RedisMemory, m.RedisMemoryTarget},
		{limitCPU, share(u.CPU), 1, m.CPUTarget},
		{limitStorm, share(u.StormCPU), 1, m.StormTarget},
		{limitNetwork, share(u.Out), m.NIC, m.NICTarget},
	}
}

func (x *model) plan() Plan {
	r, m := x.rates(), &x.m
	p := Plan{
		Demand: x.d, Machine: x.m, Sessions: r.sessions, Subscriptions: r.subs,
		Opens: r.opens, Changes: r.changes, Frames: r.changes * x.d.WatchersPerUser,
		StormOpens: r.stormOpens, StormChanges: r.stormChanges, StormFrames: r.stormChanges * x.d.WatchersPerUser,
	}
	need, by, limits := most(x.nodeLimits(&r), maxNodes)
	p.By, p.Limits = by, limits
	if need == None {
		p.Nodes, p.Redis.Shards = None, None
		return p
	}
	p.Nodes = need + m.Spare
	n := float64(need)
	u := x.node(&r, n)
	p.CPU, p.StormCPU, p.ReceiveCPU = u.cpu*n, u.storm*n, u.receive*n
	p.Memory, p.KernelMemory, p.Out = u.memory*n, u.kernel*n, u.out*n

	p.Redis = x.redis(&r, float64(p.Nodes))
	p.Redis.Shards, p.Redis.By, p.Redis.Limits = most(x.redisLimits(&p.Redis), x.d.Partitions)
	p.Redis.Clients = int(math.Ceil(float64(p.Nodes) * (poolPerCore*m.Cores + 2)))
	p.Redis.Round = time.Duration((float64(x.d.Partitions)*checkPartition + x.users/checkUsers) / checkRate * float64(time.Second)).Round(time.Second)
	return p
}

// maxOnline is how far walls are looked for.
const maxOnline = 1e10

// walls finds where one Redis is full, and where no number of machines does, with users
// in proportion.
func (x *model) walls() (oneRedis, cluster Wall) {
	if x.online == 0 {
		return Wall{}, Wall{}
	}
	// Nodes that are many so that each receives fewer events are what fills Redis then.
	nodes := func(p *Plan) bool { return p.Nodes == None || p.By == limitEvents }
	oneRedis = x.wall(func(p *Plan) bool { return p.Redis.Shards > 1 }, func(p *Plan) (what, moves string) {
		if nodes(p) {
			return "nodes: " + p.By, nodeMoves[p.By]
		}
		return p.Redis.By + " of Redis", redisMoves[p.Redis.By]
	})
	cluster = x.wall(func(p *Plan) bool { return p.Redis.Shards == None }, func(p *Plan) (what, moves string) {
		if nodes(p) {
			return "nodes: " + p.By, nodeMoves[p.By]
		}
		return p.Redis.By + " of a shard with one partition", "more partitions, up to 4096; " + strings.TrimPrefix(redisMoves[p.Redis.By], moreShards)
	})
	return oneRedis, cluster
}

func (x *model) wall(beyond func(*Plan) bool, tell func(*Plan) (what, moves string)) Wall {
	at := func(online float64) Plan {
		y := *x
		y.users, y.online = x.users*online/x.online, online
		return y.plan()
	}
	low, high := 1., maxOnline
	p := at(high)
	if !beyond(&p) {
		return Wall{}
	}
	if q := at(low); beyond(&q) {
		high, p = low, q
	}
	for high > low*1.0001 {
		mid := math.Sqrt(low * high)
		if q := at(mid); beyond(&q) {
			high, p = mid, q
		} else {
			low = mid
		}
	}
	w := Wall{Online: high}
	w.What, w.Moves = tell(&p)
	return w
}

const moreShards = "a Cluster, or more shards; "

// What moves a wall of nodes, and one of Redis.
var (
	nodeMoves = map[string]string{
		limitMemory:  "machines with more memory",
		limitSockets: "a higher limit of open files, and max_connections",
		limitCPU:     "fewer partitions or a longer heartbeat, which cost every node the same; more cores",
		limitStorm:   "clients that come back over a longer time; more cores",
		limitEvents: "clients that come back over a longer time, or before the linger is over, so that fewer changes are told; " +
			"more nodes or partitions only where a node has fewer subscriptions than there are partitions",
		limitAccepts: "a higher accept_rate, or clients that come back over a longer time",
		limitNetwork: "a faster network; fewer changes, by a longer linger",
	}
	redisMoves = map[string]string{
		limitMemory:  moreShards + "more memory",
		limitCPU:     moreShards + "fewer and larger nodes, or a longer heartbeat, since every node beats in every partition and receives every event",
		limitStorm:   moreShards + "clients that come back over a longer time, or before the linger is over",
		limitNetwork: moreShards + "a faster network; fewer and larger nodes, since every one receives every event",
	}
)

func notes(c *Costs, p *Plan) []string {
	var list []string
	if names := c.Unmeasured(); p.Demand.TLS && len(names) > 0 {
		list = append(list, "TLS costs nothing here because nobody measured it ("+strings.Join(names, ", ")+"): give figures of your own")
	}
	if p.Nodes != None && p.Redis.Clients > maxClients {
		list = append(list, fmt.Sprintf("nodes may make %d connections to a Redis, which takes %d by default: raise maxclients", p.Redis.Clients, maxClients))
	}
	if p.Nodes != None && p.Redis.Round > 24*time.Hour {
		list = append(list, "a round of the self-check takes "+span(p.Redis.Round))
	}
	return list
}

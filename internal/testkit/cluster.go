package testkit

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

// Slots is how many a Redis Cluster has.
const Slots = 16384

// Cluster is a Redis Cluster of real processes, which are killed when the test ends.
type Cluster struct {
	Servers []*Server // the primaries of the start, in the order of their slots, then their replicas
	ids     map[*Server]string
}

// StartCluster starts a Redis Cluster of primaries, each with as many replicas, and waits until
// each of its servers says that it is whole. A primary that is silent for 2 s is
// replaced by a replica.
func StartCluster(t testing.TB, primaries, replicas int, args ...string) *Cluster {
	t.Helper()
	c := &Cluster{ids: map[*Server]string{}}
	for range primaries * (1 + replicas) {
		var bus string
		s := launch(t, redis.Options{}, func(t testing.TB, dir, port string) []string {
			_, bus, _ = net.SplitHostPort(FreeAddr(t))
			return append([]string{
				"--port", port, "--bind", "127.0.0.1", "--dir", dir, "--save", "", "--logfile", filepath.Join(dir, "redis.log"),
				"--cluster-enabled", "yes", "--cluster-port", bus, "--cluster-node-timeout", "2000", "--cluster-allow-replica-migration", "no",
				"--cluster-replica-validity-factor", "0", "--repl-diskless-sync-delay", "0",
			}, args...)
		})
		id, _ := s.do(t, "cluster", "myid").Text()
		c.ids[s] = id
		n := len(c.Servers)
		s.do(t, "cluster", "set-config-epoch", n+1)
		if n < primaries {
			s.do(t, "cluster", "addslotsrange", n*Slots/primaries, (n+1)*Slots/primaries-1)
		}
		if n > 0 {
			_, port, _ := net.SplitHostPort(s.Addr)
			c.Servers[0].do(t, "cluster", "meet", "127.0.0.1", port, bus)
		}
		c.Servers = append(c.Servers, s)
	}
	await(t, "cluster: all know all", func(ctx context.Context) error {
		return c.each(ctx, func(ctx context.Context, r *redis.Client) error {
			nodes, err := r.ClusterNodes(ctx).Result()
			if n := strings.Count(nodes, "connected\n") + strings.Count(nodes, "connected "); err == nil && n < len(c.Servers) {
				err = fmt.Errorf("knows %d servers", n)
			}
			return err
		})
	})
	for i, s := range c.Servers[primaries:] {
		s.do(t, "cluster", "replicate", c.ids[c.Servers[i%primaries]])
	}
	c.settled(t)
	return c
}

// URL is what the product is told.
func (c *Cluster) URL() string {
	hosts := make([]string, len(c.Servers))
	for i, s := range c.Servers {
		hosts[i] = s.Addr
	}
	return "redis+cluster://" + strings.Join(hosts, ",")
}

// Client returns a new client that soon hears of a failover; its caller closes it.
func (c *Cluster) Client() *redis.ClusterClient {
	o := &redis.ClusterOptions{
		Protocol: 2, DisableIdentity: true, MaxRetries: -1, DialerRetries: 1, ReadTimeout: time.Second, ClusterStateReloadInterval: 200 * time.Millisecond,
	}
	for _, s := range c.Servers {
		o.Addrs = append(o.Addrs, s.Addr)
	}
	return redis.NewClusterClient(o)
}

// Slot is the slot of a key or a channel.
func (c *Cluster) Slot(t testing.TB, key string) int {
	t.Helper()
	for _, s := range c.Servers {
		if s.alive() {
			slot, _ := s.do(t, "cluster", "keyslot", key).Int()
			return slot
		}
	}
	t.Fatal("no server of the cluster is alive")
	return 0
}

// Owner is the primary of a slot as the servers that are alive agree.
func (c *Cluster) Owner(t testing.TB, slot int) (owner *Server) {
	t.Helper()
	await(t, "all name one owner of the slot", func(ctx context.Context) error {
		owner = nil
		return c.each(ctx, func(ctx context.Context, r *redis.Client) error {
			said, err := c.owner(ctx, r, slot)
			if err == nil && owner != nil && said != owner {
				err = errors.New("they do not agree")
			}
			owner = said
			return err
		})
	})
	return owner
}

// owner is the primary of a slot as one server says.
func (c *Cluster) owner(ctx context.Context, r *redis.Client, slot int) (*Server, error) {
	ranges, err := r.ClusterSlots(ctx).Result() //nolint:staticcheck // SA1019: it names the owner of each range first, which is all that is asked
	if err != nil {
		return nil, err
	}
	for _, of := range ranges {
		if of.Start <= slot && slot <= of.End {
			for s, id := range c.ids {
				if id == of.Nodes[0].ID {
					return s, nil
				}
			}
		}
	}
	return nil, errors.New("the slot is nobody's")
}

// Replica is a live replica of a primary.
func (c *Cluster) Replica(t testing.TB, primary *Server) (replica *Server) {
	t.Helper()
	await(t, "a replica of "+primary.Addr, func(ctx context.Context) error {
		for _, s := range c.Servers {
			if s == primary || !s.alive() {
				continue
			}
			r := s.Client()
			nodes, err := r.ClusterNodes(ctx).Result()
			_ = r.Close()
			if err == nil && strings.Contains(nodes, "myself,slave "+c.ids[primary]) {
				replica = s
				return nil
			}
		}
		return errors.New("none")
	})
	return replica
}

// Failover has a replica of a primary take its place while both are alive, without
// losing a write, and returns it once all servers know.
func (c *Cluster) Failover(t testing.TB, primary *Server) *Server {
	t.Helper()
	replica := c.Replica(t, primary)
	await(t, "the replica takes its primary's place", func(ctx context.Context) error {
		r := replica.Client()
		defer func() { _ = r.Close() }()
		if role(ctx, replica, "master") != nil {
			_ = r.ClusterFailover(ctx).Err() // given up by itself after 5 s
		}
		return role(ctx, replica, "master")
	})
	c.settled(t)
	return replica
}

// AwaitFailover returns, after a primary that had the slot was killed or stopped, who has it now.
// It asks the servers that are alive.
func (c *Cluster) AwaitFailover(t testing.TB, slot int, old *Server) (primary *Server) {
	t.Helper()
	await(t, "a replica takes the place of "+old.Addr, func(ctx context.Context) error {
		for _, s := range c.Servers {
			if s == old || !s.alive() {
				continue
			}
			r := s.Client()
			owner, err := c.owner(ctx, r, slot)
			_ = r.Close()
			if err == nil && owner == old {
				err = fmt.Errorf("to %s it still is", s.Addr)
			}
			if err != nil {
				return err
			}
			primary = owner
		}
		return nil
	})
	return primary
}

// Move is the migration of one slot under way.
type Move struct {
	c        *Cluster
	Slot     int
	From, To *Server
}

// BeginMove begins to move a slot: from here on keys that From does not have are To's.
func (c *Cluster) BeginMove(t testing.TB, slot int, to *Server) *Move {
	t.Helper()
	m := &Move{c: c, Slot: slot, From: c.Owner(t, slot), To: to}
	to.do(t, "cluster", "setslot", slot, "importing", c.ids[m.From])
	m.From.do(t, "cluster", "setslot", slot, "migrating", c.ids[to])
	return m
}

// Keys moves up to n keys of the slot and returns how many it moved.
func (m *Move) Keys(t testing.TB, n int) int {
	t.Helper()
	keys, err := m.From.do(t, "cluster", "getkeysinslot", m.Slot, n).StringSlice()
	if err != nil {
		t.Fatal(err)
	}
	if len(keys) == 0 {
		return 0
	}
	host, port, _ := net.SplitHostPort(m.To.Addr)
	args := []any{"migrate", host, port, "", 0, 5000, "keys"}
	for _, k := range keys {
		args = append(args, k)
	}
	m.From.do(t, args...)
	return len(keys)
}

// End gives the slot to its new owner, and returns once all servers that are alive know.
func (m *Move) End(t testing.TB) {
	t.Helper()
	m.To.do(t, "cluster", "setslot", m.Slot, "node", m.c.ids[m.To])
	m.From.do(t, "cluster", "setslot", m.Slot, "node", m.c.ids[m.To])
	await(t, "all know the new owner", func(ctx context.Context) error {
		return m.c.each(ctx, func(ctx context.Context, r *redis.Client) error {
			owner, err := m.c.owner(ctx, r, m.Slot)
			if err == nil && owner != m.To {
				err = errors.New("one does not")
			}
			return err
		})
	})
}

// Move moves a slot with all its keys.
func (c *Cluster) Move(t testing.TB, slot int, to *Server) {
	t.Helper()
	m := c.BeginMove(t, slot, to)
	for m.Keys(t, 50) > 0 {
	}
	m.End(t)
}

// settled waits until every server that is alive says that the cluster is whole, and replicas follow.
func (c *Cluster) settled(t testing.TB) {
	t.Helper()
	await(t, "cluster: all are in order", func(ctx context.Context) error {
		return c.each(ctx, func(ctx context.Context, r *redis.Client) error {
			info, err := r.ClusterInfo(ctx).Result()
			if err == nil && !strings.Contains(info, "cluster_state:ok") {
				err = errors.New("the cluster is not whole")
			}
			if err != nil {
				return err
			}
			repl, err := r.Info(ctx, "replication").Result()
			if err == nil && strings.Contains(repl, "role:slave") && !strings.Contains(repl, "master_link_status:up") {
				err = errors.New("a replica does not follow yet")
			}
			if err != nil {
				return err
			}
			ranges, err := r.ClusterSlots(ctx).Result() //nolint:staticcheck // SA1019: as above
			n := 0
			for _, of := range ranges {
				n += of.End - of.Start + 1
				if alive := slices.ContainsFunc(c.Servers, func(s *Server) bool { return s.alive() && c.ids[s] == of.Nodes[0].ID }); !alive {
					err = errors.New("slots " + strconv.Itoa(of.Start) + " are a dead server's")
				}
			}
			if err == nil && n != Slots {
				err = fmt.Errorf("%d slots are somebody's", n)
			}
			return err
		})
	})
}

// each calls f on each server that is alive, until an error.
func (c *Cluster) each(ctx context.Context, f func(context.Context, *redis.Client) error) error {
	for _, s := range c.Servers {
		if !s.alive() {
			continue
		}
		r := s.Client()
		one, cancel := context.WithTimeout(ctx, 5*time.Second)
		err := f(one, r)
		cancel()
		_ = r.Close()
		if err != nil {
			return fmt.Errorf("%s: %w", s.Addr, err)
		}
	}
	return nil
}

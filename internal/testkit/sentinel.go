package testkit

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

// SentinelMaster is the name by which the sentinels of a test know their primary.
const SentinelMaster = "rollcall"

// sentinelDown is how long a server must be silent for the sentinels to take it for dead.
const sentinelDown = time.Second

// Sentinels is a primary and its replica under three sentinels, all real processes that
// are killed when the test ends.
type Sentinels struct {
	Servers   []*Server // the first was the primary at the start
	Sentinels []*Server
}

// StartSentinels starts one and waits until every sentinel knows all the others and both servers.
func StartSentinels(t testing.TB, args ...string) *Sentinels {
	t.Helper()
	primary := Redis(t, args...)
	host, port, _ := net.SplitHostPort(primary.Addr)
	s := &Sentinels{Servers: []*Server{
		primary, Redis(t, append([]string{"--replicaof", host + " " + port, "--repl-diskless-sync-delay", "0"}, args...)...),
	}}
	await(t, "the replica follows", func(ctx context.Context) error { return linked(ctx, s.Servers[1]) })
	conf := fmt.Sprintf("bind 127.0.0.1\nsentinel monitor %[1]s %[2]s %[3]s 2\nsentinel down-after-milliseconds %[1]s %[4]d\n"+
		"sentinel failover-timeout %[1]s 5000\nsentinel parallel-syncs %[1]s 1\n", SentinelMaster, host, port, sentinelDown.Milliseconds())
	for range 3 {
		s.Sentinels = append(s.Sentinels, launch(t, redis.Options{}, func(t testing.TB, dir, port string) []string {
			path := filepath.Join(dir, "sentinel.conf") // which the sentinel writes to
			if err := os.WriteFile(path, []byte(conf+"port "+port+"\ndir "+dir+"\nlogfile "+filepath.Join(dir, "redis.log")+"\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			return []string{path, "--sentinel"}
		}))
		// They look at each other and at the servers more often than every 10 s.
		s.Sentinels[len(s.Sentinels)-1].do(t, "sentinel", "debug", "info-period", 500, "publish-period", 500, "ping-period", 200, "ask-period", 200)
	}
	s.settled(t)
	return s
}

// URL is what the product is told.
func (s *Sentinels) URL() string {
	hosts := make([]string, len(s.Sentinels))
	for i, sentinel := range s.Sentinels {
		hosts[i] = sentinel.Addr
	}
	return "redis+sentinel://" + strings.Join(hosts, ",") + "/" + SentinelMaster
}

// Primary is the server that all sentinels name.
func (s *Sentinels) Primary(t testing.TB) *Server { t.Helper(); return s.named(t, nil) }

// named waits until all sentinels name the same server, one other than not.
func (s *Sentinels) named(t testing.TB, not *Server) (primary *Server) {
	t.Helper()
	await(t, "all sentinels name one primary", func(ctx context.Context) error {
		addr := ""
		for _, sentinel := range s.Sentinels {
			c := sentinelClient(sentinel)
			at, err := c.GetMasterAddrByName(ctx, SentinelMaster).Result()
			_ = c.Close()
			if err != nil {
				return err
			}
			if got := net.JoinHostPort(at[0], at[1]); addr != "" && addr != got {
				return fmt.Errorf("one names %s, another %s", addr, got)
			} else if addr = got; not != nil && addr == not.Addr {
				return fmt.Errorf("it is still %s", addr)
			}
		}
		i := slices.IndexFunc(s.Servers, func(r *Server) bool { return r.Addr == addr })
		primary = s.Servers[i]
		return role(ctx, primary, "master")
	})
	return primary
}

// Other is the server that is not the primary.
func (s *Sentinels) Other(t testing.TB) *Server {
	t.Helper()
	if s.Primary(t) == s.Servers[0] {
		return s.Servers[1]
	}
	return s.Servers[0]
}

// Failover has the sentinels make the replica the primary while both are alive, and
// returns it once all name it and the other follows it. Clients of the old primary are not
// told anything but by it.
func (s *Sentinels) Failover(t testing.TB) *Server {
	t.Helper()
	old := s.Primary(t)
	s.Sentinels[0].do(t, "sentinel", "failover", SentinelMaster)
	primary := s.named(t, old)
	s.settled(t)
	return primary
}

// Sever has the primary's writes from here on reach the replica never more: it stands
// still, and its connection is ended. They are lost if a failover follows within some 10 s;
// see AwaitFailover.
func (s *Sentinels) Sever(t testing.TB) {
	t.Helper()
	primary, replica := s.Primary(t), s.Other(t)
	replica.Stop(t)
	primary.do(t, "client", "kill", "type", "replica")
}

// AwaitFailover returns the new primary after old was killed or stopped.
func (s *Sentinels) AwaitFailover(t testing.TB, old *Server) *Server {
	t.Helper()
	return s.named(t, old)
}

// settled waits until every sentinel knows the two others, and the replica's link is up.
func (s *Sentinels) settled(t testing.TB) {
	t.Helper()
	await(t, "sentinels know each other and the replica", func(ctx context.Context) error {
		for _, sentinel := range s.Sentinels {
			c := sentinelClient(sentinel)
			m, err := c.Master(ctx, SentinelMaster).Result()
			if err == nil && (m["num-other-sentinels"] != "2" || m["num-slaves"] != "1" || m["flags"] != "master") {
				err = fmt.Errorf("%s sentinels, %s replicas, %s", m["num-other-sentinels"], m["num-slaves"], m["flags"])
			}
			var replicas []map[string]string
			if err == nil {
				replicas, err = c.Replicas(ctx, SentinelMaster).Result()
			}
			_ = c.Close()
			if err == nil && (len(replicas) != 1 || replicas[0]["flags"] != "slave" || replicas[0]["master-link-status"] != "ok") {
				err = fmt.Errorf("replicas %v", replicas)
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
}

func sentinelClient(s *Server) *redis.SentinelClient {
	return redis.NewSentinelClient(&redis.Options{Addr: s.Addr, Protocol: 2, DisableIdentity: true, MaxRetries: -1})
}

// linked reports an error unless the server is a replica whose primary sends to it.
func linked(ctx context.Context, s *Server) error {
	c := s.Client()
	defer func() { _ = c.Close() }()
	info, err := c.Info(ctx, "replication").Result()
	if err == nil && !strings.Contains(info, "master_link_status:up") {
		err = errors.New("it does not follow")
	}
	return err
}

// role reports an error unless the server has the role.
func role(ctx context.Context, s *Server, want string) error {
	c := s.Client()
	defer func() { _ = c.Close() }()
	reply, err := c.Do(ctx, "role").Slice()
	if err == nil && (len(reply) == 0 || reply[0] != want) {
		err = errors.New("its role is another")
	}
	return err
}

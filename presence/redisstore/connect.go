package redisstore

import (
	"context"
	"errors"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
)

// slotsReload is how old what a client knows of a Cluster's slots may be. What redirections
// and failures tell makes it look at once.
const slotsReload = 5 * time.Second

// errReplica refuses a connection.
var errReplica = errors.New("the server is a replica: it may be behind, and takes no writes")

// Connect returns a client for a Store and a bus; its caller closes it. It connects when
// it is first used. Whatever kind of Redis opt names:
//
//   - A command is sent once. What is to be repeated after a failure is for those to say
//     who know whether it may have been carried out. (A Cluster's redirections are
//     followed: nothing was carried out then.)
//   - Only primaries are asked. A connection to a server that says it is a replica is given up
//     at once, and when a primary turns out to have become one, so are all connections: its
//     address may lead elsewhere by now, or a sentinel name another.
//   - Each command of a pipeline has its own answer or error.
//   - On a Cluster, a server that does not answer has the client ask the others who
//     has its slots now.
//
// Beside addresses, credentials, database and TLS, opt's timeouts count.
func Connect(opt *redis.UniversalOptions) redis.UniversalClient {
	o := *opt
	o.MaxRetries, o.DialerRetries = -1, 1
	o.ContextTimeoutEnabled, o.DisableIdentity = true, true
	o.ReadOnly, o.RouteByLatency, o.RouteRandomly = false, false, false
	if o.IsClusterMode {
		slots := o.Cluster()
		slots.ClusterStateReloadInterval = slotsReload
		c := redis.NewClusterClient(slots)
		c.AddHook(clusterHook{c})
		return c
	}
	o.OnConnect = refuseReplica
	c := redis.NewUniversalClient(&o)
	c.AddHook(&primaryHook{conns: map[net.Conn]struct{}{}})
	return c
}

// refuseReplica asks a new connection's server for its role; one that may not be asked is taken
// for a primary.
func refuseReplica(ctx context.Context, c *redis.Conn) error {
	role, err := c.Do(ctx, "role").Slice()
	if err != nil {
		if _, said := errors.AsType[redis.Error](err); said {
			return nil
		}
		return err
	}
	if len(role) > 0 && role[0] == "slave" {
		return errReplica
	}
	return nil
}

// primaryHook ends all connections when one of them leads to a replica.
type primaryHook struct {
	mu    sync.Mutex // guards conns
	conns map[net.Conn]struct{}
}

// DialHook implements redis.Hook.
func (h *primaryHook) DialHook(next redis.DialHook) redis.DialHook {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		raw, err := next(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		var c net.Conn = &tracked{Conn: raw, h: h}
		if tcp, ok := raw.(*net.TCPConn); ok { // whose health the pool can look at
			c = &trackedTCP{TCPConn: tcp, h: h}
		}
		h.mu.Lock()
		h.conns[c] = struct{}{}
		h.mu.Unlock()
		return c, nil
	}
}

// ProcessHook implements redis.Hook.
func (h *primaryHook) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		err := next(ctx, cmd)
		if redis.IsReadOnlyError(err) {
			h.endAll()
		}
		return err
	}
}

// ProcessPipelineHook implements redis.Hook.
func (h *primaryHook) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		err := blame(cmds, next(ctx, cmds))
		for _, cmd := range cmds {
			if redis.IsReadOnlyError(cmd.Err()) {
				h.endAll()
				break
			}
		}
		return err
	}
}

func (h *primaryHook) endAll() {
	h.mu.Lock()
	conns := h.conns
	h.conns = map[net.Conn]struct{}{}
	h.mu.Unlock()
	for c := range conns {
		_ = c.Close()
	}
}

func (h *primaryHook) forget(c net.Conn) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.conns, c)
}

// tracked is a connection that a primaryHook knows of until it is closed.
type tracked struct {
	net.Conn
	h *primaryHook
}

func (c *tracked) Close() error {
	c.h.forget(c)
	return c.Conn.Close()
}

// trackedTCP is one whose socket can be looked at.
type trackedTCP struct {
	*net.TCPConn
	h *primaryHook
}

func (c *trackedTCP) Close() error {
	c.h.forget(c)
	return c.TCPConn.Close()
}

// clusterHook has a Cluster's client send commands once, and look for who has the slots of
// a server that fails.
type clusterHook struct{ client *redis.ClusterClient }

// once is a command that is not repeated after a failure.
type once struct{ redis.Cmder }

// NoRetry implements redis.Cmder.
func (once) NoRetry() bool { return true }

// DialHook implements redis.Hook.
func (clusterHook) DialHook(next redis.DialHook) redis.DialHook { return next }

// ProcessHook implements redis.Hook.
func (h clusterHook) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		err := next(ctx, once{cmd})
		if failing(err) {
			h.client.ReloadState(ctx)
		}
		return err
	}
}

// ProcessPipelineHook implements redis.Hook.
func (h clusterHook) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		single := make([]redis.Cmder, len(cmds))
		for i, cmd := range cmds {
			single[i] = once{cmd}
		}
		err := blame(cmds, next(ctx, single))
		for _, cmd := range cmds {
			if failing(cmd.Err()) {
				h.client.ReloadState(ctx)
				break
			}
		}
		return err
	}
}

// blame gives the commands of a pipeline the error why none was sent. The client leaves them without,
// and so with an empty answer, where Redis itself refuses the connection, as when its password was changed.
func blame(cmds []redis.Cmder, err error) error {
	if err == nil || slices.ContainsFunc(cmds, func(cmd redis.Cmder) bool { return cmd.Err() != nil }) {
		return err
	}
	for _, cmd := range cmds {
		cmd.SetErr(err)
	}
	return err
}

// failing reports whether the server that was asked may not be the one to ask any more.
func failing(err error) bool {
	if err == nil || errors.Is(err, context.Canceled) {
		return false
	}
	if _, answered := errors.AsType[redis.Error](err); answered {
		return redis.IsClusterDownError(err) || redis.IsReadOnlyError(err) || redis.IsMasterDownError(err)
	}
	return true
}

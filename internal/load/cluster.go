package load

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/redis/go-redis/v9"
)

// The credentials of the nodes of a cluster.
const (
	clusterAccount   = "AC00000000000000000000000000000a0d"
	clusterAuthToken = "10ad0000000000000000000000000001"
	clusterKeySID    = "SK00000000000000000000000000000a0d"
	clusterKeySecret = "10ad0000000000000000000000000002"
)

// cluster is a redis-server and nodes that a run started on loopback for itself.
type cluster struct {
	dir, binary string
	env         []string
	lost        func(error) // told of a process that ended by itself
	redis       *process
	redisAddr   string
	nodes       []*node
}

type node struct {
	*process
	Addr      string `json:"addr"`
	AdminAddr string `json:"admin_addr"`
}

// process is one that was started, and whose output is kept for the case that it fails.
type process struct {
	cmd     *exec.Cmd
	done    chan struct{} // closed when it has ended
	out     *tail
	stopped atomic.Bool // it was told to end
}

// tail keeps the last of what a process printed.
type tail struct {
	mu sync.Mutex // guards b
	b  []byte
}

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.b = append(t.b, p...); len(t.b) > 8<<10 {
		t.b = bytes.Clone(t.b[len(t.b)-4<<10:])
	}
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.TrimSpace(string(t.b))
}

// start starts a process with further environment. It lives until it is told to stop; lost is called if it does not.
func start(name string, args, env []string, lost func(error)) (*process, error) {
	p := &process{cmd: exec.Command(name, args...), done: make(chan struct{}), out: &tail{}}                         //nolint:gosec,noctx // the user's own; stop ends it
	p.cmd.Env = slices.DeleteFunc(p.cmd.Environ(), func(v string) bool { return strings.HasPrefix(v, "ROLLCALL_") }) // those are of the user's own nodes
	p.cmd.Env = append(p.cmd.Env, env...)
	p.cmd.Stdout, p.cmd.Stderr, p.cmd.SysProcAttr = p.out, p.out, apart()
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	go func() { // joined by stop
		defer close(p.done)
		if err := p.cmd.Wait(); !p.stopped.Load() {
			lost(p.ended(err))
		}
	}()
	return p, nil
}

// ended tells what a process said that ended by itself.
func (p *process) ended(err error) error {
	return fmt.Errorf("%s ended (%w): %s", filepath.Base(p.cmd.Path), cmp.Or(err, errors.New("exit status 0")), p.out)
}

// stop ends the process as an orchestrator does, and kills it if that takes too long.
func (p *process) stop(within time.Duration) error {
	p.stopped.Store(true)
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.done:
		return nil
	case <-time.After(within):
		_ = p.cmd.Process.Kill()
		<-p.done
		return fmt.Errorf("%s did not end within %v of SIGTERM", filepath.Base(p.cmd.Path), within)
	}
}

// ready calls check until it succeeds, the process ends, or 20 s are over.
func (p *process) ready(ctx context.Context, check func() error) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	for {
		err := check()
		if err == nil {
			return nil
		}
		select {
		case <-p.done:
			return fmt.Errorf("%s ended: %s", filepath.Base(p.cmd.Path), p.out)
		case <-ctx.Done():
			return fmt.Errorf("%s does not answer: %w: %w", filepath.Base(p.cmd.Path), context.Cause(ctx), err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// startCluster starts nodes on a redis-server of their own, or on one that is there. lost is
// told of one that ends by itself.
func startCluster(ctx context.Context, binary, redisURL string, nodes int, env []string, lost func(error)) (c *cluster, err error) {
	c = &cluster{binary: binary, lost: lost}
	defer func() {
		if err != nil {
			c.stop()
		}
	}()
	if c.dir, err = os.MkdirTemp("", "rollcall-load-"); err != nil {
		return c, err
	}
	if redisURL == "" {
		if err := c.startRedis(ctx); err != nil {
			return c, err
		}
		redisURL = "redis://" + c.redisAddr
	}
	c.env = append([]string{
		"ROLLCALL_REDIS_URL=" + redisURL, "ROLLCALL_ACCOUNT_SID=" + clusterAccount, "ROLLCALL_AUTH_TOKEN=" + clusterAuthToken,
		"ROLLCALL_API_KEY_SID=" + clusterKeySID, "ROLLCALL_API_KEY_SECRET=" + clusterKeySecret,
		"ROLLCALL_ACCEPT_RATE=100000", "ROLLCALL_ACCEPT_BURST=100000", "ROLLCALL_LOG_LEVEL=error",
	}, env...)
	for i := range nodes {
		n, err := c.startNode(ctx, i, "127.0.0.1:0")
		if err != nil {
			return c, fmt.Errorf("starting node %d: %w", i+1, err)
		}
		c.nodes = append(c.nodes, n)
	}
	return c, nil
}

func (c *cluster) startRedis(ctx context.Context) error {
	path, err := exec.LookPath("redis-server")
	if err != nil {
		return errors.New("a run that starts nodes needs redis-server in PATH, or --redis")
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0") // a port that is free
	if err != nil {
		return err
	}
	c.redisAddr = l.Addr().String()
	_, port, _ := net.SplitHostPort(c.redisAddr)
	_ = l.Close()
	if c.redis, err = start(path, []string{"--port", port, "--bind", "127.0.0.1", "--dir", c.dir, "--save", ""}, nil, c.lost); err != nil {
		return err
	}
	r := redis.NewClient(&redis.Options{Addr: c.redisAddr})
	defer func() { _ = r.Close() }()
	return c.redis.ready(ctx, func() error { return r.Ping(ctx).Err() })
}

func (c *cluster) startNode(ctx context.Context, i int, addr string) (*node, error) {
	file := filepath.Join(c.dir, "node"+strconv.Itoa(i))
	_ = os.Remove(file)
	p, err := start(c.binary, []string{"serve"}, append([]string{"ROLLCALL_ADDR=" + addr, "ROLLCALL_ADMIN_ADDR=127.0.0.1:0", "ROLLCALL_READY_FILE=" + file}, c.env...), c.lost)
	if err != nil {
		return nil, err
	}
	n := &node{process: p}
	if err := p.ready(ctx, func() error {
		data, err := os.ReadFile(file) //nolint:gosec // in our own directory
		if err == nil {
			err = json.Unmarshal(data, n)
		}
		return err
	}); err != nil {
		_ = p.stop(0)
		return nil, err
	}
	return n, nil
}

// restart stops a node as an orchestrator does, and starts it again at its address.
func (c *cluster) restart(ctx context.Context, i int) error {
	if err := c.nodes[i].stop(time.Minute); err != nil {
		return err
	}
	n, err := c.startNode(ctx, i, c.nodes[i].Addr)
	if err == nil {
		c.nodes[i] = n
	}
	return err
}

func (c *cluster) stop() {
	for _, n := range c.nodes {
		_ = n.stop(0) // nobody is left who could mind
	}
	if c.redis != nil {
		_ = c.redis.stop(5 * time.Second)
	}
	if c.dir != "" {
		_ = os.RemoveAll(c.dir)
	}
}

// Package testkit starts what tests need: Redis servers, embedded and real.
package testkit

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"
)

// Mini returns a client of a fresh miniredis that talks over net.Pipe, so that it
// may be used in a synctest bubble. Both end with the test.
func Mini(t testing.TB) (*miniredis.Miniredis, *redis.Client) {
	t.Helper()
	m := miniredis.NewMiniRedis()
	if err := m.StartAddr("127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.Close)
	c := redis.NewClient(&redis.Options{Addr: m.Addr(), Protocol: 2, DisableIdentity: true, MaxRetries: -1})
	t.Cleanup(func() { _ = c.Close() })
	return m, c
}

// Server is a real redis-server of a test.
type Server struct {
	Addr string // TCP on 127.0.0.1
	Dir  string // its working directory, kept over restarts
	args []string
	opt  redis.Options // of its clients, beside the address
	cmd  *exec.Cmd
	done chan struct{} // closed when the process has ended
	held atomic.Bool   // by Stop
}

// Redis starts a redis-server on a free loopback port with the given further
// arguments and waits until it answers. It is killed when the test ends. A machine
// without redis-server fails the test if CI=true and skips it otherwise.
func Redis(t testing.TB, args ...string) *Server {
	t.Helper()
	return launch(t, redis.Options{}, func(_ testing.TB, dir, port string) []string {
		return append([]string{"--port", port, "--bind", "127.0.0.1", "--dir", dir, "--save", "", "--logfile", filepath.Join(dir, "redis.log")}, args...)
	})
}

// NeedRedis fails the test on a machine without redis-server if CI=true, and skips it otherwise.
func NeedRedis(t testing.TB) {
	t.Helper()
	if _, err := exec.LookPath("redis-server"); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("redis-server is not installed")
		}
		t.Skip("redis-server is not installed")
	}
}

// launch starts a redis-server with the arguments that args tells for a directory and a
// port, as Redis does.
func launch(t testing.TB, opt redis.Options, args func(t testing.TB, dir, port string) []string) *Server {
	t.Helper()
	NeedRedis(t)
	s := &Server{Dir: t.TempDir(), opt: opt}
	for attempt := 1; ; attempt++ { // somebody else may have taken the port meanwhile
		s.Addr = FreeAddr(t)
		_, port, _ := net.SplitHostPort(s.Addr)
		s.args = args(t, s.Dir, port)
		err := s.start()
		if err == nil {
			break
		}
		s.Kill()
		if attempt == 3 {
			t.Fatal(err)
		}
	}
	t.Cleanup(s.Kill)
	return s
}

// FreeAddr is an address on 127.0.0.1 that was free a moment ago.
func FreeAddr(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // returns at once
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().String()
}

// Start starts the server again after Kill.
func (s *Server) Start(t testing.TB) {
	t.Helper()
	if err := s.start(); err != nil {
		t.Fatal(err)
	}
}

// start returns once the server answers.
func (s *Server) start() error {
	s.cmd = exec.Command("redis-server", s.args...) //nolint:gosec,noctx // lives as long as the test
	done := make(chan struct{})
	s.done = done
	s.held.Store(false)
	if err := s.cmd.Start(); err != nil {
		close(done)
		return err
	}
	cmd := s.cmd
	go func() { _ = cmd.Wait(); close(done) }()
	c := s.Client()
	defer func() { _ = c.Close() }()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	for {
		if c.Ping(ctx).Err() == nil {
			return nil
		}
		select {
		case <-done:
			return fmt.Errorf("redis-server %v ended at once", s.args)
		case <-ctx.Done():
			return fmt.Errorf("redis-server %v does not answer", s.args)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// Client returns a new client; its caller closes it.
func (s *Server) Client() *redis.Client {
	opt := s.opt
	opt.Addr, opt.Protocol, opt.DisableIdentity, opt.MaxRetries = s.Addr, 2, true, -1
	return redis.NewClient(&opt)
}

// do runs a command on the server, or ends the test.
func (s *Server) do(t testing.TB, args ...any) *redis.Cmd {
	t.Helper()
	c := s.Client()
	defer func() { _ = c.Close() }()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	cmd := c.Do(ctx, args...)
	if err := cmd.Err(); err != nil {
		t.Fatalf("%v on %s: %v", args, s.Addr, err)
	}
	return cmd
}

// Process is the server's process, for signals.
func (s *Server) Process() *os.Process { return s.cmd.Process }

// Stop makes the server stand still, with its connections open, until Cont.
func (s *Server) Stop(t testing.TB) {
	t.Helper()
	s.held.Store(true)
	s.signal(t, syscall.SIGSTOP)
}

// Cont lets the server go on after Stop.
func (s *Server) Cont(t testing.TB) {
	t.Helper()
	s.signal(t, syscall.SIGCONT)
	s.held.Store(false)
}

// alive reports whether the server runs and is not stopped.
func (s *Server) alive() bool {
	select {
	case <-s.done:
		return false
	default:
		return !s.held.Load()
	}
}

func (s *Server) signal(t testing.TB, sig os.Signal) {
	t.Helper()
	if err := s.cmd.Process.Signal(sig); err != nil {
		t.Fatalf("%v to %s: %v", sig, s.Addr, err)
	}
}

// Kill kills the server and waits for its end. It may be called twice.
func (s *Server) Kill() {
	if s.cmd.Process == nil { // it never began
		return
	}
	if err := s.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		panic(err)
	}
	<-s.done
}

// await waits until f returns nil, for what follows from what other processes do.
func await(t testing.TB, what string, f func(ctx context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	var last error
	for {
		err := f(ctx)
		if err == nil {
			return
		}
		if ctx.Err() == nil {
			last = err
		}
		select {
		case <-ctx.Done():
			t.Fatalf("not within a minute: %s: %v", what, last)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

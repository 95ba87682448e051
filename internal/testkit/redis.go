// Package testkit starts what tests need: Redis servers, embedded and real.
package testkit

import (
	"context"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
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
	cmd  *exec.Cmd
	done chan struct{}
}

// Redis starts a redis-server on a free loopback port with the given further
// arguments and waits until it answers. It is killed when the test ends. A machine
// without redis-server fails the test if CI=true and skips it otherwise.
func Redis(t testing.TB, args ...string) *Server {
	t.Helper()
	if _, err := exec.LookPath("redis-server"); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("redis-server is not installed")
		}
		t.Skip("redis-server is not installed")
	}
	s := &Server{Addr: FreeAddr(t), Dir: t.TempDir(), args: args}
	s.Start(t)
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
	_, port, _ := net.SplitHostPort(s.Addr)
	args := append([]string{"--port", port, "--bind", "127.0.0.1", "--dir", s.Dir, "--save", "", "--logfile", filepath.Join(s.Dir, "redis.log")}, s.args...)
	s.cmd = exec.Command("redis-server", args...) //nolint:gosec,noctx // lives as long as the test
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	cmd, done := s.cmd, make(chan struct{})
	s.done = done
	go func() { _ = cmd.Wait(); close(done) }()
	c := s.Client()
	defer func() { _ = c.Close() }()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	for {
		if c.Ping(ctx).Err() == nil {
			return
		}
		select {
		case <-done:
			t.Fatal("redis-server ended at once")
		case <-ctx.Done():
			t.Fatal("redis-server does not answer")
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// Client returns a new client; its caller closes it.
func (s *Server) Client() *redis.Client {
	return redis.NewClient(&redis.Options{Addr: s.Addr, Protocol: 2, DisableIdentity: true, MaxRetries: -1})
}

// Process is the server's process, for signals.
func (s *Server) Process() *os.Process { return s.cmd.Process }

// Kill kills the server and waits for its end. It may be called twice.
func (s *Server) Kill() {
	if err := s.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		panic(err)
	}
	<-s.done
}

package load

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// script is a program that does what a shell is told.
func script(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "rollcall")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+text), 0o700); err != nil {
		t.Fatal(err)
	}
	return path
}

// stands in for a node that is ready, and ends when it is told to.
const ready = `echo "{\"addr\":\"$ROLLCALL_ADDR\",\"admin_addr\":\"127.0.0.1:2\"}" > "$ROLLCALL_READY_FILE"
exec sleep 600`

// temp has temporary files made in a directory of the test's own, which it returns.
func temp(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	t.Setenv("TMPDIR", dir)
	return dir
}

func leftovers(t *testing.T, dir string) {
	t.Helper()
	if list, err := os.ReadDir(dir); err != nil || len(list) > 0 {
		t.Errorf("left behind: %v, %v", list, err)
	}
}

func TestClusterThatCannotStart(t *testing.T) {
	for name, tt := range map[string]struct {
		path, binary, redis string
		want                []string
	}{
		"no redis-server": {"", "/bin/true", "", []string{"needs redis-server in PATH, or --redis"}},
		"a redis-server that ends": {
			"echo 'bad directive' >&2; exit 1", "/bin/true", "", []string{"redis-server ended", "bad directive"},
		},
		"no such program":      {"", "/nowhere/rollcall", "redis://127.0.0.1:1", []string{"starting node 1", "/nowhere/rollcall", "no such file"}},
		"a node that ends":     {"", "echo 'no store' >&2; exit 3", "redis://127.0.0.1:1", []string{"starting node 1", "ended", "no store"}},
		"one of two that ends": {"", `case $ROLLCALL_READY_FILE in *node1) echo luck; exit 3; esac` + "\n" + ready, "redis://127.0.0.1:1", []string{"starting node 2", "luck"}},
	} {
		t.Run(name, func(t *testing.T) {
			path := t.TempDir()
			if tt.path != "" {
				if err := os.Rename(script(t, tt.path), filepath.Join(path, "redis-server")); err != nil {
					t.Fatal(err)
				}
			}
			binary := tt.binary
			if !strings.HasPrefix(binary, "/") {
				binary = script(t, binary)
			}
			if tt.redis == "" {
				t.Setenv("PATH", path)
			}
			dir := temp(t)
			c, err := startCluster(t.Context(), binary, tt.redis, 2, nil, func(error) {})
			if err == nil {
				c.stop()
				t.Fatal("it started")
			}
			for _, want := range tt.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("startCluster = %v; want one about %q", err, want)
				}
			}
			leftovers(t, dir)
			for _, n := range c.nodes {
				if err := n.cmd.Process.Signal(syscall.Signal(0)); !errors.Is(err, os.ErrProcessDone) {
					t.Errorf("a node that was started still runs: %v", err)
				}
			}
		})
	}
}

// A node is restarted at its address; one that dies by itself is told of, one that was stopped is not.
func TestCluster(t *testing.T) {
	t.Setenv("ROLLCALL_LINGER", "not for nodes of a run")
	dir := temp(t)
	lost := make(chan error, 2)
	binary := script(t, `[ -z "$ROLLCALL_LINGER" ] && [ "$ROLLCALL_X" = y ] && [ -n "$PATH" ] || exit 4`+"\n"+ready)
	c, err := startCluster(t.Context(), binary, "redis://127.0.0.1:1", 2, []string{"ROLLCALL_X=y"}, func(err error) { lost <- err })
	if err != nil {
		t.Fatal(err)
	}
	defer c.stop()
	first := c.nodes[0].process
	c.nodes[0].Addr = "127.0.0.1:7" // not that of all nodes
	if err := c.restart(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	if c.nodes[0].process == first || c.nodes[0].Addr != "127.0.0.1:7" || c.nodes[0].AdminAddr != "127.0.0.1:2" {
		t.Errorf("after the restart it is %+v", c.nodes[0])
	}
	select {
	case err := <-lost:
		t.Errorf("told of %v, which was stopped", err)
	default:
	}
	if err := c.nodes[1].cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := <-lost; !strings.Contains(err.Error(), "ended (signal: killed)") {
		t.Errorf("told of %v", err)
	}
	c.stop()
	leftovers(t, dir)
	for _, n := range c.nodes {
		<-n.done
	}
}

// Who does not end when told to is killed, which is told.
func TestStopOfAProcessThatDoesNotEnd(t *testing.T) {
	out := filepath.Join(t.TempDir(), "up")
	p, err := start(script(t, `trap "" TERM; touch `+out+`; while :; do sleep 0.05; done`), nil, nil, func(error) {})
	if err != nil {
		t.Fatal(err)
	}
	if err := p.ready(t.Context(), func() error { _, err := os.Stat(out); return err }); err != nil {
		t.Fatal(err)
	}
	if err := p.stop(50 * time.Millisecond); err == nil || !strings.Contains(err.Error(), "did not end within 50ms of SIGTERM") {
		t.Errorf("stop = %v", err)
	}
}

// The user's command is told which node; what it leaves running does not keep the run waiting.
func TestRestartByCommand(t *testing.T) {
	dir := temp(t)
	pid := filepath.Join(t.TempDir(), "pid")
	if err := restart(t.Context(), `sleep 600 & echo $! $NODE > `+pid, 3); err != nil {
		t.Error(err)
	}
	data, err := os.ReadFile(pid)
	left, node, _ := strings.Cut(strings.TrimSpace(string(data)), " ")
	if err != nil || node != "3" {
		t.Errorf("the command was told node %q, %v; want 3", node, err)
	}
	if err := exec.Command("kill", left).Run(); err != nil {
		t.Errorf("what the command left running: %v", err)
	}
	if err := restart(t.Context(), `echo no such unit >&2; exit 5`, 1); err == nil || !strings.Contains(err.Error(), "node 1: exit status 5: no such unit") {
		t.Errorf("restart = %v", err)
	}
	leftovers(t, dir)
}

// The last of what a process printed is kept.
func TestTail(t *testing.T) {
	var b tail
	for range 1000 {
		_, _ = b.Write([]byte("one of many lines\n"))
	}
	_, _ = b.Write([]byte("the last\n"))
	if s := b.String(); len(s) > 8<<10 || !strings.HasSuffix(s, "\nthe last") {
		t.Errorf("%d bytes are kept, at the end %q", len(s), s[max(0, len(s)-20):])
	}
}

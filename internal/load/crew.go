package load

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"
)

// fileLimit is how many files a process may open.
func fileLimit() (int, error) {
	var r syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &r); err != nil {
		return 0, err
	}
	return int(min(r.Max, 1<<20)), nil //nolint:gosec // G115: bounded; Go raises the soft limit to the hard one
}

// child is a process of this program that does a part of a run. Its standard input and
// output are how one talks to it.
type child struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
	err *tail
}

func startChild(env []string, args ...string) (*child, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	c := &child{cmd: exec.Command(self, args...), err: &tail{}} //nolint:gosec,noctx // ourselves; close ends it
	c.cmd.Env = append(os.Environ(), env...)
	c.cmd.Stderr = c.err
	if c.in, err = c.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	c.out = bufio.NewReaderSize(out, 64<<10)
	return c, c.cmd.Start()
}

// line is the next line that the child says.
func (c *child) line() (string, error) {
	s, err := c.out.ReadString('\n')
	if err != nil {
		return "", fmt.Errorf("%w: %s", err, c.err)
	}
	return strings.TrimSpace(s), nil
}

// close has the child end, and kills it if it does not.
func (c *child) close() {
	_ = c.in.Close()
	t := time.AfterFunc(10*time.Second, func() { _ = c.cmd.Process.Kill() })
	defer t.Stop()
	_ = c.cmd.Wait()
}

// crew are the workers of a run.
type crew struct {
	children []*child
	done     []chan status // what each says of orders
	readers  sync.WaitGroup
}

// startCrew starts workers, whose figures go into totals.
func startCrew(n int, partOf func(i int) part, totals *totals) (*crew, error) {
	c := &crew{}
	for i := range n {
		ch, err := startChild(nil, "worker")
		if err == nil {
			err = json.NewEncoder(ch.in).Encode(partOf(i))
		}
		if err != nil {
			c.close()
			return nil, fmt.Errorf("starting process %d: %w", i+1, err)
		}
		done := make(chan status, 1)
		c.children, c.done = append(c.children, ch), append(c.done, done)
		c.readers.Go(func() {
			defer close(done)
			for lines := json.NewDecoder(ch.out); ; {
				var s status
				if lines.Decode(&s) != nil {
					return
				}
				totals.take(i, s)
				if s.Done != "" {
					done <- s
				}
			}
		})
	}
	return c, nil
}

// order tells all workers to do something and waits until all have done it.
func (c *crew) order(ctx context.Context, o order) error {
	_, err := c.tell(ctx, o)
	return err
}

// settle is how many acts watchers have yet to see.
func (c *crew) settle(ctx context.Context) (int64, error) { return c.tell(ctx, order{Do: "settle"}) }

func (c *crew) tell(ctx context.Context, o order) (behind int64, err error) {
	for i, ch := range c.children {
		if err := json.NewEncoder(ch.in).Encode(o); err != nil {
			return 0, fmt.Errorf("process %d: %w: %s", i+1, err, ch.err)
		}
	}
	for i, done := range c.done {
		select {
		case <-ctx.Done():
			return 0, ctx.Err()
		case s, ok := <-done:
			switch {
			case !ok:
				return 0, fmt.Errorf("process %d ended: %s", i+1, c.children[i].err)
			case s.Error != "":
				return 0, fmt.Errorf("process %d: %s", i+1, s.Error)
			}
			behind += s.Behind
		}
	}
	return behind, nil
}

func (c *crew) close() {
	for _, ch := range c.children {
		ch.close()
	}
	c.readers.Wait()
}

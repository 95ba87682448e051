package load

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"time"
)

// child is a process of this program that does a part of a run. Its standard input and
// output are how one talks to it.
type child struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
	err *tail
	// ended waits until it has; for whoever has read all that it says.
	ended func() error
}

func startChild(arg string) (*child, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	c := &child{cmd: exec.Command(self, arg), err: &tail{}} //nolint:gosec,noctx // ourselves; close ends it
	c.cmd.Stderr, c.cmd.SysProcAttr, c.ended = c.err, apart(), sync.OnceValue(c.cmd.Wait)
	if c.in, err = c.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	c.out = bufio.NewReaderSize(out, 64<<10)
	if err := c.cmd.Start(); err != nil {
		return nil, err
	}
	return c, nil
}

// line is the next line that the child says.
func (c *child) line() (string, error) {
	s, err := c.out.ReadString('\n')
	if err != nil {
		return "", c.end()
	}
	return strings.TrimSpace(s), nil
}

// end tells how a child ended that says nothing more.
func (c *child) end() error {
	err := c.ended()
	return fmt.Errorf("it ended: %s", strings.TrimSpace(fmt.Sprintln(cmp.Or(err, errors.New("by itself")), c.err)))
}

// closeAll has children end, and kills those that do not within a time; wait returns when they have.
func closeAll(children []*child, wait func()) {
	for _, c := range children {
		_ = c.in.Close()
	}
	t := time.AfterFunc(10*time.Second, func() {
		for _, c := range children {
			_ = c.cmd.Process.Kill()
		}
	})
	defer t.Stop()
	wait()
}

// crew are the workers of a run.
type crew struct {
	children []*child
	said     chan said // room for all that children can say before they are told something again
	readers  sync.WaitGroup
}

// said is what a worker says of an order, or how it ended.
type said struct {
	worker int
	status
	ended error
}

// startCrew starts workers, whose figures go into totals.
func startCrew(n int, partOf func(i int) part, totals *totals) (*crew, error) {
	c := &crew{said: make(chan said, 2*n)}
	for i := range n {
		ch, err := startChild("worker")
		if err != nil {
			c.close()
			return nil, fmt.Errorf("starting process %d: %w", i+1, err)
		}
		c.children = append(c.children, ch)
		_ = json.NewEncoder(ch.in).Encode(partOf(i)) // if it is not there to read that, it has ended, which it is found to have
		c.readers.Go(func() {
			for lines := json.NewDecoder(ch.out); ; {
				var s status
				if lines.Decode(&s) != nil {
					c.said <- said{worker: i, ended: ch.end()}
					return
				}
				totals.take(i, s)
				if s.Done != "" {
					c.said <- said{worker: i, status: s}
				}
			}
		})
	}
	return c, nil
}

// order tells all workers to do something and waits until all have done it, or one cannot.
func (c *crew) order(ctx context.Context, o order) error {
	_, err := c.tell(ctx, o)
	return err
}

// settle is how many acts watchers have yet to see.
func (c *crew) settle(ctx context.Context) (int64, error) { return c.tell(ctx, order{Do: "settle"}) }

func (c *crew) tell(ctx context.Context, o order) (behind int64, err error) {
	if err := context.Cause(ctx); err != nil {
		return 0, err
	}
	for _, ch := range c.children {
		_ = json.NewEncoder(ch.in).Encode(o) // as above
	}
	for range c.children {
		select {
		case <-ctx.Done():
			return 0, context.Cause(ctx)
		case s := <-c.said:
			switch {
			case s.ended != nil:
				return 0, fmt.Errorf("process %d: %w", s.worker+1, s.ended)
			case s.Error != "":
				return 0, fmt.Errorf("process %d: %s", s.worker+1, s.Error)
			}
			behind += s.Behind
		}
	}
	return behind, nil
}

func (c *crew) close() { closeAll(c.children, c.readers.Wait) }

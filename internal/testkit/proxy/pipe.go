package proxy

import (
	"io"
	"net"
	"sync"
	"time"
)

// room bounds what waits in one direction; beyond it nothing more is read.
const room = 256 << 10

// pipe is one direction of a connection: fill takes bytes in, drain passes them on as
// the flow says.
type pipe struct {
	mu      sync.Mutex // guards the following
	changed *sync.Cond
	flow    Flow
	left    int // bytes until the cut, if flow.Cut is set
	chunks  []chunk
	size    int  // of all chunks
	ended   bool // no more comes
	aborted bool // nothing is passed on any more
}

type chunk struct {
	b    []byte
	came time.Time
}

func newPipe() *pipe {
	p := &pipe{}
	p.changed = sync.NewCond(&p.mu)
	return p
}

func (p *pipe) set(f Flow) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.flow, p.left = f, f.Cut
	p.changed.Broadcast()
}

func (p *pipe) abort() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.aborted = true
	p.changed.Broadcast()
}

func (p *pipe) waiting() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.size
}

// fill reads until the end. look, if set, sees what was read before drain does.
func (p *pipe) fill(from io.Reader, look func([]byte)) {
	for {
		b := make([]byte, 16<<10)
		n, err := from.Read(b)
		if n > 0 && look != nil {
			look(b[:n])
		}
		p.mu.Lock()
		if n > 0 {
			p.chunks = append(p.chunks, chunk{b[:n], time.Now()})
			p.size += n
		}
		p.ended = p.ended || err != nil
		p.changed.Broadcast()
		for p.size >= room && !p.aborted {
			p.changed.Wait()
		}
		over := p.ended || p.aborted
		p.mu.Unlock()
		if over {
			return
		}
	}
}

// drain writes what may pass until all has passed, or the connection ends. cut is
// called when the flow says that it does.
func (p *pipe) drain(to net.Conn, cut func()) {
	for {
		b, pause, over := p.next()
		if over {
			// the peer is told of the end only; it may go on sending
			_ = to.(*net.TCPConn).CloseWrite()
			return
		}
		if _, err := to.Write(b); err != nil {
			cut()
			return
		}
		if p.passed(len(b)) {
			cut()
			return
		}
		p.wait(pause)
	}
}

// next waits for the next piece that may pass, and tells how long to wait after it.
func (p *pipe) next() (b []byte, pause time.Duration, over bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for {
		switch {
		case p.aborted:
			return nil, 0, true
		case p.flow.Hole: // also the end is held back
		case len(p.chunks) == 0:
			if p.ended {
				return nil, 0, true
			}
		default:
			if due := time.Until(p.chunks[0].came.Add(p.flow.Latency)); due > 0 {
				p.waitLocked(due)
				continue
			}
			b, f := p.chunks[0].b, p.flow
			if f.Rate > 0 {
				b = b[:min(len(b), max(1, f.Rate/20))]
				pause = time.Duration(len(b)) * time.Second / time.Duration(f.Rate)
			}
			if f.Cut > 0 {
				b = b[:min(len(b), p.left)]
			}
			return b, pause, false
		}
		p.changed.Wait()
	}
}

// passed takes what was written out of what waits, and reports whether the connection
// ends here.
func (p *pipe) passed(n int) (cut bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if c := &p.chunks[0]; n < len(c.b) {
		c.b = c.b[n:]
	} else {
		p.chunks = p.chunks[1:]
	}
	p.size -= n
	p.left = max(0, p.left-n)
	p.changed.Broadcast()
	return p.flow.Cut > 0 && p.left == 0
}

// wait waits for so long; less if the flow changes meanwhile.
func (p *pipe) wait(d time.Duration) {
	if d <= 0 {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	flow := p.flow
	for until := time.Now().Add(d); time.Now().Before(until) && p.flow == flow && !p.aborted; {
		p.waitLocked(time.Until(until))
	}
}

// waitLocked waits until something changes, for so long at most.
func (p *pipe) waitLocked(d time.Duration) {
	timer := time.AfterFunc(d, func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.changed.Broadcast()
	})
	p.changed.Wait()
	timer.Stop()
}

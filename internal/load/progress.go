package load

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"
)

// Progress tells how a run goes on: on a terminal in one line that changes, else in plain
// lines, one every ten seconds and one for each phase. A nil Progress is silent.
type Progress struct {
	w        io.Writer
	terminal bool

	mu    sync.Mutex // guards the following
	began time.Time
	want  int64  // sessions that are to be open at the end of the phase; 0 if that says nothing
	since second // what the seconds since the last plain line add up to
	n     float64
}

// NewProgress writes to f; if that is a terminal, to one of the kind term, as in $TERM.
func NewProgress(f *os.File, term string) *Progress {
	i, err := f.Stat()
	return &Progress{w: f, terminal: err == nil && i.Mode()&os.ModeCharDevice != 0 && term != "dumb"}
}

// phase says what goes on from now on.
func (p *Progress) phase(name string) { p.target(name, 0) }

// target is phase for one that opens sessions.
func (p *Progress) target(name string, sessions int) {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.clear()
	p.began, p.want, p.since, p.n = time.Now(), int64(sessions), second{}, 0
	fmt.Fprintln(p.w, name)
}

const width = 24

// live tells of a second.
func (p *Progress) live(s second) {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.terminal {
		sum := &p.since
		sum.opens, sum.acts, sum.events, sum.cpu, sum.p99 = sum.opens+s.opens, sum.acts+s.acts, sum.events+s.events, sum.cpu+s.cpu, max(sum.p99, s.p99)
		if p.n++; p.n == 10 {
			s.opens, s.acts, s.events, s.cpu, s.p99 = sum.opens/p.n, sum.acts/p.n, sum.events/p.n, sum.cpu/p.n, sum.p99
			fmt.Fprintln(p.w, p.text(s))
			p.since, p.n = second{}, 0
		}
		return
	}
	text := p.text(s)
	if p.want > 0 {
		full := int(min(max(s.Open, 0)*width/p.want, width))
		text = "[" + strings.Repeat("#", full) + strings.Repeat(".", width-full) + "]" + text
	}
	p.clear()
	fmt.Fprint(p.w, text)
}

func (p *Progress) text(s second) string {
	text := fmt.Sprintf("%4.0fs  %d open  %.0f connects/s  %.0f acts/s  %.0f events/s  p99 %.1f ms  CPU %.0f%%",
		time.Since(p.began).Seconds(), s.Open, s.opens, s.acts, s.events, s.p99, s.cpu)
	if bad := s.Unexpected + s.Disordered; bad > 0 {
		text += fmt.Sprintf("  %d WRONG", bad)
	}
	return text
}

// clear makes room for the next line.
func (p *Progress) clear() {
	if p.terminal {
		fmt.Fprint(p.w, "\r\x1b[K")
	}
}

// End leaves the terminal's line.
func (p *Progress) End() {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.clear()
}

package load

import (
	"context"
	"encoding/json"
	"io"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"
)

// crewOfOne is a worker of this process, with all sessions of a scenario, whose dialers run.
func (f *fake) crewOfOne(t *testing.T, scenario string, change func(s *Settings)) *worker {
	t.Helper()
	opt := f.options()
	opt.Scenario, opt.Service, opt.Linger = scenario, fakeService, 10*time.Second
	if change != nil {
		change(&opt.Settings)
	}
	b, name, err := newBoard(opt.users())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.close)
	w, err := newWorker(part{Settings: opt.Settings, Of: 1, Board: name})
	if err != nil {
		t.Fatal(err)
	}
	remove(t, name)
	w.patience, w.echo = 300*time.Millisecond, 0
	ctx, fail := context.WithCancelCause(t.Context())
	w.fail = fail
	var dialers sync.WaitGroup
	for range parallelDials {
		dialers.Go(func() { w.serveDials(ctx) })
	}
	t.Cleanup(func() {
		fail(nil)
		dialers.Wait()
		w.abandon()
		w.board.close()
	})
	return w
}

func (w *worker) seen(t *testing.T) counts {
	t.Helper()
	c, _, err := w.tally.take()
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// All sessions come back from a storm, when they are due; those that are back within the
// linger are not excused, the others are.
func TestStorm(t *testing.T) {
	for name, tt := range map[string]struct {
		back, linger time.Duration
		lenient      bool
	}{
		"within the linger": {200 * time.Millisecond, 2 * time.Second, false},
		"after it":          {300 * time.Millisecond, 500 * time.Millisecond, true}, // judged at once
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := startFake(t).crewOfOne(t, "storm", func(s *Settings) { s.Actors, s.Back, s.Linger = 0, tt.back, tt.linger })
			if _, err := w.do(t.Context(), order{Do: "ramp", At: time.Now()}); err != nil {
				t.Fatal(err)
			}
			if c := w.seen(t); c.Open != watchers || c.Opened != watchers || c.Acts != watchers {
				t.Errorf("after the ramp: %+v", c)
			}
			if _, err := w.do(t.Context(), order{Do: "act", At: time.Now()}); err != nil {
				t.Fatal(err)
			}
			behind, err := w.do(t.Context(), order{Do: "settle"})
			c := w.seen(t)
			if err != nil || behind != 0 || c.Open != watchers || c.Opened != 2*watchers || len(c.Lost) > 0 || c.Unexpected+c.Disordered > 0 {
				t.Errorf("after the storm: %+v, %d behind, %v", c, behind, err)
			}
			if (c.Lenient > 0) != tt.lenient {
				t.Errorf("%d users were excused; want any: %t", c.Lenient, tt.lenient)
			}
			if c.BackMS < tt.back.Milliseconds()*(watchers-1)/watchers {
				t.Errorf("all were back in %d ms; the last was due later", c.BackMS)
			}
			if _, err := w.do(t.Context(), order{Do: "end"}); err != nil || w.seen(t).Open != 0 {
				t.Errorf("after the end: %+v, %v", w.seen(t), err)
			}
		})
	}
}

// Pages that are loaded again are no connections lost, and nobody hears of them.
func TestReload(t *testing.T) {
	t.Parallel()
	w := startFake(t).crewOfOne(t, "reload", func(s *Settings) {
		s.Actors, s.Acts, s.Back, s.Linger = 0, 20, 50*time.Millisecond, 100*time.Millisecond
	})
	for _, o := range []order{{Do: "ramp", At: time.Now()}, {Do: "act", At: time.Now(), In: 500 * time.Millisecond}} {
		if _, err := w.do(t.Context(), o); err != nil {
			t.Fatal(err)
		}
	}
	behind, err := w.do(t.Context(), order{Do: "settle"})
	c := w.seen(t)
	acts := c.Acts - watchers
	if err != nil || behind != 0 || acts < 3 || c.Opened != watchers+acts || c.Open != watchers || len(c.Lost) > 0 || c.Unexpected+c.Disordered > 0 {
		t.Errorf("after %d reloads: %+v, %d behind, %v", acts, c, behind, err)
	}
}

// Sessions that do not come back end the wait, and the reason is told.
func TestSessionsThatDoNotComeBack(t *testing.T) {
	t.Parallel()
	f := startFake(t)
	refuse := make(chan struct{})
	f.hello = func(c *websocket.Conn) bool {
		select {
		case <-refuse:
			_ = c.Close(3001, "")
			return true
		default:
			return false
		}
	}
	w := f.crewOfOne(t, "storm", func(s *Settings) { s.Actors, s.Back = 0, time.Millisecond })
	if _, err := w.do(t.Context(), order{Do: "ramp", At: time.Now()}); err != nil {
		t.Fatal(err)
	}
	close(refuse)
	_, err := w.do(t.Context(), order{Do: "act", At: time.Now()})
	if err == nil || !strings.Contains(err.Error(), "6 of 6 sessions are not open, and none was opened for 300ms") {
		t.Errorf("the storm ends with %v", err)
	}
	if c := w.seen(t); c.Refused["3001"] == 0 {
		t.Errorf("the tally has %v", c.Refused)
	}
}

// An actor that cannot come back ends the run.
func TestActorThatDoesNotComeBack(t *testing.T) {
	t.Parallel()
	w := startFake(t).crewOfOne(t, "churn", nil)
	failed := make(chan error, 1)
	ctx, cancel := context.WithCancelCause(t.Context())
	w.fail = func(err error) { cancel(err); failed <- err }
	w.actors[0].phase = opening // and stays so
	if _, err := w.do(ctx, order{Do: "act", At: time.Now(), In: time.Hour}); err == nil || !strings.Contains(err.Error(), identity(watchers)+" neither came nor went for 300ms") {
		t.Errorf("the acts end with %v", err)
	}
	if err := <-failed; err == nil {
		t.Error("the worker did not fail")
	}
	w.actors[0].phase = closed
}

// A session that is still opening when the run ends is ended too.
func TestEndWaitsForWhoIsOpening(t *testing.T) {
	t.Parallel()
	f := startFake(t)
	f.hello = func(*websocket.Conn) bool { return false }
	w := f.crewOfOne(t, "churn", nil)
	f.mu.Lock() // the fake does not answer
	for _, s := range w.actors {
		w.board.begin(s.user, time.Now())
		w.dial(s, time.Now())
	}
	for begun := 0; begun < len(w.actors); {
		begun = 0
		for _, s := range w.actors {
			s.mu.Lock()
			if s.phase == opening {
				begun++
			}
			s.mu.Unlock()
		}
		runtime.Gosched()
	}
	ended := make(chan error, 1)
	go func() {
		_, err := w.do(t.Context(), order{Do: "end"})
		ended <- err
	}()
	for !w.ending.Load() {
		runtime.Gosched()
	}
	f.mu.Unlock()
	if err := <-ended; err != nil || w.seen(t).Open != 0 || w.seen(t).Opened != 3 {
		t.Errorf("after the end: %+v, %v", w.seen(t), err)
	}
}

// A worker ends what is under way when its orders end, even if no server answers.
func TestWorkerEndsWithItsOrders(t *testing.T) {
	t.Parallel()
	f := startFake(t)
	greeted := make(chan struct{}, 100)
	f.hello = func(*websocket.Conn) bool { greeted <- struct{}{}; return true } // and says nothing
	opt := f.options()
	opt.Service = fakeService
	b, name, err := newBoard(opt.users())
	if err != nil {
		t.Fatal(err)
	}
	defer b.close()
	defer remove(t, name)
	in, tell := io.Pipe()
	says, out := io.Pipe()
	ended := make(chan error, 1)
	go func() {
		err := Worker(t.Context(), in, out)
		_ = out.Close()
		ended <- err
	}()
	answers := make(chan []string, 1)
	go func() {
		var list []string
		for lines := json.NewDecoder(says); ; {
			var s status
			if lines.Decode(&s) != nil {
				answers <- list
				return
			}
			if s.Done != "" {
				list = append(list, s.Done+": "+s.Error)
			}
		}
	}()
	enc := json.NewEncoder(tell)
	for _, v := range []any{part{Settings: opt.Settings, Of: 1, Board: name}, order{Do: "dance"}, order{Do: "ramp", At: time.Now()}} {
		if err := enc.Encode(v); err != nil {
			t.Fatal(err)
		}
	}
	<-greeted
	_ = tell.Close()
	if err := <-ended; err != nil {
		t.Errorf("Worker = %v", err)
	}
	if got, want := <-answers, []string{`dance: there is no order "dance"`, "ramp: the run is gone"}; !slices.Equal(got, want) {
		t.Errorf("the answers are %q; want %q", got, want)
	}
}

func TestWorkerOfNonsense(t *testing.T) {
	t.Parallel()
	for name, in := range map[string]string{"no part": "", "no JSON": "hello", "no board": `{"Board":"/nowhere","Of":1}`, "no address": `{"Settings":{"URLs":["http://x"]},"Of":1}`} {
		if err := Worker(t.Context(), strings.NewReader(in), io.Discard); err == nil {
			t.Errorf("%s: Worker succeeds", name)
		}
	}
}

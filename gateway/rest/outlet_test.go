package rest

import (
	"bytes"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/rollcall-presence/rollcall/presence"
)

// writes are what a stream gave its client, and how much at most at one time.
type writes struct {
	bytes.Buffer
	largest int
}

func (*writes) Header() http.Header              { return http.Header{} }
func (*writes) WriteHeader(int)                  {}
func (*writes) SetWriteDeadline(time.Time) error { return nil }
func (*writes) FlushError() error                { return nil }
func (w *writes) Write(b []byte) (int, error) {
	w.largest = max(w.largest, len(b))
	return w.Buffer.Write(b)
}

// However many events a client has to be told, little is held for it while it is slow.
func TestOutletHoldsLittle(t *testing.T) {
	frame := []byte("event: online\ndata: \"" + strings.Repeat("x", 1500) + "\"\n\n")
	all := make([]event, recentEvents)
	for i := range all {
		all[i] = event{identity: "ann", frame: frame}
	}
	var w writes
	sent := prometheus.NewCounter(prometheus.CounterOpts{Name: "sent_total", Help: "Sent."})
	o := outlet{w: &w, rc: http.NewResponseController(&w), sent: sent}
	if told, err := o.tell(all, presence.Place{Run: "r"}); !told || err != nil {
		t.Fatalf("tell = %v, %v", told, err)
	}
	if n := bytes.Count(w.Bytes(), frame); n != len(all) || !bytes.HasSuffix(w.Bytes(), []byte("id: "+presence.Place{Run: "r"}.String()+"\n\n")) {
		t.Errorf("%d events written; want %d, and the place at the end", n, len(all))
	}
	if w.largest > maxWrite+200 || cap(o.buf) > 2*maxWrite {
		t.Errorf("wrote %d bytes at a time and holds %d; want about %d", w.largest, cap(o.buf), maxWrite)
	}
}

package fanout_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"

	"github.com/rollcall-presence/rollcall/fanout"
)

// A large answer waits for those before it to be taken, and does not fill the mailbox;
// it keeps its place in line.
func TestAnswerWaitsForRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := start(t, fanout.Options{})
		const size = 1000
		var b fanout.Mailbox
		b.Init(sid, size, func(bool) {})
		n.Attach(&b)
		large := make([]byte, 2*size)
		if err := b.Answer(t.Context(), large); err != nil {
			t.Fatalf("Answer = %v", err)
		}
		if err := b.Control([]byte("pong")); err != nil || b.Full() {
			t.Fatalf("Control beside a large answer = %v; want room", err)
		}
		done := make(chan error, 1)
		go func() { done <- b.Answer(t.Context(), []byte("second")) }()
		synctest.Wait()
		select {
		case err := <-done:
			t.Fatalf("Answer = %v with an answer of twice the size untaken; want it to wait", err)
		default:
		}
		if items := b.Next(nil); len(items) != 2 || len(items[0].Frame) != len(large) || string(items[1].Frame) != "pong" {
			t.Fatalf("Next() = %d items; want the answer and the pong", len(items))
		}
		if err := <-done; err != nil {
			t.Fatalf("Answer = %v once there is room", err)
		}
		if items := b.Next(nil); len(items) != 1 || string(items[0].Frame) != "second" {
			t.Fatalf("Next() = %v; want the second answer", items)
		}

		if err := b.Answer(t.Context(), large); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(errors.New("over"))
		if err := b.Answer(ctx, nil); err == nil || err.Error() != "over" {
			t.Errorf("Answer without room = %v; want the context's cause", err)
		}
		n.Detach(&b)
		if err := b.Answer(t.Context(), nil); !errors.Is(err, fanout.ErrDetached) {
			t.Errorf("Answer after Detach = %v; want ErrDetached", err)
		}
	})
}

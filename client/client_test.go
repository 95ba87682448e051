package client_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coder/websocket"
	"github.com/google/go-cmp/cmp"

	"github.com/rollcall-presence/rollcall/client"
)

func update(identity string, rev int64) string {
	return fmt.Sprintf(`{"type":"user.updated","update_reasons":["reachabilityOnline"],"user":{"identity":%q,"sid":"US1",`+
		`"is_online":true,"is_notifiable":null,"rev":%d,"date_last_online":"2026-01-02T03:04:05Z"}}`, identity, rev)
}

// revs are the revisions of a user's events, in order.
func revs(events []client.Event, identity string) []int64 {
	var out []int64
	for _, e := range events {
		if e.Kind == client.UserUpdated && e.User.Identity == identity {
			out = append(out, e.User.Rev)
		}
	}
	return out
}

func TestSubscribe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hc := serve(t, script{talk: func(p *peer) {
			hello := p.welcome("")
			if hello.Token != "token" || !hello.Invisible || !hello.Batch || hello.Known != nil {
				t.Errorf("hello = %+v; want the token, invisible, batch and nothing known", hello)
			}
			p.subscribed(5)
			p.send(update("bob", 4)) // older than the snapshot
			p.send(update("bob", 5))
			p.send(update("bob", 6))
			p.send(update("eve", 6)) // not subscribed
			p.send(`{"type":"from.the.future","new":[7]}`)
			p.send(`{"type":"batch","messages":[` + update("alice", 7) + `,` + update("bob", 7) + `]}`)
			p.send(update("alice", 6))
			p.send(`{"type":"error","code":109,"message":"Too many requests"}`)
			p.send(`{"type":"service.updated","reachability_enabled":false}`)
			f := p.expect("unsubscribe")
			p.send(update("alice", 8))
			p.reply(f, "unsubscribed", nil)
			p.wait()
		}})
		c, r := dial(t, hc, func(o *client.Options) { o.Invisible, o.Batch = true, true })
		users, err := c.Subscribe(t.Context(), "bob", "alice")
		if err != nil {
			t.Fatal(err)
		}
		if len(users) != 2 || users[0].Identity != "bob" || users[1].Identity != "alice" || users[0].Rev != 5 {
			t.Errorf("Subscribe(bob, alice) = %+v; want their snapshots, in that order", users)
		}
		for range 5 {
			<-r.came
		}
		if err := c.Unsubscribe(t.Context(), "alice"); err != nil {
			t.Fatal(err)
		}
		events := r.all()
		if diff := cmp.Diff([]int64{6, 7}, revs(events, "bob")); diff != "" {
			t.Errorf("revisions of bob differ (-want +got):\n%s", diff)
		}
		if diff := cmp.Diff([]int64{7}, revs(events, "alice")); diff != "" {
			t.Errorf("revisions of alice differ (-want +got):\n%s", diff)
		}
		first := events[0]
		if u := first.User; u.SID != "US1" || u.IsOnline == nil || !*u.IsOnline || u.IsNotifiable != nil ||
			u.DateLastOnline == nil || !u.DateLastOnline.Equal(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)) {
			t.Errorf("user of the first event = %+v; want US1, online true, notifiable null", u)
		}
		if diff := cmp.Diff([]string{"reachabilityOnline"}, first.Reasons); diff != "" {
			t.Errorf("reasons differ (-want +got):\n%s", diff)
		}
		if e := events[3]; e.Kind != client.ServerError || e.Err.Code != 109 {
			t.Errorf("event 3 = %+v; want error 109", e)
		}
		if e := events[4]; e.Kind != client.ServiceUpdated || e.ReachabilityEnabled {
			t.Errorf("event 4 = %+v; want reachability off", e)
		}
		if err := c.Close(); err != nil {
			t.Errorf("Close() = %v", err)
		}
		if err := c.Err(); !errors.Is(err, client.ErrClosed) {
			t.Errorf("Err() = %v; want ErrClosed", err)
		}
	})
}

func TestResume(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hc := serve(t, script{talk: func(p *peer) {
			p.welcome("")
			p.subscribed(5)
			p.send(update("alice", 9))
			p.conn.CloseNow()
		}}, script{talk: func(p *peer) {
			hello := p.expect("hello")
			if diff := cmp.Diff(map[string]int64{"alice": 9, "bob": 5}, hello.Known); diff != "" {
				t.Errorf("known differs (-want +got):\n%s", diff)
			}
			p.send(`{"type":"welcome","reachability_enabled":false,"ping_interval_ms":25000,` +
				`"users":[{"identity":"bob","rev":8},{"identity":"alice","rev":9}]}`)
			p.wait()
		}})
		c, r := dial(t, hc, nil)
		if _, err := c.Subscribe(t.Context(), "alice", "bob"); err != nil {
			t.Fatal(err)
		}
		for range 3 { // alice 9; the switch; bob 8
			<-r.came
		}
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
		events := r.all()
		if len(events) != 3 || events[1].Kind != client.ServiceUpdated || events[1].ReachabilityEnabled ||
			events[2].User.Identity != "bob" || events[2].User.Rev != 8 || events[2].Reasons != nil {
			t.Errorf("events = %+v; want alice at 9, reachability off, bob at 8 without reasons", events)
		}
	})
}

func TestCallsOutliveTheConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hc := serve(t, script{talk: func(p *peer) {
			p.welcome("")
			p.expect("subscribe") // and no answer
		}}, script{talk: func(p *peer) {
			if hello := p.welcome(""); hello.Known != nil {
				t.Errorf("known = %v; want none, as no snapshot came", hello.Known)
			}
			p.subscribed(5)
			p.reply(p.expect("ping"), "pong", nil)
			p.wait()
		}})
		c, _ := dial(t, hc, nil)
		if users, err := c.Subscribe(t.Context(), "alice"); err != nil || len(users) != 1 {
			t.Errorf("Subscribe(alice) = %v, %v; want its snapshot from the second connection", users, err)
		}
		if err := c.Ping(t.Context()); err != nil {
			t.Errorf("Ping() = %v", err)
		}
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
	})
}

func TestRefusedSubscription(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hc := serve(t, script{talk: func(p *peer) {
			p.welcome("")
			p.reply(p.expect("subscribe"), "error", map[string]any{"code": 105, "message": "Too many subscriptions"})
			p.reply(p.expect("subscribe"), "subscribed", map[string]any{"users": []any{}})
			f := p.expect("subscribe")
			p.send(update("late", 1))
			p.expect("ping")
			p.reply(f, "subscribed", map[string]any{"users": []any{map[string]any{"identity": "late", "rev": 2}}})
			p.conn.CloseNow()
		}}, script{talk: func(p *peer) {
			if hello := p.welcome(""); hello.Known != nil {
				t.Errorf("known = %v; want none, as no subscription succeeded", hello.Known)
			}
			p.reply(p.expect("ping"), "pong", nil)
			p.wait()
		}})
		c, r := dial(t, hc, nil)
		_, err := c.Subscribe(t.Context(), "alice")
		if e, ok := errors.AsType[*client.Error](err); !ok || e.Code != 105 {
			t.Errorf("Subscribe(alice) = %v; want error 105", err)
		}
		if _, err := c.Subscribe(t.Context(), "bob"); err == nil {
			t.Error("an answer without the snapshot asked for is no error")
		}
		ctx, cancel := context.WithCancel(t.Context())
		go func() {
			<-r.came
			cancel()
		}()
		if _, err := c.Subscribe(ctx, "late"); !errors.Is(err, context.Canceled) {
			t.Errorf("Subscribe(late) = %v; want context.Canceled", err)
		}
		if _, err := c.Subscribe(t.Context(), "a\xff"); err == nil {
			t.Error("an identity that is not UTF-8 is no error")
		}
		if err := c.Ping(t.Context()); err != nil {
			t.Error(err)
		}
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
	})
}

func TestRetryHints(t *testing.T) {
	for name, tc := range map[string]struct {
		first          script
		atLeast, below time.Duration
	}{
		"close with a hint": {
			script{talk: func(p *peer) { p.welcome(""); p.conn.Close(1012, `{"retry_after_ms":1234}`) }},
			1234 * time.Millisecond, 1235 * time.Millisecond,
		},
		"close without":  {script{talk: func(p *peer) { p.welcome(""); p.conn.Close(3000, "internal error") }}, 0, 501 * time.Millisecond},
		"absurd hint":    {script{talk: func(p *peer) { p.welcome(""); p.conn.Close(1012, `{"retry_after_ms":1e15}`) }}, 0, 501 * time.Millisecond},
		"very long hint": {script{talk: func(p *peer) { p.welcome(""); p.conn.Close(1012, `{"retry_after_ms":99999999999999}`) }}, 5 * time.Minute, 5*time.Minute + time.Millisecond},
		"broken":         {script{talk: func(p *peer) { p.welcome("") }}, 0, 501 * time.Millisecond},
		"503 with Retry-After": {script{refuse: func(w http.ResponseWriter) {
			w.Header().Set("Retry-After", "7")
			w.WriteHeader(http.StatusServiceUnavailable)
		}}, 7 * time.Second, 7*time.Second + 501*time.Millisecond},
		"502": {script{refuse: func(w http.ResponseWriter) { w.WriteHeader(http.StatusBadGateway) }}, 0, 501 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				back := make(chan time.Time, 1)
				hc := serve(t, tc.first, script{talk: func(p *peer) {
					back <- time.Now()
					p.welcome("")
					p.wait()
				}})
				began := time.Now()
				c, _ := dial(t, hc, nil)
				if waited := (<-back).Sub(began); waited < tc.atLeast || waited >= tc.below {
					t.Errorf("came back after %v; want at least %v and less than %v", waited, tc.atLeast, tc.below)
				}
				if err := c.Ping(canceled(t)); !errors.Is(err, context.Canceled) {
					t.Errorf("Ping with a context that has ended = %v", err)
				}
				if err := c.Close(); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

func canceled(t *testing.T) context.Context {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	return ctx
}

func TestNoReturn(t *testing.T) {
	for _, code := range []websocket.StatusCode{3500, 3503, 3999, 1000, 1009} {
		t.Run(fmt.Sprint(int(code)), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				hc := serve(t, script{talk: func(p *peer) {
					p.expect("hello")
					p.send(`{"type":"error","code":20104,"message":"Access Token expired"}`)
					p.conn.Close(code, "no")
				}})
				_, err := client.Dial(t.Context(), "ws://rollcall.test/", options(hc))
				closed, ok := errors.AsType[*client.CloseError](err)
				if !ok || closed.Code != int(code) || closed.Cause == nil || closed.Cause.Code != 20104 {
					t.Errorf("Dial() = %v; want close code %d because of 20104", err, code)
				}
			})
			synctest.Test(t, func(t *testing.T) {
				hc := serve(t, script{talk: func(p *peer) {
					p.welcome("")
					p.expect("ping")
					p.conn.Close(code, "no")
				}})
				c, _ := dial(t, hc, nil)
				err := c.Ping(t.Context())
				if closed, ok := errors.AsType[*client.CloseError](err); !ok || closed.Code != int(code) {
					t.Errorf("Ping() = %v; want close code %d", err, code)
				}
				<-c.Done()
				if !errors.Is(c.Err(), err) {
					t.Errorf("Err() = %v; want %v", c.Err(), err)
				}
				if err := c.Close(); err != nil {
					t.Errorf("Close() = %v", err)
				}
			})
		})
	}
	synctest.Test(t, func(t *testing.T) {
		hc := serve(t, script{refuse: func(w http.ResponseWriter) { w.WriteHeader(http.StatusForbidden) }})
		_, err := client.Dial(t.Context(), "ws://rollcall.test/", options(hc))
		if e, ok := errors.AsType[*client.StatusError](err); !ok || e.Status != http.StatusForbidden {
			t.Errorf("Dial() = %v; want status 403", err)
		}
	})
}

func TestDialGivesUpWithContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hc := &http.Client{Transport: &http.Transport{DialContext: (&network{closed: closedChan()}).dial}}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		began := time.Now()
		_, err := client.Dial(ctx, "ws://rollcall.test/", options(hc))
		if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "use of closed network connection") {
			t.Errorf("Dial() = %v; want the deadline, and why the last attempt failed", err)
		}
		if took := time.Since(began); took != time.Minute {
			t.Errorf("Dial() took %v; want 1m", took)
		}
	})
	if _, err := client.Dial(t.Context(), "ws://rollcall.test/", client.Options{}); err == nil {
		t.Error("Dial without Token = nil error")
	}
}

func closedChan() chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}

// A gateway whose store is away lets its clients wait for 30 s: they keep their place.
func TestWaitsForWelcome(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hc := serve(t, script{talk: func(p *peer) {
			p.expect("hello")
			time.Sleep(29 * time.Second)
			p.send(`{"type":"welcome","session":"s1","ping_interval_ms":25000,"user":{"identity":"me","rev":3}}`)
			p.wait()
		}})
		c, _ := dial(t, hc, nil)
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
}

func TestSilentServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const alive = 10 * time.Minute
		ended := make(chan time.Time, 1)
		hc := serve(t, script{talk: func(p *peer) {
			p.welcome("")
			gone := p.conn.CloseRead(t.Context())
			for began := time.Now(); time.Since(began) < alive; {
				time.Sleep(25 * time.Second)
				if err := p.conn.Ping(t.Context()); err != nil {
					t.Errorf("after %v: %v; want pings to keep the connection", time.Since(began), err)
				}
			}
			<-gone.Done() // hears nothing from here on
			ended <- time.Now()
		}}, script{talk: func(p *peer) {
			p.welcome("")
			p.reply(p.expect("ping"), "pong", nil)
			p.wait()
		}})
		c, r := dial(t, hc, nil)
		began := time.Now()
		time.Sleep(alive + time.Minute)
		if err := c.Ping(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got, want := (<-ended).Sub(began), alive+55*time.Second; got != want {
			t.Errorf("the connection ended after %v; want %v: two pings and 5 s after the last", got, want)
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
		if len(r.lost) != 1 || !strings.Contains(r.lost[0].Error(), "nothing heard") {
			t.Errorf("disconnects = %v; want one, for silence", r.lost)
		}
	})
}

func TestTokenRenewal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		accepted := make(chan struct{})
		hc := serve(t, script{talk: func(p *peer) {
			p.welcome("")
			p.send(`{"type":"token.expiring","expires_in_ms":60000}`)
			p.send(`{"type":"token.expiring","expires_in_ms":50000}`) // while a renewal is under way
			f := p.expect("token")
			p.reply(f, "error", map[string]any{"code": 101, "message": "Temporarily unavailable"})
			f = p.expect("token")
			if f.Token != "token 4" {
				t.Errorf("renewed with %q; want token 4", f.Token)
			}
			p.reply(f, "token_accepted", map[string]any{"expires_at": "2026-01-02T03:04:05Z"})
			close(accepted)
			p.wait()
		}})
		calls := 0
		c, _ := dial(t, hc, func(o *client.Options) {
			o.Token = func(context.Context) (string, error) {
				if calls++; calls == 2 {
					return "", errors.New("token service is down")
				}
				return fmt.Sprintf("token %d", calls), nil
			}
		})
		<-accepted
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
}

func TestDropSaysNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gone := make(chan error, 1)
		hc := serve(t, script{talk: func(p *peer) {
			p.welcome("")
			_, _, err := p.conn.Read(context.Background())
			gone <- err
		}})
		c, _ := dial(t, hc, nil)
		c.Drop()
		if err := <-gone; err == nil || websocket.CloseStatus(err) != -1 {
			t.Errorf("the server read %v; want an end without a close frame", err)
		}
		if _, err := c.Subscribe(t.Context(), "alice"); !errors.Is(err, client.ErrClosed) {
			t.Errorf("Subscribe after Drop = %v; want ErrClosed", err)
		}
	})
}

func TestCloseOfServerThatIgnoresBye(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hc := serve(t, script{talk: func(p *peer) {
			p.welcome("")
			p.expect("bye")
			p.next()
		}})
		c, _ := dial(t, hc, nil)
		began := time.Now()
		if err := c.Close(); err == nil || time.Since(began) != 5*time.Second {
			t.Errorf("Close() = %v after %v; want an error after 5s", err, time.Since(began))
		}
	})
}

func TestManySubscriptions(t *testing.T) {
	var identities []string
	known := make(map[string]int64)
	for i := range 1000 {
		identity := fmt.Sprintf("%04d-%s", i, strings.Repeat("<é", 60))
		identities = append(identities, identity)
		known[identity] = 7
	}
	const limit = 64 << 10 // bytes in a frame, as the server sets it
	take := func(t *testing.T, p *peer, rev int64, n int) map[string]int64 {
		got := make(map[string]int64)
		for len(got) < n {
			f := p.subscribed(rev)
			if f.size > limit || len(f.Identities) > 500 {
				t.Errorf("a request of %d bytes with %d identities; want at most %d and 500", f.size, len(f.Identities), limit)
			}
			for _, identity := range f.Identities {
				got[identity] = 7
			}
		}
		return got
	}
	synctest.Test(t, func(t *testing.T) {
		hc := serve(t, script{talk: func(p *peer) {
			p.conn.SetReadLimit(1 << 20)
			p.welcome("")
			take(t, p, 7, len(identities))
		}}, script{talk: func(p *peer) {
			p.conn.SetReadLimit(1 << 20)
			hello := p.welcome("")
			if hello.size > limit {
				t.Errorf("hello of %d bytes; want at most %d", hello.size, limit)
			}
			for identity := range take(t, p, 8, len(identities)-len(hello.Known)) {
				if _, twice := hello.Known[identity]; twice {
					t.Errorf("%s is both known and subscribed again", identity)
				}
				hello.Known[identity] = 7
			}
			if diff := cmp.Diff(known, hello.Known); diff != "" {
				t.Errorf("what hello and the requests after it name differs (-want +got):\n%s", diff)
			}
			p.wait()
		}})
		c, r := dial(t, hc, nil)
		users, err := c.Subscribe(t.Context(), identities...)
		if err != nil || len(users) != len(identities) {
			t.Fatalf("%d snapshots, error %v; want %d", len(users), err, len(identities))
		}
		for i, u := range users {
			if u.Identity != identities[i] {
				t.Fatalf("snapshot %d is of %q; want %q", i, u.Identity, identities[i])
			}
		}
		<-r.came // someone who did not fit in hello, at revision 8
		synctest.Wait()
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
}

func TestProtocolViolations(t *testing.T) {
	for name, talk := range map[string]func(*peer){
		"not JSON": func(p *peer) { p.welcome(""); p.send("{") },
		"binary": func(p *peer) {
			p.welcome("")
			p.conn.Write(context.Background(), websocket.MessageBinary, []byte("{}"))
		},
		"batch in a batch":   func(p *peer) { p.welcome(""); p.send(`{"type":"batch","messages":[{"type":"batch"}]}`) },
		"too large":          func(p *peer) { p.welcome(""); p.send(`{"type":"` + strings.Repeat("x", 5000) + `"}`) },
		"no welcome":         func(p *peer) { p.expect("hello"); p.send(update("alice", 1)) },
		"silence for hello":  func(p *peer) { p.expect("hello"); p.next() },
		"wrong field in one": func(p *peer) { p.welcome(""); p.send(`{"type":"batch","messages":[{"type":5}]}`) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				hc := serve(t, script{talk: func(p *peer) { talk(p); p.next() }}, script{talk: func(p *peer) {
					p.welcome("")
					p.reply(p.expect("ping"), "pong", nil)
					p.wait()
				}})
				c, r := dial(t, hc, func(o *client.Options) { o.MaxFrame = 4096 })
				synctest.Wait() // until the first connection, if it got so far, is given up
				if err := c.Ping(t.Context()); err != nil {
					t.Fatal(err)
				}
				if err := c.Close(); err != nil {
					t.Error(err)
				}
				if len(r.lost) != 1 || len(r.events) != 0 {
					t.Errorf("disconnects %v, events %v; want one and none", r.lost, r.events)
				}
			})
		})
	}
}

// TestDialError: what is told of an attempt names the address and what happened, not the steps to it.
func TestDialError(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	url := "ws://" + l.Addr().String() + "/v1/connect"
	l.Close() // nobody listens there any more
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var told error
	_, err = client.Dial(ctx, url, client.Options{
		Token:        func(context.Context) (string, error) { return "t", nil },
		OnDisconnect: func(err error, _ time.Duration) { told = err; cancel() },
	})
	if err == nil || told == nil || !strings.HasPrefix(told.Error(), "connect to "+url+": dial tcp ") {
		t.Errorf("Dial = %v, told %v; want the address and that nobody listens", err, told)
	}
}

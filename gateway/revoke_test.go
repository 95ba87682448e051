package gateway_test

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rollcall-presence/rollcall/auth"
	"github.com/rollcall-presence/rollcall/gateway"
	"github.com/rollcall-presence/rollcall/presence"
)

// turnable are keys and revocations as a test turns them.
type turnable struct {
	mu      sync.Mutex // guards the following
	keys    auth.StaticKeys
	revoked func(auth.Claims) bool
}

func (k *turnable) Key(sid string) (auth.Key, bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.keys.Key(sid)
}

func (k *turnable) Revoked(c auth.Claims) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.revoked != nil && k.revoked(c)
}

func (k *turnable) turn(f func()) {
	k.mu.Lock()
	defer k.mu.Unlock()
	f()
}

// TestRecheck holds that what is withdrawn takes the sessions with it that are open
// on it, and no others, whatever their tokens were at first.
func TestRecheck(t *testing.T) {
	second := auth.Key{SID: "SK33333333333333333333333333333333", Secret: "another", Account: key.Account}
	keys := &turnable{keys: auth.StaticKeys{key.SID: key, second.SID: second}}
	bubble(t, func(o *gateway.Options) { o.Tokens = auth.NewVerifier(keys) }, func(t *testing.T, n *node) {
		mintBy := func(k auth.Key, identity string) string {
			tok, err := auth.Mint(k, service, identity, time.Now(), time.Hour)
			if err != nil {
				t.Fatal(err)
			}
			return tok
		}
		stays := n.connect("stays")
		leaves := n.dial(nil).read()
		leaves.send(`{"type":"hello","token":"` + mintBy(second, "leaves") + `"}`)
		leaves.want("welcome")
		unseen := n.dial(nil).read()
		unseen.send(`{"type":"hello","invisible":true,"token":"` + mintBy(second, "unseen") + `"}`)
		unseen.want("welcome")
		renewed := n.dial(nil).read()
		renewed.send(`{"type":"hello","token":"` + mintBy(second, "renewed") + `"}`)
		renewed.want("welcome")
		renewed.send(`{"type":"token","id":1,"token":"` + mintBy(key, "renewed") + `"}`)
		renewed.want("token_accepted")
		waiting := n.dial(nil).read() // has said nothing yet
		synctest.Wait()

		n.Recheck()
		keys.turn(func() { delete(keys.keys, second.SID) })
		n.Recheck()
		leaves.wantClose(gateway.CloseBadToken)
		unseen.wantClose(gateway.CloseBadToken)
		synctest.Wait()
		if ends := n.store.ended(); len(ends) != 1 || ends[0].Key.Identity != "leaves" || ends[0].How != presence.EndOperator {
			t.Errorf("ends = %v; want one, by the operator", ends)
		}
		if got := n.value("rollcall_closes_total", "server", "3500"); got != 2 {
			t.Errorf("%v closed; want 2", got)
		}

		// Tokens from before now.
		now := time.Now()
		time.Sleep(2 * time.Second)
		renewed.send(`{"type":"token","id":2,"token":"` + mintBy(key, "renewed") + `"}`)
		renewed.want("token_accepted")
		keys.turn(func() { keys.revoked = func(c auth.Claims) bool { return c.Issued.Before(now.Add(time.Second)) } })
		old := mint(t, service, "late", time.Hour)
		waiting.send(`{"type":"hello","token":"` + old + `"}`) // made after that
		waiting.want("welcome")
		n.Recheck()
		stays.wantClose(gateway.CloseBadToken)
		for _, p := range []*peer{renewed, waiting} {
			p.send(`{"type":"ping","id":3}`)
			p.want("pong")
		}
	})
}

// TestRevokedWhileItOpens holds that a session cannot slip in between: withdrawn
// after its token was found good, and before the session could be found.
func TestRevokedWhileItOpens(t *testing.T) {
	keys := &turnable{keys: auth.StaticKeys{key.SID: key}}
	bubble(t, func(o *gateway.Options) {
		o.Tokens = auth.NewVerifier(keys)
		o.Presence = opening{o.Presence, func() {
			keys.turn(func() { keys.revoked = func(auth.Claims) bool { return true } })
		}}
	}, func(t *testing.T, n *node) {
		p := n.dial(nil).read()
		p.send(`{"type":"hello","id":1,"token":"` + mint(t, service, "alice", time.Hour) + `"}`)
		p.wantError(gateway.ErrorTokenInvalid, 1.0)
		p.wantClose(gateway.CloseBadToken)
		synctest.Wait()
		if n.value("rollcall_sessions") != 0 || len(n.store.ended()) != 1 {
			t.Errorf("%v sessions, ends %v; want none, and its end told", n.value("rollcall_sessions"), n.store.ended())
		}
	})
}

// opening calls f in the middle of each session's opening.
type opening struct {
	gateway.Registrar
	f func()
}

func (o opening) Open(ctx context.Context, k presence.Key, s presence.SessionID) (presence.User, error) {
	u, err := o.Registrar.Open(ctx, k, s)
	o.f()
	return u, err
}

package gateway_test

import (
	"context"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/twilio/twilio-go/client/jwt"

	"github.com/rollcall-presence/rollcall/gateway"
	"github.com/rollcall-presence/rollcall/presence"
)

// pushes are the push bindings of one service's users, in memory.
type pushes struct {
	mu          sync.Mutex // guards the following
	credentials map[string]presence.PushType
	bound       map[string]presence.Binding // by SID
	err         error                       // of every call, if set
}

func (p *pushes) Bind(_ context.Context, k presence.Key, r presence.Registration) (presence.Binding, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err != nil {
		return presence.Binding{}, p.err
	}
	if err := r.Check(); err != nil {
		return presence.Binding{}, err
	}
	if t, ok := p.credentials[r.Credential]; r.Credential != "" && !ok {
		return presence.Binding{}, presence.ErrNoCredential
	} else if ok && t != r.Type {
		return presence.Binding{}, presence.ErrCredentialType
	}
	if len(p.bound) == presence.MaxBindings {
		return presence.Binding{}, presence.ErrTooManyBindings
	}
	if r.Life == 0 {
		r.Life = presence.MaxBindingLife
	}
	if r.MessageTypes == nil {
		r.MessageTypes = presence.MessageTypes()
	}
	b := presence.Binding{
		Key: k, SID: "BS" + strconv.Itoa(len(p.bound)), Type: r.Type, Address: r.Address, Credential: r.Credential,
		MessageTypes: r.MessageTypes, Expires: time.Now().Add(r.Life),
	}
	p.bound[b.SID] = b
	return b, nil
}

func (p *pushes) Unbind(_ context.Context, k presence.Key, sid string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err != nil {
		return p.err
	}
	if b, ok := p.bound[sid]; !ok || b.Key != k {
		return presence.ErrNoBinding
	}
	delete(p.bound, sid)
	return nil
}

func (p *pushes) UnbindAddress(ctx context.Context, k presence.Key, t presence.PushType, address string) error {
	p.mu.Lock()
	sid := ""
	for _, b := range p.bound {
		if b.Type == t && b.Address == address {
			sid = b.SID
		}
	}
	p.mu.Unlock()
	return p.Unbind(ctx, k, sid)
}

func (p *pushes) count() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.bound)
}

const (
	fcmCredential = "CR0123456789abcdef0123456789abcdef"
	apnCredential = "CRfedcba9876543210fedcba9876543210"
)

func withPush(t *testing.T, test func(*testing.T, *node, *pushes)) {
	t.Helper()
	p := &pushes{credentials: map[string]presence.PushType{fcmCredential: presence.PushFCM, apnCredential: presence.PushAPN}, bound: map[string]presence.Binding{}}
	bubble(t, func(o *gateway.Options) { o.Push = p }, func(t *testing.T, n *node) { test(t, n, p) })
}

func TestPush(t *testing.T) {
	withPush(t, func(t *testing.T, n *node, bound *pushes) {
		p := n.connect("alice")
		p.send(`{"type":"register_push","id":1,"binding_type":"fcm","address":"tok\"en","credential_sid":"` + fcmCredential + `","message_types":["new_message"],"expires_in_s":90}`)
		want := map[string]any{"type": "push_registered", "id": 1., "binding": map[string]any{
			"sid": "BS0", "binding_type": "fcm", "address": `tok"en`, "credential_sid": fcmCredential, "message_types": []any{"new_message"},
			"expires_at": time.Now().Add(90 * time.Second).UTC().Format(time.RFC3339),
		}}
		if diff := cmp.Diff(want, p.want("push_registered")); diff != "" {
			t.Errorf("answer (-want +got):\n%s", diff)
		}
		p.send(`{"type":"register_push","id":"b","binding_type":"webpush","address":"https://push.example/1"}`)
		b, _ := p.want("push_registered")["binding"].(map[string]any)
		if b["credential_sid"] != nil || b["expires_at"] != time.Now().Add(presence.MaxBindingLife).UTC().Format(time.RFC3339) || len(b["message_types"].([]any)) != 3 {
			t.Errorf("binding = %v; want no credential, a year, and all messages", b)
		}
		p.send(`{"type":"unregister_push","id":3,"sid":"BS0"}`)
		if v := p.want("push_unregistered"); v["id"] != 3. || bound.count() != 1 {
			t.Errorf("answer = %v with %d bound; want id 3, and one left", v, bound.count())
		}
		p.send(`{"type":"unregister_push","id":4,"sid":"BS0"}`) // once more is no error
		p.want("push_unregistered")
		eve := n.connect("eve")
		eve.send(`{"type":"unregister_push","id":5,"sid":"BS1"}`)
		eve.want("push_unregistered")
		if bound.count() != 1 {
			t.Error("another user's binding was removed")
		}
		p.send(`{"type":"unregister_push","id":6,"binding_type":"webpush","address":"https://push.example/1"}`)
		p.want("push_unregistered")
		if bound.count() != 0 {
			t.Error("the binding is there still")
		}
		if n.value("rollcall_requests_total", "register_push") != 2 || n.value("rollcall_requests_total", "unregister_push") != 4 {
			t.Error("the requests were not counted")
		}
	})
}

// TestPushCredentialOfToken: the token's credential is what a device is registered
// with that names none; a newer token's counts from then on.
func TestPushCredentialOfToken(t *testing.T) {
	token := func(credential string) string {
		at := jwt.CreateAccessToken(jwt.AccessTokenParams{
			AccountSid: key.Account, SigningKeySid: key.SID, Secret: key.Secret, Identity: "alice",
			ValidUntil: float64(time.Now().Add(time.Hour).Unix()), Nbf: float64(time.Now().Unix()),
			Grants: []jwt.BaseGrant{&jwt.ChatGrant{ServiceSid: service, PushCredentialSid: credential}},
		})
		tok, err := at.ToJwt()
		if err != nil {
			t.Fatal(err)
		}
		return tok
	}
	withPush(t, func(t *testing.T, n *node, _ *pushes) {
		p := n.dial(nil).read()
		p.send(`{"type":"hello","token":"` + token(fcmCredential) + `"}`)
		p.want("welcome")
		credential := func(request string) any {
			t.Helper()
			p.send(request)
			b, _ := p.want("push_registered")["binding"].(map[string]any)
			return b["credential_sid"]
		}
		if got := credential(`{"type":"register_push","binding_type":"fcm","address":"1"}`); got != fcmCredential {
			t.Errorf("credential = %v; want the token's", got)
		}
		if got := credential(`{"type":"register_push","binding_type":"webpush","address":"2"}`); got != nil {
			t.Errorf("credential for web push = %v; want none", got)
		}
		if got := credential(`{"type":"register_push","binding_type":"apn","address":"3","credential_sid":"` + apnCredential + `"}`); got != apnCredential {
			t.Errorf("credential = %v; want the one named", got)
		}
		p.send(`{"type":"register_push","id":1,"binding_type":"apn","address":"4"}`)
		p.wantError(gateway.ErrorPushCredential, 1.)
		p.send(`{"type":"token","token":"` + token(apnCredential) + `"}`)
		p.want("token_accepted")
		if got := credential(`{"type":"register_push","binding_type":"apn","address":"4"}`); got != apnCredential {
			t.Errorf("credential = %v; want the newer token's", got)
		}
	})
}

// TestPushRefused: what cannot be registered is told apart, counted, and changes nothing.
func TestPushRefused(t *testing.T) {
	names := map[gateway.ErrorCode]string{}
	for _, e := range gateway.ErrorTexts() {
		names[e.Code] = e.Name
	}
	withPush(t, func(t *testing.T, n *node, bound *pushes) {
		p := n.connect("alice")
		counted := map[gateway.ErrorCode]float64{}
		refused := func(request string, code gateway.ErrorCode) {
			t.Helper()
			p.send(request)
			p.wantError(code, 1.)
			counted[code]++
			if got := n.value("rollcall_errors_total", names[code]); got != counted[code] {
				t.Errorf("%s: errors counted = %v; want %v", request, got, counted[code])
			}
		}
		for _, tc := range []struct {
			fields string
			code   gateway.ErrorCode
		}{
			{`"binding_type":"twilsock","address":"a"`, gateway.ErrorPushType},
			{`"address":"a"`, gateway.ErrorPushType},
			{`"binding_type":"fcm"`, gateway.ErrorPushAddress},
			{`"binding_type":"fcm","address":"` + strings.Repeat("x", presence.MaxAddress+1) + `"`, gateway.ErrorPushAddress},
			{`"binding_type":"fcm","address":"\ud800"`, gateway.ErrorPushAddress},
			{`"binding_type":"fcm","address":7`, gateway.ErrorBadField},
			{`"binding_type":"fcm","address":"a","message_types":["spam"]`, gateway.ErrorBadField},
			{`"binding_type":"fcm","address":"a","expires_in_s":59`, gateway.ErrorPushLife},
			{`"binding_type":"fcm","address":"a","expires_in_s":-1`, gateway.ErrorPushLife},
			{`"binding_type":"fcm","address":"a","expires_in_s":31536001`, gateway.ErrorPushLife},
			{`"binding_type":"fcm","address":"a","expires_in_s":9223372036854775807`, gateway.ErrorPushLife},
			{`"binding_type":"fcm","address":"a","credential_sid":"CR"`, gateway.ErrorPushCredential},
			{`"binding_type":"fcm","address":"a","credential_sid":"` + apnCredential + `"`, gateway.ErrorPushCredential},
		} {
			refused(`{"type":"register_push","id":1,`+tc.fields+`}`, tc.code)
		}
		refused(`{"type":"unregister_push","id":1}`, gateway.ErrorBadField)
		refused(`{"type":"unregister_push","id":1,"binding_type":"fcm"}`, gateway.ErrorBadField)
		if bound.count() != 0 {
			t.Errorf("%d are bound; want none", bound.count())
		}
		for i := range presence.MaxBindings {
			p.send(`{"type":"register_push","binding_type":"fcm","address":"` + strconv.Itoa(i) + `"}`)
			p.want("push_registered")
		}
		refused(`{"type":"register_push","id":1,"binding_type":"fcm","address":"one more"}`, gateway.ErrorTooManyBindings)

		for _, err := range []error{errAway, presence.ErrNoUser} {
			bound.mu.Lock()
			bound.err = err
			bound.mu.Unlock()
			for _, request := range []string{
				`{"type":"register_push","id":1,"binding_type":"fcm","address":"a"}`, `{"type":"unregister_push","id":1,"sid":"BS0"}`,
			} {
				p.send(request)
				if v := p.wantError(gateway.ErrorUnavailable, 1.); v["retry_after_ms"] == nil {
					t.Errorf("error = %v; want a hint when to try again", v)
				}
			}
		}
	})
	bubble(t, nil, func(t *testing.T, n *node) {
		p := n.connect("alice")
		p.send(`{"type":"register_push","id":1,"binding_type":"fcm","address":"a"}`)
		p.wantError(gateway.ErrorPushOff, 1.)
		p.send(`{"type":"unregister_push","id":2,"sid":"BS0"}`)
		p.wantError(gateway.ErrorPushOff, 2.)
	})
}

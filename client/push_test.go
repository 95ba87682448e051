package client_test

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/rollcall-presence/rollcall/client"
)

// A registration whose answer was lost with the connection is repeated on the next.
func TestPush(t *testing.T) {
	device := client.Push{BindingType: "fcm", Address: "token", CredentialSID: "CR1", MessageTypes: []string{"new_message"}, ExpiresInS: 90}
	synctest.Test(t, func(t *testing.T) {
		hc := serve(t, script{talk: func(p *peer) {
			p.welcome("")
			p.expect("register_push") // and no answer
		}}, script{talk: func(p *peer) {
			p.welcome("")
			f := p.expect("register_push")
			if diff := cmp.Diff(device, f.Push); diff != "" {
				t.Errorf("asked for (-want +got):\n%s", diff)
			}
			p.reply(f, "push_registered", map[string]any{"binding": map[string]any{
				"sid": "BS1", "binding_type": "fcm", "address": "token", "credential_sid": nil, "message_types": []string{"new_message"}, "expires_at": "2026-11-22T15:04:05Z",
			}})
			f = p.expect("register_push")
			p.reply(f, "error", map[string]any{"code": 119, "message": "The user has too many bindings"})
			f = p.expect("unregister_push")
			if f.SID != "BS1" {
				t.Errorf("unregister_push of %q; want BS1", f.SID)
			}
			p.reply(f, "push_unregistered", nil)
			p.wait()
		}})
		c, _ := dial(t, hc, nil)
		got, err := c.RegisterPush(t.Context(), device)
		want := client.Binding{SID: "BS1", BindingType: "fcm", Address: "token", MessageTypes: []string{"new_message"}, ExpiresAt: time.Date(2026, 11, 22, 15, 4, 5, 0, time.UTC)}
		if diff := cmp.Diff(want, got); err != nil || diff != "" {
			t.Errorf("RegisterPush: %v (-want +got):\n%s", err, diff)
		}
		var refused *client.Error
		if _, err := c.RegisterPush(t.Context(), device); !errors.As(err, &refused) || refused.Code != 119 {
			t.Errorf("RegisterPush, refused = %v; want error 119", err)
		}
		if err := c.UnregisterPush(t.Context(), got.SID); err != nil {
			t.Errorf("UnregisterPush: %v", err)
		}
		if err := c.UnregisterPush(t.Context(), ""); err == nil {
			t.Error("UnregisterPush of nothing: nil; want an error")
		}
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
	})
}

package e2e

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twilio/twilio-go/client/jwt"

	"github.com/rollcall-presence/rollcall/client"

	"github.com/rollcall-presence/rollcall/internal/testkit/rig"
)

// notByKey is that keys are for the account alone to deal with.
var notByKey = refusal{what: "a request of an API key", byKey: true, status: 403, code: 20403}

var accessOperations = []operation{
	{id: "CreateKey", run: func(t *testing.T, c *contract) {
		key := c.must(t, http.MethodPost, "/v1/Keys", "FriendlyName=B%C3%BCro")
		if err := key.is(object{"friendly_name": "Büro", "account_sid": rig.Account}); err != nil {
			t.Error(err)
		}
		c.onEachNode(t, "the new key lets in", func() error {
			_, err := c.library(key["sid"].(string), key["secret"].(string)).FetchService(c.main.service)
			return err
		})
		c.onEachNode(t, "tokens that the new key signed let in", func() error {
			session, err := c.dial(t, c.main.service, "by a new key", key["sid"].(string), key["secret"].(string), time.Now())
			if err == nil {
				err = session.Close()
			}
			return err
		})
	}, refuses: []refusal{
		notByKey,
		{what: "a long name", params: "FriendlyName=" + strings.Repeat("%C3%A9", 65), status: 400, code: 50003},
	}},
	{id: "ListKey", run: func(t *testing.T, c *contract) {
		want := c.pages(t, "/v1/Keys", "", "keys", "sid")
		for range 3 {
			want = append(want, c.must(t, http.MethodPost, "/v1/Keys", "")["sid"].(string))
		}
		if got := c.pages(t, "/v1/Keys", "", "keys", "sid"); !slices.Equal(got, want) {
			t.Errorf("pages of keys = %v; want %v", got, want)
		}
	}, refuses: append([]refusal{notByKey}, listRefusals...)},
	{id: "FetchKey", run: func(t *testing.T, c *contract) {
		if key := c.must(t, http.MethodGet, c.main.path("/v1/Keys/{Sid}"), ""); key["secret"] != nil || key["sid"] != c.main.has["Keys"] {
			t.Errorf("fetched %v; want it, and no secret", key)
		}
	}, refuses: []refusal{notByKey}},
	{id: "UpdateKey", run: func(t *testing.T, c *contract) {
		path := c.main.path("/v1/Keys/{Sid}")
		c.must(t, http.MethodPost, path, "FriendlyName=After")
		if err := c.must(t, http.MethodPost, path, "").is(object{"friendly_name": "After"}); err != nil {
			t.Error(err)
		}
	}, refuses: []refusal{
		notByKey,
		{what: "a long name", params: "FriendlyName=" + strings.Repeat("%C3%A9", 65), status: 400, code: 50003},
	}},
	{id: "DeleteKey", run: func(t *testing.T, c *contract) {
		key := c.must(t, http.MethodPost, "/v1/Keys", "")
		sid, secret := key["sid"].(string), key["secret"].(string)
		var session *client.Client
		rig.Eventually(t, "the key is known to all gateways", func() (err error) {
			session, err = c.dial(t, c.main.service, "by a key that goes", sid, secret, time.Now())
			return err
		})
		c.must(t, http.MethodDelete, "/v1/Keys/"+sid, "")
		wantClosed(t, session, 3500)
		c.onEachNode(t, "the key lets nobody in", func() error {
			if _, err := c.library(sid, secret).FetchService(c.main.service); err == nil {
				return rig.ErrNotYet
			}
			return nil
		})
		_, err := c.library(sid, secret).FetchService(c.main.service)
		wantError(t, "a revoked key", err, 401, 20003)
		_, err = c.dial(t, c.main.service, "by a key that is gone", sid, secret, time.Now())
		wantRefused(t, err, 20103)
		_, err = c.do(http.MethodGet, "/v1/Keys/"+sid, "")
		wantError(t, "fetching it", err, 404, 20404)
	}, refuses: []refusal{notByKey}},

	{id: "CreateRevocation", params: "Identity=x", run: func(t *testing.T, c *contract) {
		tn, other := c.newTenant(t, "revoked"), c.newTenant(t, "not revoked")
		old := time.Now().Add(-time.Minute)
		dial := func(tn *tenant, identity string, issued time.Time) *client.Client {
			t.Helper()
			session, err := c.dial(t, tn.service, identity, rig.KeySID, rig.KeySecret, issued)
			if err != nil {
				t.Fatal(err)
			}
			return session
		}
		alice, bob, elsewhere := dial(tn, "alice", old), dial(tn, "bob", old), dial(other, "alice", old)
		if err := c.must(t, http.MethodPost, tn.base("/Revocations"), "Identity=alice").is(object{"identity": "alice", "chat_service_sid": tn.service}); err != nil {
			t.Error(err)
		}
		wantClosed(t, alice, 3500)
		c.onEachNode(t, "the old token is refused", func() error {
			if session, err := c.dial(t, tn.service, "alice", rig.KeySID, rig.KeySecret, old); err == nil {
				session.Drop()
				return rig.ErrNotYet
			}
			return nil
		})
		_, err := c.dial(t, tn.service, "alice", rig.KeySID, rig.KeySecret, old)
		wantRefused(t, err, 20101)
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		if err := errors.Join(bob.Ping(ctx), elsewhere.Ping(ctx)); err != nil {
			t.Errorf("sessions on tokens that were not revoked: %v", err)
		}
		dial(tn, "alice", time.Now().Add(time.Second))
		c.must(t, http.MethodPost, tn.base("/Revocations"), "IssuedBefore="+old.Add(time.Second).UTC().Format(time.RFC3339))
		wantClosed(t, bob, 3500)
	}, refuses: []refusal{
		{what: "neither parameter", status: 400, code: 20001},
		{what: "a time that is none", params: "IssuedBefore=yesterday", status: 400, code: 20001},
		{what: "a time to come", params: "IssuedBefore=2100-01-01T00:00:00Z", status: 400, code: 20001},
	}},
	{id: "ListRevocation", run: func(t *testing.T, c *contract) {
		tn := c.newTenant(t, "of revocations")
		var want []string
		for i := range 5 {
			want = append(want, c.must(t, http.MethodPost, tn.base("/Revocations"), fmt.Sprint("Identity=", i))["sid"].(string))
		}
		if got := c.pages(t, tn.base("/Revocations"), "", "revocations", "sid"); !slices.Equal(got, want) {
			t.Errorf("pages of revocations = %v; want %v", got, want)
		}
	}, refuses: listRefusals},
}

// onEachNode waits until f returns nil as often in a row as there are gateways, each
// of which it asks once.
func (c *contract) onEachNode(t *testing.T, what string, f func() error) {
	t.Helper()
	for range c.nodes {
		rig.Eventually(t, what, f)
	}
}

// dial opens a session with a token of the library's making, issued at a time.
func (c *contract) dial(t *testing.T, service, identity, key, secret string, issued time.Time) (*client.Client, error) {
	t.Helper()
	at := jwt.CreateAccessToken(jwt.AccessTokenParams{
		AccountSid: rig.Account, SigningKeySid: key, Secret: secret, Identity: identity, Nbf: float64(issued.Unix()), ValidUntil: float64(time.Now().Add(time.Hour).Unix()),
	})
	at.AddGrant(&jwt.ChatGrant{ServiceSid: service})
	token, err := at.ToJwt()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	ws := c.nodes[int(c.turn.Add(1))%len(c.nodes)].WS()
	session, err := client.Dial(ctx, ws, client.Options{Token: func(context.Context) (string, error) { return token, nil }})
	if err == nil {
		t.Cleanup(session.Drop)
	}
	return session, err
}

// wantClosed fails unless the server closes a session with a code.
func wantClosed(t *testing.T, session *client.Client, code int) {
	t.Helper()
	select {
	case <-session.Done():
	case <-time.After(15 * time.Second):
		t.Errorf("the session goes on; want it closed with %d", code)
		return
	}
	if e, ok := errors.AsType[*client.CloseError](session.Err()); !ok || e.Code != code {
		t.Errorf("the session ended with %v; want it closed with %d", session.Err(), code)
	}
}

// wantRefused fails unless a session was not opened, for a reason.
func wantRefused(t *testing.T, err error, code int) {
	t.Helper()
	if e, ok := errors.AsType[*client.Error](err); !ok || e.Code != code {
		t.Errorf("opening a session: %v; want it refused with %d", err, code)
	}
}

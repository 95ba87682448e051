package e2e

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"testing"

	"github.com/twilio/twilio-go"
	twilioclient "github.com/twilio/twilio-go/client"
	"github.com/twilio/twilio-go/client/jwt"
	conversations "github.com/twilio/twilio-go/rest/conversations/v1"

	"github.com/rollcall-presence/rollcall/client"
	"github.com/rollcall-presence/rollcall/internal/testkit"
	"github.com/rollcall-presence/rollcall/internal/testkit/rig"
)

// toNode leads the helper library's requests to a node.
type toNode struct{ addr string }

func (to toNode) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.URL.Scheme, r.URL.Host, r.Host = "http", to.addr, to.addr
	return http.DefaultTransport.RoundTrip(r)
}

// twilio is the unmodified helper library, talking to the node.
func twilioOn(n *rig.Node, user, password string) *conversations.ApiService {
	c := &twilioclient.Client{Credentials: twilioclient.NewCredentials(user, password), HTTPClient: &http.Client{Transport: toNode{n.Addr}}}
	c.SetAccountSid(rig.Account)
	return twilio.NewRestClientWithParams(twilio.ClientParams{Client: c}).ConversationsV1
}

// An application that knows only the helper library sets a service up on one node,
// lets users in on another with tokens of the library's making, and reads there who
// is reachable.
func TestTwilioLibrary(t *testing.T) {
	redisURL := "redis://" + testkit.Redis(t).Addr
	one, two := rig.Start(t, redisURL), rig.Start(t, redisURL)
	api, other := twilioOn(one, rig.Account, rig.AuthToken), twilioOn(two, rig.KeySID, rig.KeySecret)

	name, on := "Library", true
	service, err := api.CreateService(&conversations.CreateServiceParams{FriendlyName: &name})
	if err != nil {
		t.Fatal(err)
	}
	conf, err := api.UpdateServiceConfiguration(*service.Sid, &conversations.UpdateServiceConfigurationParams{ReachabilityEnabled: &on})
	if err != nil || !*conf.ReachabilityEnabled {
		t.Fatalf("switching on = %+v, %v", conf, err)
	}
	if _, err = api.UpdateConfiguration(&conversations.UpdateConfigurationParams{DefaultChatServiceSid: service.Sid}); err != nil {
		t.Fatal(err)
	}
	for i := range 60 {
		identity := fmt.Sprintf("user %d/é", i)
		if _, err := api.CreateUser(&conversations.CreateUserParams{Identity: &identity}); err != nil {
			t.Fatal(err)
		}
	}
	size := 25
	users, err := other.ListServiceUser(*service.Sid, &conversations.ListServiceUserParams{PageSize: &size})
	if err != nil || len(users) != 60 || *users[59].Identity != "user 59/é" || users[0].IsOnline != nil {
		t.Fatalf("ListServiceUser on the other node = %d users, %v; want 60", len(users), err)
	}

	online := func(want string) {
		t.Helper()
		for _, sid := range []string{*users[7].Sid, "user%207%2F%C3%A9"} {
			u, err := api.FetchUser(sid)
			if err != nil || rig.State(u.IsOnline) != want || u.IsNotifiable != nil {
				t.Errorf("FetchUser(%s) = %+v, %v; want is_online %s", sid, u, err, want)
			}
		}
	}
	online("null")
	token := func(context.Context) (string, error) {
		at := jwt.CreateAccessToken(jwt.AccessTokenParams{AccountSid: rig.Account, SigningKeySid: rig.KeySID, Secret: rig.KeySecret, Identity: "user 7/é"})
		at.AddGrant(&jwt.ChatGrant{ServiceSid: *service.Sid})
		return at.ToJwt()
	}
	c, err := client.Dial(t.Context(), two.WS(), client.Options{Token: token})
	if err != nil {
		t.Fatal(err)
	}
	online("true")
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	rig.Eventually(t, "the sign-out shows", func() error {
		u, err := api.FetchUser(*users[7].Sid)
		if err == nil && rig.State(u.IsOnline) != "false" {
			return rig.ErrNotYet
		}
		return err
	})
	online("false")

	// Deleted by REST on one node, a user is put out on the other, for good.
	c, err = client.Dial(t.Context(), two.WS(), client.Options{Token: token})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Drop()
	if err := api.DeleteUser(*users[7].Sid, nil); err != nil {
		t.Fatal(err)
	}
	rig.Eventually(t, "the deleted user is put out", func() error {
		select {
		case <-c.Done():
			return nil
		default:
			return rig.ErrNotYet
		}
	})
	_, err = other.FetchServiceUser(*service.Sid, *users[7].Sid)
	if e, ok := errors.AsType[*twilioclient.TwilioRestError](err); !ok || e.Status != 404 || e.Code != 20404 {
		t.Errorf("a deleted user = %v; want 404, 20404", err)
	}
	_, err = twilioOn(two, rig.Account, "wrong").FetchConfiguration()
	if e, ok := errors.AsType[*twilioclient.TwilioRestError](err); !ok || e.Status != 401 || e.Code != 20003 {
		t.Errorf("a wrong token = %v; want 401, 20003", err)
	}
}

package e2e

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	conversations "github.com/twilio/twilio-go/rest/conversations/v1"

	"github.com/rollcall-presence/rollcall/internal/testkit/rig"
	"github.com/rollcall-presence/rollcall/presence"
)

// users is the library's methods of one form of URL, so that both forms are held to
// the same.
type users struct {
	*tenant
	create func(*conversations.CreateServiceUserParams) (*conversations.ConversationsV1ServiceUser, error)
	list   func(*conversations.ListServiceUserParams) ([]conversations.ConversationsV1ServiceUser, error)
	fetch  func(sid string) (*conversations.ConversationsV1ServiceUser, error)
	update func(sid string, p *conversations.UpdateServiceUserParams) (*conversations.ConversationsV1ServiceUser, error)
	delete func(sid string, p *conversations.DeleteServiceUserParams) error
	path   string // of the collection
}

func longForm(tn *tenant) users {
	return users{
		tenant: tn, path: tn.base("/Users"),
		create: func(p *conversations.CreateServiceUserParams) (*conversations.ConversationsV1ServiceUser, error) {
			return tn.api.CreateServiceUser(tn.service, p)
		},
		list: func(p *conversations.ListServiceUserParams) ([]conversations.ConversationsV1ServiceUser, error) {
			return tn.api.ListServiceUser(tn.service, p)
		},
		fetch: func(sid string) (*conversations.ConversationsV1ServiceUser, error) {
			return tn.api.FetchServiceUser(tn.service, sid)
		},
		update: func(sid string, p *conversations.UpdateServiceUserParams) (*conversations.ConversationsV1ServiceUser, error) {
			return tn.api.UpdateServiceUser(tn.service, sid, p)
		},
		delete: func(sid string, p *conversations.DeleteServiceUserParams) error {
			return tn.api.DeleteServiceUser(tn.service, sid, p)
		},
	}
}

// shortForm is that of the default service.
func shortForm(c *contract) users {
	as := func(u *conversations.ConversationsV1User, err error) (*conversations.ConversationsV1ServiceUser, error) {
		if err != nil {
			return nil, err
		}
		return new(conversations.ConversationsV1ServiceUser(*u)), nil
	}
	return users{
		tenant: c.main, path: "/v1/Users",
		create: func(p *conversations.CreateServiceUserParams) (*conversations.ConversationsV1ServiceUser, error) {
			return as(c.api.CreateUser((*conversations.CreateUserParams)(p)))
		},
		list: func(p *conversations.ListServiceUserParams) (all []conversations.ConversationsV1ServiceUser, err error) {
			got, err := c.api.ListUser((*conversations.ListUserParams)(p))
			for _, u := range got {
				all = append(all, conversations.ConversationsV1ServiceUser(u))
			}
			return all, err
		},
		fetch: func(sid string) (*conversations.ConversationsV1ServiceUser, error) { return as(c.api.FetchUser(sid)) },
		update: func(sid string, p *conversations.UpdateServiceUserParams) (*conversations.ConversationsV1ServiceUser, error) {
			return as(c.api.UpdateUser(sid, (*conversations.UpdateUserParams)(p)))
		},
		delete: func(sid string, p *conversations.DeleteServiceUserParams) error {
			return c.api.DeleteUser(sid, (*conversations.DeleteUserParams)(p))
		},
	}
}

var userOperations = slices.Concat(
	usersIn("ServiceUser", func(t *testing.T, c *contract) users { return longForm(c.newTenant(t, "of users")) }),
	usersIn("User", func(_ *testing.T, c *contract) users { return shortForm(c) }),
)

// usersIn are the operations of users in one form of URL.
// deep are attributes of a level more than may be.
var deep = strings.Repeat("%5B", presence.MaxAttributesDepth+1) + strings.Repeat("%5D", presence.MaxAttributesDepth+1)

func usersIn(name string, form func(*testing.T, *contract) users) []operation {
	in := func(run func(t *testing.T, in users)) func(*testing.T, *contract) {
		return func(t *testing.T, c *contract) { run(t, form(t, c)) }
	}
	return []operation{
		{id: "Create" + name, params: "Identity=another", run: in(createsUser), refuses: []refusal{
			{what: "no identity", status: 400, code: 50204},
			{what: "an empty identity", params: "Identity=", status: 400, code: 50204},
			{what: "an identity like a SID", params: "Identity=US" + noSID, status: 400, code: 50206},
			{what: "a long identity", params: "Identity=" + strings.Repeat("a", 257), status: 400, code: 50207},
			{what: "an identity that is no text", params: "Identity=%FF", status: 400, code: 20001},
			{what: "an identity that is taken", params: "Identity=alice+of+main", status: 409, code: 50201},
			{what: "a long name", params: "Identity=a&FriendlyName=" + strings.Repeat("%C3%A9", 257), status: 400, code: 50003},
			{what: "attributes that are not JSON", params: "Identity=a&Attributes=%7B", status: 400, code: 50304},
			{what: "attributes that are too deep", params: "Identity=a&Attributes=" + deep, status: 400, code: 50304},
			{what: "long attributes", params: "Identity=a&Attributes=%22" + strings.Repeat("a", 16<<10) + "%22", status: 400, code: 50303},
			{what: "no role", params: "Identity=a&RoleSid=RL" + noSID, status: 400, code: 50100},
			{what: "a role of the other type", prepare: otherRole("Identity=a&RoleSid", "conversation"), status: 400, code: 50105},
		}},
		{id: "List" + name, run: in(listsUsers), refuses: listRefusals},
		{id: "Fetch" + name, run: in(fetchesUser)},
		{id: "Update" + name, run: in(updatesUser), refuses: []refusal{
			{what: "a long name", params: "FriendlyName=" + strings.Repeat("%C3%A9", 257), status: 400, code: 50003},
			{what: "attributes that are not JSON", params: "Attributes=%7B", status: 400, code: 50304},
			{what: "attributes that are too deep", params: "Attributes=" + deep, status: 400, code: 50304},
			{what: "long attributes", params: "Attributes=%22" + strings.Repeat("a", 16<<10) + "%22", status: 400, code: 50303},
			{what: "no role", params: "RoleSid=RL" + noSID, status: 400, code: 50100},
			{what: "a role of the other type", prepare: otherRole("RoleSid", "conversation"), status: 400, code: 50105},
			{what: "what the backend denies", hooked: true, prepare: denied, status: 400, code: 50056},
		}},
		{id: "Delete" + name, run: in(deletesUser)},
	}
}

// denied gives the main tenant a backend that denies every change, for a while.
func denied(t *testing.T, c *contract) (path, params string) {
	back := newTarget(t)
	back.status.Store(http.StatusForbidden)
	ask := func(at string) {
		if _, err := c.api.UpdateServiceWebhookConfiguration(c.main.service, &conversations.UpdateServiceWebhookConfigurationParams{
			PreWebhookUrl: &at, Filters: &[]string{"onUserUpdate", "onUserUpdated"},
		}); err != nil {
			t.Error(err)
		}
	}
	ask(back.URL)
	t.Cleanup(func() { ask("") })
	return "", "FriendlyName=denied"
}

// careful are identities that have to be escaped in a path.
var careful = []string{"a b+é@x", "a/b", "a?b", "a#b", "a%2Fb", "..", "%", "null", "\n"}

func createsUser(t *testing.T, in users) {
	for _, identity := range careful {
		u, err := in.create(&conversations.CreateServiceUserParams{
			Identity: &identity, FriendlyName: new("Ann & Bob"), Attributes: new(`{ "duty": "tech" }`), RoleSid: &in.role, XTwilioWebhookEnabled: new("true"),
		})
		if err != nil {
			t.Errorf("%q: %v", identity, err)
			continue
		}
		same(t, "identity", u.Identity, identity)
		same(t, "friendly_name", u.FriendlyName, "Ann & Bob")
		same(t, "attributes, to the space", u.Attributes, `{ "duty": "tech" }`)
		same(t, "role_sid", u.RoleSid, in.role)
		same(t, "account_sid", u.AccountSid, rig.Account)
		same(t, "chat_service_sid", u.ChatServiceSid, in.service)
		if !strings.HasSuffix(*u.Url, in.path+"/"+*u.Sid) || (*u.Links)["user_conversations"] != *u.Url+"/Conversations" {
			t.Errorf("url %s, links %v; want the form of the request, %s", *u.Url, *u.Links, in.path)
		}
		if u.IsOnline != nil || u.IsNotifiable != nil {
			t.Errorf("%q reads %s, %s; want null, null", identity, show(u.IsOnline), show(u.IsNotifiable))
		}
	}
	u, err := in.create(&conversations.CreateServiceUserParams{Identity: new("bare")})
	if err != nil {
		t.Fatal(err)
	}
	same(t, "attributes at first", u.Attributes, "{}")
	same(t, "role_sid at first", u.RoleSid, in.role)
	if u.FriendlyName != nil {
		t.Errorf("friendly_name at first = %s; want null", *u.FriendlyName)
	}
	if _, err := in.create(&conversations.CreateServiceUserParams{Identity: new("Bare")}); err != nil {
		t.Errorf("an identity in another case: %v; want another user", err)
	}
}

func listsUsers(t *testing.T, in users) {
	want := in.pages(t, in.path, "", "users", "sid")
	for i := range 7 {
		u, err := in.create(&conversations.CreateServiceUserParams{Identity: new(fmt.Sprintf("listed.%d", i))})
		if err != nil {
			t.Fatal(err)
		}
		want = append(want, *u.Sid)
	}
	in.connect(t, "listed.0")
	in.wantOnline(t, "listed.0", "true")
	if got := in.pages(t, in.path, "", "users", "sid"); !slices.Equal(got, want) {
		t.Errorf("pages of users = %v; want %v, in the order of their creation", got, want)
	}
	for _, p := range []conversations.ListServiceUserParams{{}, {PageSize: new(2)}, {Limit: new(3)}, {Limit: new(1000)}, {PageSize: new(1000)}} {
		got, err := in.list(&p)
		if err != nil || len(got) != min(len(want), limit(p.Limit)) {
			t.Fatalf("list(%+v) = %d users, %v; want %d", p, len(got), err, min(len(want), limit(p.Limit)))
		}
		for i, u := range got {
			if *u.Sid != want[i] || u.IsOnline != nil || u.IsNotifiable != nil {
				t.Errorf("list(%+v)[%d] = %s, %s, %s; want %s, and nulls", p, i, *u.Sid, show(u.IsOnline), show(u.IsNotifiable), want[i])
			}
		}
	}
}

func fetchesUser(t *testing.T, in users) {
	for _, identity := range careful {
		_, _ = in.create(&conversations.CreateServiceUserParams{Identity: &identity}) // or it is there
		u, err := in.fetch(strings.ReplaceAll(url.PathEscape(identity), ".", "%2E"))
		if err != nil {
			t.Errorf("%q: %v", identity, err)
			continue
		}
		same(t, "identity", u.Identity, identity)
		bySID, err := in.fetch(*u.Sid)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.HasSuffix(*bySID.Url, in.path+"/"+*u.Sid) {
			t.Errorf("url %s; want the form of the request, %s", *bySID.Url, in.path)
		}
	}
	// What the library makes of names that were not escaped must stay a plain 404.
	for _, identity := range []string{"ab/ab", "nobody?x", "nobody#x"} {
		_, err := in.fetch(identity)
		wantError(t, identity, err, 404, 20404)
	}
}

func updatesUser(t *testing.T, in users) {
	u, err := in.create(&conversations.CreateServiceUserParams{Identity: new("changing"), FriendlyName: new("Before")})
	if err != nil {
		t.Fatal(err)
	}
	_, err = in.update("changing", &conversations.UpdateServiceUserParams{Attributes: new(`[1,"2"]`), RoleSid: &in.role, XTwilioWebhookEnabled: new("true")})
	if err != nil {
		t.Fatal(err)
	}
	after, err := in.update(*u.Sid, &conversations.UpdateServiceUserParams{FriendlyName: new("After")})
	if err != nil {
		t.Fatal(err)
	}
	same(t, "friendly_name", after.FriendlyName, "After")
	same(t, "attributes", after.Attributes, `[1,"2"]`)
	unchanged, err := in.update(*u.Sid, nil)
	if err != nil || !unchanged.DateUpdated.Equal(*after.DateUpdated) {
		t.Errorf("an update of nothing = %v, %v; want date_updated kept", show(unchanged.DateUpdated), err)
	}
	// What is read-only stays as it is.
	a := in.must(t, "POST", in.path+"/changing", "IsOnline=true&IsNotifiable=true&Identity=other&Unknown=x")
	if err := a.is(object{"identity": "changing", "is_online": nil, "is_notifiable": nil}); err != nil {
		t.Error(err)
	}
	cleared, err := in.update("changing", &conversations.UpdateServiceUserParams{Attributes: new("")})
	if err != nil {
		t.Fatal(err)
	}
	same(t, "attributes cleared", cleared.Attributes, "{}")
}

func deletesUser(t *testing.T, in users) {
	for _, header := range []*conversations.DeleteServiceUserParams{nil, {XTwilioWebhookEnabled: new("true")}} {
		u, err := in.create(&conversations.CreateServiceUserParams{Identity: new("leaving"), FriendlyName: new("Gone")})
		if err != nil {
			t.Fatal(err)
		}
		session := in.connect(t, "leaving")
		in.wantOnline(t, "leaving", "true")
		binding := in.bind(t, "leaving", "fcm", "of who leaves", "")
		if err := in.delete("leaving", header); err != nil {
			t.Fatal(err)
		}
		rig.Eventually(t, "its session is ended", func() error {
			select {
			case <-session.Done():
				return nil
			default:
				return rig.ErrNotYet
			}
		})
		for _, by := range []string{"leaving", *u.Sid} {
			_, err = in.fetch(by)
			wantError(t, "fetching it by "+by, err, 404, 20404)
			_, err = in.update(by, nil)
			wantError(t, "updating it by "+by, err, 404, 20404)
			wantError(t, "deleting it again by "+by, in.delete(by, nil), 404, 20404)
		}
		_, err = in.api.FetchServiceBinding(in.service, binding)
		wantError(t, "fetching its binding", err, 404, 20404)
		again, err := in.create(&conversations.CreateServiceUserParams{Identity: new("leaving")})
		if err != nil || *again.Sid == *u.Sid || again.FriendlyName != nil || again.IsOnline != nil || again.IsNotifiable != nil {
			t.Errorf("made again = %+v, %v; want a new user that was never online or registered", again, err)
		}
		if err := in.delete("leaving", nil); err != nil {
			t.Fatal(err)
		}
	}
}

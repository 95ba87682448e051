package e2e

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	conversations "github.com/twilio/twilio-go/rest/conversations/v1"

	"github.com/rollcall-presence/rollcall/internal/testkit/rig"
)

// roles is the library's methods of one form of URL.
type roles struct {
	*tenant
	create func(*conversations.CreateServiceRoleParams) (*conversations.ConversationsV1ServiceRole, error)
	list   func(*conversations.ListServiceRoleParams) ([]conversations.ConversationsV1ServiceRole, error)
	fetch  func(sid string) (*conversations.ConversationsV1ServiceRole, error)
	update func(sid string, p *conversations.UpdateServiceRoleParams) (*conversations.ConversationsV1ServiceRole, error)
	delete func(sid string) error
	path   string // of the collection
}

func longRoles(tn *tenant) roles {
	return roles{
		tenant: tn, path: tn.base("/Roles"),
		create: func(p *conversations.CreateServiceRoleParams) (*conversations.ConversationsV1ServiceRole, error) {
			return tn.api.CreateServiceRole(tn.service, p)
		},
		list: func(p *conversations.ListServiceRoleParams) ([]conversations.ConversationsV1ServiceRole, error) {
			return tn.api.ListServiceRole(tn.service, p)
		},
		fetch: func(sid string) (*conversations.ConversationsV1ServiceRole, error) {
			return tn.api.FetchServiceRole(tn.service, sid)
		},
		update: func(sid string, p *conversations.UpdateServiceRoleParams) (*conversations.ConversationsV1ServiceRole, error) {
			return tn.api.UpdateServiceRole(tn.service, sid, p)
		},
		delete: func(sid string) error { return tn.api.DeleteServiceRole(tn.service, sid) },
	}
}

func shortRoles(c *contract) roles {
	as := func(r *conversations.ConversationsV1Role, err error) (*conversations.ConversationsV1ServiceRole, error) {
		if err != nil {
			return nil, err
		}
		return new(conversations.ConversationsV1ServiceRole(*r)), nil
	}
	return roles{
		tenant: c.main, path: "/v1/Roles",
		create: func(p *conversations.CreateServiceRoleParams) (*conversations.ConversationsV1ServiceRole, error) {
			return as(c.api.CreateRole((*conversations.CreateRoleParams)(p)))
		},
		list: func(p *conversations.ListServiceRoleParams) (all []conversations.ConversationsV1ServiceRole, err error) {
			got, err := c.api.ListRole((*conversations.ListRoleParams)(p))
			for _, r := range got {
				all = append(all, conversations.ConversationsV1ServiceRole(r))
			}
			return all, err
		},
		fetch: func(sid string) (*conversations.ConversationsV1ServiceRole, error) { return as(c.api.FetchRole(sid)) },
		update: func(sid string, p *conversations.UpdateServiceRoleParams) (*conversations.ConversationsV1ServiceRole, error) {
			return as(c.api.UpdateRole(sid, (*conversations.UpdateRoleParams)(p)))
		},
		delete: c.api.DeleteRole,
	}
}

var roleOperations = slices.Concat(
	rolesIn("ServiceRole", func(t *testing.T, c *contract) roles { return longRoles(c.newTenant(t, "of roles")) }),
	rolesIn("Role", func(_ *testing.T, c *contract) roles { return shortRoles(c) }),
)

// rolesIn are the operations of roles in one form of URL.
func rolesIn(name string, form func(*testing.T, *contract) roles) []operation {
	in := func(run func(t *testing.T, in roles)) func(*testing.T, *contract) {
		return func(t *testing.T, c *contract) { run(t, form(t, c)) }
	}
	const rest = "&Type=service&Permission=joinConversation"
	return []operation{
		{id: "Create" + name, params: "FriendlyName=r" + rest, run: in(createsRole), refuses: []refusal{
			{what: "no name", params: rest[1:], status: 400, code: 50000},
			{what: "a long name", params: "FriendlyName=" + strings.Repeat("%C3%A9", 65) + rest, status: 400, code: 50003},
			{what: "no type", params: "FriendlyName=r&Permission=joinConversation", status: 400, code: 50105},
			{what: "another type", params: "FriendlyName=r&Type=channel&Permission=joinConversation", status: 400, code: 50105},
			{what: "more than a service may have", status: 409, code: 20409, prepare: manyRoles(rest)},
			{what: "no permission", params: "FriendlyName=r&Type=service", status: 400, code: 20001},
		}},
		{id: "List" + name, run: in(listsRoles), refuses: listRefusals},
		{id: "Fetch" + name, run: in(fetchesRole)},
		{id: "Update" + name, params: "Permission=sendMessage", run: in(updatesRole), refuses: []refusal{
			{what: "an empty permission", params: "Permission=", status: 400, code: 20001},
		}},
		{id: "Delete" + name, run: in(deletesRole), refuses: []refusal{
			{what: "a default role", status: 409, code: 20409},
		}},
	}
}

// manyRoles fills a service with roles, which has four from the start.
func manyRoles(rest string) func(*testing.T, *contract) (path, params string) {
	return func(t *testing.T, c *contract) (path, params string) {
		in := longRoles(c.newTenant(t, "of many roles"))
		for range 96 {
			in.make(t, "one of many", "service", "joinConversation")
		}
		return in.path, "FriendlyName=one+more" + rest
	}
}

func (in roles) make(t *testing.T, name, kind string, permissions ...string) *conversations.ConversationsV1ServiceRole {
	t.Helper()
	r, err := in.create(&conversations.CreateServiceRoleParams{FriendlyName: &name, Type: &kind, Permission: &permissions})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// wantPermissions fails unless a role permits just that.
func wantPermissions(t *testing.T, r *conversations.ConversationsV1ServiceRole, want ...string) {
	t.Helper()
	slices.Sort(want)
	if r.Permissions == nil || !slices.Equal(slices.Sorted(slices.Values(*r.Permissions)), want) {
		t.Errorf("permissions %v; want %v", show(r.Permissions), want)
	}
}

func createsRole(t *testing.T, in roles) {
	r := in.make(t, "Prüfer & Co", "service", "joinConversation", "editOwnUserInfo")
	same(t, "friendly_name", r.FriendlyName, "Prüfer & Co")
	same(t, "type", r.Type, "service")
	same(t, "chat_service_sid", r.ChatServiceSid, in.service)
	same(t, "account_sid", r.AccountSid, rig.Account)
	wantPermissions(t, r, "joinConversation", "editOwnUserInfo")
	if !strings.HasSuffix(*r.Url, in.path+"/"+*r.Sid) {
		t.Errorf("url %s; want the form of the request, %s", *r.Url, in.path)
	}

	// It can be given to users and be the default of new ones; a role of the other
	// type cannot.
	u, err := in.api.UpdateServiceUser(in.service, in.alice, &conversations.UpdateServiceUserParams{RoleSid: r.Sid})
	if err != nil {
		t.Fatal(err)
	}
	same(t, "role_sid of a user", u.RoleSid, *r.Sid)
	if _, err := in.api.UpdateServiceConfiguration(in.service, &conversations.UpdateServiceConfigurationParams{DefaultChatServiceRoleSid: r.Sid}); err != nil {
		t.Fatal(err)
	}
	fresh, err := in.api.CreateServiceUser(in.service, &conversations.CreateServiceUserParams{Identity: new("with the new default")})
	if err != nil {
		t.Fatal(err)
	}
	same(t, "role_sid of a new user", fresh.RoleSid, *r.Sid)
	if _, err := in.api.UpdateServiceConfiguration(in.service, &conversations.UpdateServiceConfigurationParams{DefaultChatServiceRoleSid: &in.role}); err != nil {
		t.Fatal(err)
	}
	talk := in.make(t, "talk", "conversation", "sendMessage")
	_, err = in.api.UpdateServiceUser(in.service, in.alice, &conversations.UpdateServiceUserParams{RoleSid: talk.Sid})
	wantError(t, "a conversation role for a user", err, 400, 50105)
	_, err = in.api.UpdateServiceConfiguration(in.service, &conversations.UpdateServiceConfigurationParams{DefaultConversationRoleSid: r.Sid})
	wantError(t, "a service role for conversations", err, 400, 50105)
}

func listsRoles(t *testing.T, in roles) {
	stock, err := in.list(nil)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, r := range stock {
		names = append(names, *r.Type+": "+*r.FriendlyName)
	}
	for _, want := range []string{"service: service admin", "service: service user", "conversation: channel admin", "conversation: channel user"} {
		if !slices.Contains(names, want) {
			t.Errorf("roles %v; want among them %s", names, want)
		}
	}
	want := in.pages(t, in.path, "", "roles", "sid")
	for i := range 3 {
		want = append(want, *in.make(t, fmt.Sprint("listed ", i), "service", "joinConversation").Sid)
	}
	if got := in.pages(t, in.path, "", "roles", "sid"); !slices.Equal(got, want) {
		t.Errorf("pages of roles = %v; want %v, in the order of their creation", got, want)
	}
	for _, p := range []conversations.ListServiceRoleParams{{}, {PageSize: new(2)}, {Limit: new(3)}, {PageSize: new(1000)}} {
		got, err := in.list(&p)
		if err != nil || len(got) != min(len(want), limit(p.Limit)) {
			t.Errorf("list(%+v) = %d roles, %v; want %d", p, len(got), err, min(len(want), limit(p.Limit)))
		}
	}
}

func fetchesRole(t *testing.T, in roles) {
	conf, err := in.api.FetchServiceConfiguration(in.service)
	if err != nil {
		t.Fatal(err)
	}
	for sid, kind := range map[*string]string{
		conf.DefaultChatServiceRoleSid: "service", conf.DefaultConversationRoleSid: "conversation", conf.DefaultConversationCreatorRoleSid: "conversation",
	} {
		r, err := in.fetch(*sid)
		if err != nil {
			t.Fatal(err)
		}
		same(t, "type of a default role", r.Type, kind)
		if len(*r.Permissions) == 0 {
			t.Errorf("the default role %s permits nothing", *r.FriendlyName)
		}
	}
}

func updatesRole(t *testing.T, in roles) {
	r := in.make(t, "changing", "conversation", "sendMessage", "leaveConversation")
	changed, err := in.update(*r.Sid, &conversations.UpdateServiceRoleParams{Permission: &[]string{"sendMediaMessage"}})
	if err != nil {
		t.Fatal(err)
	}
	wantPermissions(t, changed, "sendMediaMessage")
	if a := in.must(t, http.MethodPost, in.path+"/"+*r.Sid, ""); fmt.Sprint(a["permissions"]) != "[sendMediaMessage]" {
		t.Errorf("permissions after an update of nothing = %v; want them kept", a["permissions"])
	}
}

func deletesRole(t *testing.T, in roles) {
	r := in.make(t, "short-lived", "service", "joinConversation")
	if err := in.delete(*r.Sid); err != nil {
		t.Fatal(err)
	}
	_, err := in.fetch(*r.Sid)
	wantError(t, "fetching it", err, 404, 20404)
	wantError(t, "deleting it again", in.delete(*r.Sid), 404, 20404)
	_, err = in.api.UpdateServiceUser(in.service, in.alice, &conversations.UpdateServiceUserParams{RoleSid: r.Sid})
	wantError(t, "giving it to a user", err, 400, 50100)
}

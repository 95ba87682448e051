package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	conversations "github.com/twilio/twilio-go/rest/conversations/v1"

	"github.com/rollcall-presence/rollcall/client"

	"github.com/rollcall-presence/rollcall/internal/testkit/rig"
)

// tenant is a service with one of everything in it.
type tenant struct {
	*contract
	service, name string
	alice         string // SID of its user, whose identity is also the tenant's
	identity      string
	role          string            // a service role
	has           map[string]string // collection of a path -> what stands for one of it
}

// newTenant makes a service and fills it.
func (c *contract) newTenant(t *testing.T, name string) *tenant {
	t.Helper()
	s, err := c.api.CreateService(&conversations.CreateServiceParams{FriendlyName: &name})
	if err != nil {
		t.Fatal(err)
	}
	return c.furnish(t, *s.Sid, name)
}

// furnish switches a service on and puts one of everything into it. All that can be
// named carries the tenant's name.
func (c *contract) furnish(t *testing.T, service, name string) *tenant {
	t.Helper()
	conf, err := c.api.UpdateServiceConfiguration(service, &conversations.UpdateServiceConfigurationParams{ReachabilityEnabled: new(true)})
	if err != nil {
		t.Fatal(err)
	}
	tn := &tenant{contract: c, service: service, name: name, identity: "alice of " + name, role: *conf.DefaultChatServiceRoleSid}
	u, err := c.api.CreateServiceUser(service, &conversations.CreateServiceUserParams{
		Identity: &tn.identity, FriendlyName: new("Alice of " + name), Attributes: new(fmt.Sprintf(`{"of":%q}`, name)),
	})
	if err != nil {
		t.Fatal(err)
	}
	tn.alice = *u.Sid
	key := c.must(t, http.MethodPost, "/v1/Keys", "FriendlyName="+url.QueryEscape(name))
	tn.has = map[string]string{
		"Services": service, "Users": tn.alice, "Roles": tn.role, "Keys": key["sid"].(string), "Credentials": c.credential(t, "fcm"),
	}
	tn.has["Bindings"] = tn.bind(t, tn.identity, "fcm", "device of "+name, "CredentialSid="+tn.has["Credentials"])
	tn.connect(t, tn.identity)
	tn.has["Sessions"] = c.list(t, tn.base("/Users/"+tn.alice+"/Sessions"), "sessions", "id")[0]
	return tn
}

// of is what stands for one of a collection in a path.
func (tn *tenant) of(collection string) string {
	sid, ok := tn.has[collection]
	if !ok && collection == "DeadLetters" { // which take a hundred requests
		sid = tn.bury(tn.t, 1)[0]
		tn.has[collection], ok = sid, true
	}
	if !ok {
		tn.t.Fatalf("the tenant has nothing for a name below %s: furnish it", collection)
	}
	return sid
}

// path fills a pattern's names with what the tenant has.
func (tn *tenant) path(pattern string) string {
	return tn.pathBut(pattern, name{}, "")
}

// pathBut is path with something else in one place.
func (tn *tenant) pathBut(pattern string, but name, other string) string {
	for _, n := range names(pattern) {
		with := other
		if n != but {
			with = tn.of(n.collection)
		}
		pattern = strings.Replace(pattern, "/"+n.collection+"/"+n.as, "/"+n.collection+"/"+with, 1)
	}
	return pattern
}

// base is the path of the service, with more behind it.
func (tn *tenant) base(more string) string { return "/v1/Services/" + tn.service + more }

// connect opens a session of a user of the tenant.
func (tn *tenant) connect(t *testing.T, identity string) *client.Client {
	t.Helper()
	return rig.Connect(t, tn.nodes[int(tn.turn.Add(1))%len(tn.nodes)].WS(), tn.service, identity, client.Options{})
}

// wantOnline fails unless is_online of a user becomes what is wanted.
func (tn *tenant) wantOnline(t *testing.T, identity, want string) {
	t.Helper()
	rig.Eventually(t, identity+" reads "+want, func() error {
		u, err := tn.api.FetchServiceUser(tn.service, url.PathEscape(identity))
		if err == nil && rig.State(u.IsOnline) != want {
			return rig.ErrNotYet
		}
		return err
	})
}

func decode(body []byte) (a object, err error) {
	return a, json.Unmarshal(body, &a)
}

// is reports whether each named member has the value.
func (a object) is(want object) error {
	for member, value := range want {
		if got := a[member]; fmt.Sprint(got) != fmt.Sprint(value) {
			return fmt.Errorf("%s is %v; want %v", member, got, value)
		}
	}
	return nil
}

// same fails unless what the library read is there and as wanted.
func same[T comparable](t *testing.T, what string, got *T, want T) {
	t.Helper()
	if got == nil || *got != want {
		t.Errorf("%s = %v; want %v", what, show(got), want)
	}
}

// show is a pointer's value for messages and comparisons.
func show[T any](p *T) string {
	if p == nil {
		return "null"
	}
	return fmt.Sprint(*p)
}

// page is one page of a list: a member of each of its items, and what is told of it.
type page struct {
	items []string
	meta  map[string]any
}

// page reads one, from a path with its query.
func (c *contract) page(t *testing.T, at, key, member string) (p page) {
	t.Helper()
	path, query, _ := strings.Cut(at, "?")
	a := c.must(t, http.MethodGet, path, query)
	p.meta = a["meta"].(map[string]any)
	if p.meta["key"] != key {
		t.Errorf("%s: key %v; want %s", at, p.meta["key"], key)
	}
	for _, item := range a[key].([]any) {
		p.items = append(p.items, item.(map[string]any)[member].(string))
	}
	return p
}

// follow is the path of a page URL, which must be at a gateway that was asked.
func (c *contract) follow(t *testing.T, p page, to string) string {
	t.Helper()
	text, _ := p.meta[to].(string)
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "http" || !slices.ContainsFunc(c.nodes, func(n *rig.Node) bool { return n.Addr == u.Host }) {
		t.Fatalf("%s of %v is %v; want it at the origin of the request", to, p.meta["url"], p.meta[to])
	}
	return u.RequestURI()
}

// forward walks a list to its end, two at a time, by the URLs in the answers and
// nothing else.
func (c *contract) forward(t *testing.T, path, query, key, member string) (all []page) {
	t.Helper()
	at := strings.TrimSuffix(path+"?PageSize=2&"+query, "&")
	for {
		p := c.page(t, at, key, member)
		all = append(all, p)
		if n := len(all) - 1; p.meta["page"] != float64(n) || p.meta["page_size"] != 2.0 || len(p.items) > 2 {
			t.Errorf("%s: page %v of %v with %d items; want page %d of 2", at, p.meta["page"], p.meta["page_size"], len(p.items), n)
		}
		if again := c.page(t, c.follow(t, p, "url"), key, member); !slices.Equal(again.items, p.items) {
			t.Errorf("%s: its own URL gives %v; want %v", at, again.items, p.items)
		}
		if first := c.page(t, c.follow(t, p, "first_page_url"), key, member); !slices.Equal(first.items, all[0].items) {
			t.Errorf("%s: the first page is now %v; want %v", at, first.items, all[0].items)
		}
		if p.meta["next_page_url"] == nil {
			return all
		}
		at = c.follow(t, p, "next_page_url")
	}
}

// pages walks a list to its end and back again, and returns what its items have in
// member.
func (c *contract) pages(t *testing.T, path, query, key, member string) []string {
	t.Helper()
	there := c.forward(t, path, query, key, member)
	at := there[len(there)-1]
	for back := len(there) - 2; back >= 0; back-- {
		at = c.page(t, c.follow(t, at, "previous_page_url"), key, member)
		if !slices.Equal(at.items, there[back].items) {
			t.Errorf("%s?%s: back at page %d are %v; want %v", path, query, back, at.items, there[back].items)
		}
	}
	if at.meta["previous_page_url"] != nil {
		t.Errorf("%s?%s: there is a page before the first: %v", path, query, at.meta["previous_page_url"])
	}
	return items(there)
}

func items(pages []page) (all []string) {
	for _, p := range pages {
		all = append(all, p.items...)
	}
	return all
}

// listRefusals are what every list refuses.
var listRefusals = []refusal{
	{what: "a page of nothing", params: "PageSize=0", status: 400, code: 20001},
	{what: "a page size in words", params: "PageSize=abc", status: 400, code: 20001},
	{what: "a page without its token", params: "Page=3", status: 400, code: 20001},
	{what: "a token of nobody", params: "PageToken=PTnonsense&Page=1", status: 400, code: 20001},
}

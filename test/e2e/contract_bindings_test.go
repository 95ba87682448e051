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
)

var bindingOperations = []operation{
	{id: "CreateCredential", params: "Type=fcm", run: func(t *testing.T, c *contract) {
		for _, p := range []conversations.CreateCredentialParams{
			{Type: new("apn"), FriendlyName: new("Äpfel"), Certificate: new("-----BEGIN CERTIFICATE-----\nhush"), PrivateKey: new("-----BEGIN KEY-----\nhush"), Sandbox: new(true)},
			{Type: new("gcm"), ApiKey: new("hush")},
			{Type: new("fcm"), FriendlyName: new("push"), Secret: new("hush")},
		} {
			cr, err := c.api.CreateCredential(&p)
			if err != nil {
				t.Fatal(err)
			}
			same(t, "type", cr.Type, *p.Type)
			same(t, "account_sid", cr.AccountSid, rig.Account)
			if show(cr.FriendlyName) != show(p.FriendlyName) && (p.FriendlyName != nil || *cr.FriendlyName != "") {
				t.Errorf("friendly_name %s; want %s", show(cr.FriendlyName), show(p.FriendlyName))
			}
			if *p.Type == "apn" {
				same(t, "sandbox", cr.Sandbox, "True")
			}
			if a := c.must(t, http.MethodGet, "/v1/Credentials/"+*cr.Sid, ""); strings.Contains(fmt.Sprint(a), "hush") {
				t.Errorf("a credential shows its secret: %v", a)
			}
		}
	}, refuses: []refusal{
		{what: "no type", status: 400, code: 20001},
		{what: "a type that is none", params: "Type=twilsock", status: 400, code: 20001},
		{what: "a long name", params: "Type=fcm&FriendlyName=" + strings.Repeat("%C3%A9", 65), status: 400, code: 50003},
		{what: "a sandbox neither true nor false", params: "Type=apn&Sandbox=perhaps", status: 400, code: 20001},
	}},
	{id: "ListCredential", run: func(t *testing.T, c *contract) {
		want := c.pages(t, "/v1/Credentials", "", "credentials", "sid")
		for range 3 {
			want = append(want, c.credential(t, "fcm"))
		}
		if got := c.pages(t, "/v1/Credentials", "", "credentials", "sid"); !slices.Equal(got, want) {
			t.Errorf("pages of credentials = %v; want %v, in the order of their creation", got, want)
		}
		for _, p := range []conversations.ListCredentialParams{{}, {PageSize: new(2)}, {Limit: new(3)}, {PageSize: new(1000)}} {
			got, err := c.api.ListCredential(&p)
			if err != nil || len(got) != min(len(want), limit(p.Limit)) {
				t.Errorf("ListCredential(%+v) = %d, %v; want %d", p, len(got), err, min(len(want), limit(p.Limit)))
			}
		}
	}, refuses: listRefusals},
	{id: "FetchCredential", run: func(t *testing.T, c *contract) {
		sid := c.credential(t, "gcm")
		cr, err := c.api.FetchCredential(sid)
		if err != nil {
			t.Fatal(err)
		}
		same(t, "sid", cr.Sid, sid)
		if !strings.HasSuffix(*cr.Url, "/v1/Credentials/"+sid) {
			t.Errorf("url %s", *cr.Url)
		}
	}},
	{id: "UpdateCredential", run: func(t *testing.T, c *contract) {
		sid := c.credential(t, "apn")
		cr, err := c.api.UpdateCredential(sid, &conversations.UpdateCredentialParams{
			Type: new("apn"), FriendlyName: new("After"), Certificate: new("hush"), PrivateKey: new("hush"), Sandbox: new(false), ApiKey: new("hush"), Secret: new("hush"),
		})
		if err != nil {
			t.Fatal(err)
		}
		same(t, "friendly_name", cr.FriendlyName, "After")
		same(t, "sandbox", cr.Sandbox, "False")
		unchanged, err := c.api.UpdateCredential(sid, nil)
		if err != nil {
			t.Fatal(err)
		}
		same(t, "friendly_name after an update of nothing", unchanged.FriendlyName, "After")
	}, refuses: []refusal{
		{what: "a long name", params: "FriendlyName=" + strings.Repeat("%C3%A9", 65), status: 400, code: 50003},
	}},
	{id: "DeleteCredential", run: func(t *testing.T, c *contract) {
		tn := c.newTenant(t, "without a credential")
		sid := tn.has["Credentials"]
		tn.wantNotifiable(t, tn.identity, "true")
		if err := c.api.DeleteCredential(sid); err != nil {
			t.Fatal(err)
		}
		_, err := c.api.FetchCredential(sid)
		wantError(t, "fetching it", err, 404, 20404)
		wantError(t, "deleting it again", c.api.DeleteCredential(sid), 404, 20404)
		// What hung on it goes with it.
		tn.wantNotifiable(t, tn.identity, "false")
		rig.Eventually(t, "the bindings of the credential are gone", func() error {
			if left, err := c.api.ListServiceBinding(tn.service, nil); err != nil || len(left) > 0 {
				return fmt.Errorf("%d are left, %w", len(left), err)
			}
			return nil
		})
	}},

	{id: "CreateServiceUserBinding", params: "BindingType=fcm&Address=x", run: func(t *testing.T, c *contract) {
		tn, cr := c.newTenant(t, "registered"), c.credential(t, "apn")
		path := tn.base("/Users/" + tn.alice + "/Bindings")
		made := c.must(t, http.MethodPost, path, url.Values{
			"BindingType": {"apn"}, "Address": {"a & b"}, "CredentialSid": {cr}, "MessageTypes": {"new_message", "removed_from_conversation"}, "ExpiresIn": {"3600"},
		}.Encode())
		if err := made.is(object{"endpoint": "a & b", "binding_type": "apn", "credential_sid": cr, "identity": tn.identity, "message_types": "[new_message removed_from_conversation]"}); err != nil {
			t.Error(err)
		}
		if again := tn.bind(t, tn.identity, "apn", "a & b", ""); again != made["sid"] {
			t.Errorf("registered again it is %s; want it to stay %s", again, made["sid"])
		}
		if _, err := c.api.CreateServiceUser(tn.service, &conversations.CreateServiceUserParams{Identity: new("bob")}); err != nil {
			t.Fatal(err)
		}
		if moved := tn.bind(t, "bob", "apn", "a & b", ""); moved == made["sid"] {
			t.Errorf("another user's binding is %s, too", moved)
		}
		_, err := c.api.FetchServiceBinding(tn.service, made["sid"].(string))
		wantError(t, "the binding that the address moved from", err, 404, 20404)
		if web := tn.bind(t, "bob", "webpush", "https://push.example.com/1", ""); web == "" {
			t.Error("no SID")
		}
	}, refuses: []refusal{
		{what: "no type", params: "Address=x", status: 400, code: 20001},
		{what: "no address", params: "BindingType=fcm", status: 400, code: 20001},
		{what: "a type that is none", params: "BindingType=pigeon&Address=x", status: 400, code: 50209},
		{what: "a long address", params: "BindingType=fcm&Address=" + strings.Repeat("x", 4097), status: 400, code: 20001},
		{what: "no credential", params: "BindingType=fcm&Address=x&CredentialSid=CR" + noSID, status: 400, code: 20001},
		{what: "a life too short", params: "BindingType=fcm&Address=x&ExpiresIn=59", status: 400, code: 20001},
		{what: "more than a user may have", status: 409, code: 20409, prepare: func(t *testing.T, c *contract) (path, params string) {
			tn := c.newTenant(t, "of many bindings")
			for i := range 19 { // and the one that it has
				tn.bind(t, tn.identity, "fcm", fmt.Sprint("device ", i), "")
			}
			return tn.path("/v1/Services/{ChatServiceSid}/Users/{Sid}/Bindings"), "BindingType=fcm&Address=one+more"
		}},
		{what: "a message type that is none", params: "BindingType=fcm&Address=x&MessageTypes=smoke", status: 400, code: 20001},
	}},
	{id: "ListServiceUserBinding", run: func(t *testing.T, c *contract) {
		tn := c.newTenant(t, "of one user's bindings")
		if _, err := c.api.CreateServiceUser(tn.service, &conversations.CreateServiceUserParams{Identity: new("bob")}); err != nil {
			t.Fatal(err)
		}
		tn.bind(t, "bob", "fcm", "not alice's", "")
		want := []string{tn.has["Bindings"]}
		for i := range 4 {
			want = append(want, tn.bind(t, tn.identity, "fcm", fmt.Sprint(i), ""))
		}
		if got := c.pages(t, tn.base("/Users/"+tn.alice+"/Bindings"), "", "bindings", "sid"); !slices.Equal(got, want) {
			t.Errorf("pages of a user's bindings = %v; want %v", got, want)
		}
	}, refuses: listRefusals},

	{id: "ListServiceBinding", run: func(t *testing.T, c *contract) {
		tn := c.newTenant(t, "of bindings")
		if err := c.api.DeleteServiceBinding(tn.service, tn.has["Bindings"]); err != nil {
			t.Fatal(err)
		}
		if none, err := c.api.ListServiceBinding(tn.service, nil); err != nil || len(none) != 0 {
			t.Fatalf("bindings at first = %v, %v; want none", none, err)
		}
		fcm, apn := c.credential(t, "fcm"), c.credential(t, "apn")
		for _, identity := range []string{"bob", "car&ol"} {
			if _, err := c.api.CreateServiceUser(tn.service, &conversations.CreateServiceUserParams{Identity: &identity}); err != nil {
				t.Fatal(err)
			}
		}
		want := []string{
			tn.bind(t, tn.identity, "fcm", "1", "CredentialSid="+fcm), tn.bind(t, "bob", "apn", "2", "CredentialSid="+apn),
			tn.bind(t, "bob", "fcm", "3", "CredentialSid="+fcm), tn.bind(t, "car&ol", "apn", "4", "CredentialSid="+apn), tn.bind(t, "car&ol", "gcm", "5", ""),
		}
		if got := c.pages(t, tn.base("/Bindings"), "", "bindings", "sid"); !slices.Equal(got, want) {
			t.Errorf("pages of bindings = %v; want %v, in the order of their creation", got, want)
		}
		for _, f := range []struct {
			types, identities []string
			want              []string
		}{
			{nil, nil, want},
			{[]string{"apn"}, nil, []string{want[1], want[3]}},
			{[]string{"apn", "gcm"}, nil, []string{want[1], want[3], want[4]}},
			{nil, []string{"bob"}, want[1:3]},
			{nil, []string{"bob", tn.identity}, want[:3]},
			{[]string{"fcm"}, []string{"bob", "car&ol"}, want[2:3]},
			{[]string{"twilsock"}, nil, nil},
			{nil, []string{"nobody"}, nil},
		} {
			query := url.Values{"BindingType": f.types, "Identity": f.identities}
			if got := c.pages(t, tn.base("/Bindings"), query.Encode(), "bindings", "sid"); !slices.Equal(got, f.want) {
				t.Errorf("pages of bindings of %v and %v = %v; want %v", f.types, f.identities, got, f.want)
			}
			p := conversations.ListServiceBindingParams{PageSize: new(2)}
			if f.types != nil {
				p.BindingType = &f.types
			}
			if f.identities != nil {
				p.Identity = &f.identities
			}
			got, err := c.api.ListServiceBinding(tn.service, &p)
			if err != nil || !slices.EqualFunc(got, f.want, func(b conversations.ConversationsV1ServiceBinding, sid string) bool { return *b.Sid == sid }) {
				t.Errorf("ListServiceBinding(%v, %v) = %d, %v; want %d", f.types, f.identities, len(got), err, len(f.want))
			}
		}
	}, refuses: append([]refusal{
		{what: "a type that is none", params: "BindingType=pigeon", status: 400, code: 50209},
	}, listRefusals...)},
	{id: "FetchServiceBinding", run: func(t *testing.T, c *contract) {
		tn, cr := c.newTenant(t, "bound"), c.credential(t, "apn")
		sid := tn.bind(t, tn.identity, "apn", "device token", "CredentialSid="+cr)
		b, err := c.api.FetchServiceBinding(tn.service, sid)
		if err != nil {
			t.Fatal(err)
		}
		same(t, "endpoint", b.Endpoint, "device token")
		same(t, "identity", b.Identity, tn.identity)
		same(t, "binding_type", b.BindingType, "apn")
		same(t, "credential_sid", b.CredentialSid, cr)
		same(t, "chat_service_sid", b.ChatServiceSid, tn.service)
		if !strings.HasSuffix(*b.Url, tn.base("/Bindings/"+sid)) || len(*b.MessageTypes) == 0 {
			t.Errorf("url %s, message_types %v", *b.Url, *b.MessageTypes)
		}
	}},
	{id: "DeleteServiceBinding", run: func(t *testing.T, c *contract) {
		tn := c.newTenant(t, "unbound")
		if _, err := c.api.CreateServiceUser(tn.service, &conversations.CreateServiceUserParams{Identity: new("bob")}); err != nil {
			t.Fatal(err)
		}
		tn.wantNotifiable(t, "bob", "null")
		one, other := tn.bind(t, "bob", "fcm", "1", ""), tn.bind(t, "bob", "fcm", "2", "")
		tn.wantNotifiable(t, "bob", "true")
		if err := c.api.DeleteServiceBinding(tn.service, one); err != nil {
			t.Fatal(err)
		}
		tn.wantNotifiable(t, "bob", "true")
		if err := c.api.DeleteServiceBinding(tn.service, other); err != nil {
			t.Fatal(err)
		}
		tn.wantNotifiable(t, "bob", "false")
		_, err := c.api.FetchServiceBinding(tn.service, one)
		wantError(t, "fetching it", err, 404, 20404)
		wantError(t, "deleting it again", c.api.DeleteServiceBinding(tn.service, one), 404, 20404)
	}},
}

// credential makes one of a type.
func (c *contract) credential(t *testing.T, kind string) string {
	t.Helper()
	cr, err := c.api.CreateCredential(&conversations.CreateCredentialParams{Type: &kind, FriendlyName: new(kind)})
	if err != nil {
		t.Fatal(err)
	}
	return *cr.Sid
}

// bind registers an address of a user, with more parameters, and returns the binding's SID.
func (tn *tenant) bind(t *testing.T, identity, kind, address, more string) string {
	t.Helper()
	params := url.Values{"BindingType": {kind}, "Address": {address}}.Encode()
	if more != "" {
		params += "&" + more
	}
	return tn.must(t, http.MethodPost, tn.base("/Users/"+url.PathEscape(identity)+"/Bindings"), params)["sid"].(string)
}

// wantNotifiable fails unless is_notifiable of a user becomes what is wanted.
func (tn *tenant) wantNotifiable(t *testing.T, identity, want string) {
	t.Helper()
	rig.Eventually(t, identity+" reads "+want, func() error {
		u, err := tn.api.FetchServiceUser(tn.service, url.PathEscape(identity))
		if err == nil && rig.State(u.IsNotifiable) != want {
			return rig.ErrNotYet
		}
		return err
	})
}

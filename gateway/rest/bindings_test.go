package rest_test

import (
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	conversations "github.com/twilio/twilio-go/rest/conversations/v1"
)

// bind registers a device of a user and returns the binding; further parameters come
// as they are.
func (f *fixture) bind(t *testing.T, service, identity, kind, address string, more ...string) map[string]any {
	t.Helper()
	form := url.Values{"BindingType": {kind}, "Address": {address}}.Encode()
	for _, m := range more {
		form += "&" + m
	}
	a := f.do(t, "POST", "/v1/Services/"+service+"/Users/"+url.PathEscape(identity)+"/Bindings", form)
	if a.status != 201 {
		t.Fatalf("binding %s of %s = %d %v; want 201", address, identity, a.status, a.body)
	}
	return a.body
}

func TestTwilioBindings(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		api := f.twilio.ConversationsV1
		if _, err := api.UpdateServiceConfiguration(f.service, &conversations.UpdateServiceConfigurationParams{ReachabilityEnabled: new(true)}); err != nil {
			t.Fatal(err)
		}
		credential, err := api.CreateCredential(&conversations.CreateCredentialParams{Type: new("fcm"), Secret: new("s")})
		if err != nil {
			t.Fatal(err)
		}
		for _, identity := range []string{"alice", "bob.2", "a/b"} {
			if _, err := api.CreateUser(&conversations.CreateUserParams{Identity: new(identity)}); err != nil {
				t.Fatal(err)
			}
		}
		notifiable := func(identity string) string {
			t.Helper()
			u, err := api.FetchUser(url.PathEscape(identity))
			if err != nil {
				t.Fatal(err)
			}
			return show(u.IsNotifiable)
		}
		if got := notifiable("alice"); got != "null" {
			t.Errorf("is_notifiable of who never registered = %s; want null", got)
		}
		made := f.bind(t, f.service, "alice", "fcm", "tok en+1", "CredentialSid="+*credential.Sid, "MessageTypes=new_message", "MessageTypes=removed_from_conversation", "ExpiresIn=3600")
		sid, _ := made["sid"].(string)
		got, err := api.FetchServiceBinding(f.service, sid)
		if err != nil {
			t.Fatal(err)
		}
		if *got.Sid != sid || *got.AccountSid != account || *got.ChatServiceSid != f.service || show(got.CredentialSid) != *credential.Sid || *got.Endpoint != "tok en+1" ||
			*got.Identity != "alice" || *got.BindingType != "fcm" || !slices.Equal(*got.MessageTypes, []string{"new_message", "removed_from_conversation"}) ||
			time.Since(*got.DateCreated) > time.Minute || *got.Url != f.server.URL+"/v1/Services/"+f.service+"/Bindings/"+sid {
			t.Errorf("FetchServiceBinding = %+v", got)
		}
		if expires, err := time.Parse(time.RFC3339, made["date_expires"].(string)); err != nil || time.Until(expires).Round(time.Minute) != time.Hour {
			t.Errorf("date_expires = %v; want in an hour", made["date_expires"])
		}
		if got := notifiable("alice"); got != "true" {
			t.Errorf("is_notifiable with a binding = %s; want true", got)
		}

		f.bind(t, f.service, "bob.2", "apn", "2")
		f.bind(t, f.service, "a/b", "gcm", "3")
		f.bind(t, f.service, "alice", "apn", "4")
		list := func(params *conversations.ListServiceBindingParams) string {
			t.Helper()
			all, err := api.ListServiceBinding(f.service, params)
			if err != nil {
				t.Fatal(err)
			}
			var endpoints []string
			for _, b := range all {
				endpoints = append(endpoints, *b.Endpoint)
			}
			return strings.Join(endpoints, ",")
		}
		for _, tc := range []struct {
			types, identities []string
			want              string
		}{
			{nil, nil, "tok en+1,2,3,4"},
			{[]string{"apn", "gcm"}, nil, "2,3,4"},
			{nil, []string{"alice", "a/b"}, "tok en+1,3,4"},
			{[]string{"apn"}, []string{"alice"}, "4"},
			{[]string{"twilsock"}, nil, ""},
			{nil, []string{"nobody", "Alice"}, ""},
		} {
			for _, size := range []int{1, 2, 50} {
				params := &conversations.ListServiceBindingParams{PageSize: new(size)}
				if tc.types != nil {
					params.BindingType = &tc.types
				}
				if tc.identities != nil {
					params.Identity = &tc.identities
				}
				if got := list(params); got != tc.want {
					t.Errorf("bindings of types %v and users %v by %d = %s; want %s", tc.types, tc.identities, size, got, tc.want)
				}
			}
		}
		_, err = api.ListServiceBinding(f.service, &conversations.ListServiceBindingParams{BindingType: &[]string{"pigeon"}})
		wantError(t, "a filter of no type", err, 400, 50209)
		page := f.do(t, "GET", "/v1/Services/"+f.service+"/Bindings?PageSize=1&BindingType=apn&Identity=bob.2&Identity=alice", "")
		next, _ := page.body["meta"].(map[string]any)["next_page_url"].(string)
		if !strings.HasSuffix(next, "&BindingType=apn&Identity=bob.2&Identity=alice") {
			t.Errorf("next page at %s; want the filters carried on", next)
		}
		// The library drops a dot and digits from what it asks for; the server's own
		// page URLs it leaves alone.
		second := f.do(t, "GET", strings.TrimPrefix(next, f.server.URL), "")
		if b := second.body["bindings"].([]any); len(b) != 1 || b[0].(map[string]any)["endpoint"] != "4" {
			t.Errorf("next page = %v; want the other binding", second.body)
		}
		previous, _ := second.body["meta"].(map[string]any)["previous_page_url"].(string)
		if back := f.do(t, "GET", strings.TrimPrefix(previous, f.server.URL), ""); back.body["bindings"].([]any)[0].(map[string]any)["endpoint"] != "2" {
			t.Errorf("page before = %v; want the first", back.body)
		}
		mine := f.do(t, "GET", "/v1/Services/"+f.service+"/Users/a%2Fb/Bindings", "")
		if b := mine.body["bindings"].([]any); len(b) != 1 || b[0].(map[string]any)["identity"] != "a/b" {
			t.Errorf("bindings of a user = %v", mine.body)
		}

		// Registered again by another, it moves.
		moved := f.bind(t, f.service, "bob.2", "fcm", "tok en+1")
		if moved["sid"] == sid {
			t.Error("the binding of another user has the same SID")
		}
		_, err = api.FetchServiceBinding(f.service, sid)
		wantError(t, "a binding that moved away", err, 404, 20404)
		if got := notifiable("alice"); got != "true" {
			t.Errorf("is_notifiable with another binding = %s; want true", got)
		}
		for _, b := range f.do(t, "GET", "/v1/Services/"+f.service+"/Users/alice/Bindings", "").body["bindings"].([]any) {
			if err := api.DeleteServiceBinding(f.service, b.(map[string]any)["sid"].(string)); err != nil {
				t.Fatal(err)
			}
		}
		if got := notifiable("alice"); got != "false" {
			t.Errorf("is_notifiable without any left = %s; want false", got)
		}
		wantError(t, "deleting what moved away", api.DeleteServiceBinding(f.service, sid), 404, 20404)

		other, err := api.CreateService(&conversations.CreateServiceParams{FriendlyName: new("other")})
		if err != nil {
			t.Fatal(err)
		}
		_, err = api.FetchServiceBinding(*other.Sid, moved["sid"].(string))
		wantError(t, "a binding of another service", err, 404, 20404)
		wantError(t, "deleting it", api.DeleteServiceBinding(*other.Sid, moved["sid"].(string)), 404, 20404)
		_, err = api.ListServiceBinding(noSID, nil)
		wantError(t, "the bindings of no service", err, 404, 20404)

		if err := api.DeleteUser(url.PathEscape("bob.2"), nil); err != nil {
			t.Fatal(err)
		}
		if got := list(nil); got != "3" {
			t.Errorf("bindings after their user's deletion = %s; want 3", got)
		}
	})
}

// TestBindings is what the published API does not have: registering, and web push.
func TestBindings(t *testing.T) {
	f := newMini(t)
	f.do(t, "POST", "/v1/Users", "Identity=alice")
	credential := f.do(t, "POST", "/v1/Credentials", "Type=apn").body["sid"].(string)
	base := "/v1/Services/" + f.service + "/Users/alice/Bindings"
	for form, want := range map[string][2]int{
		"":                                                       {400, 20001},
		"BindingType=fcm":                                        {400, 20001},
		"Address=a":                                              {400, 20001},
		"BindingType=twilsock&Address=a":                         {400, 50209},
		"BindingType=fcm&Address=":                               {400, 20001},
		"BindingType=fcm&Address=%ff":                            {400, 20001},
		"BindingType=fcm&Address=a&ExpiresIn=x":                  {400, 20001},
		"BindingType=fcm&Address=a&ExpiresIn=0":                  {400, 20001},
		"BindingType=fcm&Address=a&ExpiresIn=59":                 {400, 20001},
		"BindingType=fcm&Address=a&ExpiresIn=31536001":           {400, 20001},
		"BindingType=fcm&Address=a&ExpiresIn=99999999999":        {400, 20001},
		"BindingType=fcm&Address=a&MessageTypes=spam":            {400, 20001},
		"BindingType=fcm&Address=a&CredentialSid=CR":             {400, 20001},
		"BindingType=fcm&Address=a&CredentialSid=" + noSID:       {400, 20001},
		"BindingType=fcm&Address=a&CredentialSid=" + credential:  {400, 20001},
		"BindingType=fcm&Address=" + strings.Repeat("x", 4097):   {400, 20001},
		"BindingType=fcm&Address=a&CredentialSid=CR" + noSID[2:]: {400, 20001},
	} {
		if a := f.do(t, "POST", base, form); a.status != want[0] || a.body["code"] != float64(want[1]) {
			t.Errorf("POST %.60s = %d %v; want %v", form, a.status, a.body, want)
		}
	}
	for _, path := range []string{
		"/v1/Services/" + f.service + "/Users/nobody/Bindings", "/v1/Services/" + noSID + "/Users/alice/Bindings",
	} {
		if a := f.do(t, "POST", path, "BindingType=fcm&Address=a"); a.status != 404 {
			t.Errorf("POST %s = %d; want 404", path, a.status)
		}
		if a := f.do(t, "GET", path, ""); a.status != 404 {
			t.Errorf("GET %s = %d; want 404", path, a.status)
		}
	}
	if a := f.do(t, "GET", base, ""); len(a.body["bindings"].([]any)) != 0 {
		t.Errorf("bindings after refusals = %v; want none", a.body)
	}
	if a := f.do(t, "GET", "/v1/Services/"+f.service+"/Bindings?"+strings.Repeat("Identity=a&", 101), ""); a.status != 400 {
		t.Errorf("a filter of 101 identities = %d; want 400", a.status)
	}
	web := f.bind(t, f.service, "alice", "WebPush", "https://push.example/x?y=z")
	if web["binding_type"] != "webpush" || web["credential_sid"] != nil || len(web["message_types"].([]any)) != 3 {
		t.Errorf("web push = %v", web)
	}
	if again := f.bind(t, f.service, "alice", "webpush", "https://push.example/x?y=z"); again["sid"] != web["sid"] {
		t.Errorf("registered again as %v; want %v", again["sid"], web["sid"])
	}
	for i := range 19 {
		f.bind(t, f.service, "alice", "apn", fmt.Sprint(i), "CredentialSid="+credential)
	}
	if a := f.do(t, "POST", base, "BindingType=apn&Address=one-too-many"); a.status != 409 || a.body["code"] != 20409.0 {
		t.Errorf("binding 21 = %d %v; want 409", a.status, a.body)
	}
	if a := f.do(t, "DELETE", "/v1/Credentials/"+credential, ""); a.status != 204 {
		t.Errorf("deleting the credential = %d", a.status)
	}
	if a := f.do(t, "GET", base, ""); len(a.body["bindings"].([]any)) != 1 {
		t.Errorf("bindings without their credential = %v; want the web push one", a.body)
	}
}

func TestTwilioCredentials(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		api := f.twilio.ConversationsV1
		const private = "private-key-material"
		apn, err := api.CreateCredential(&conversations.CreateCredentialParams{
			Type: new("apn"), FriendlyName: new("iOS"), Certificate: new(private), PrivateKey: new(private), Sandbox: new(true), Secret: new(private),
		})
		if err != nil {
			t.Fatal(err)
		}
		if !strings.HasPrefix(*apn.Sid, "CR") || *apn.AccountSid != account || *apn.FriendlyName != "iOS" || *apn.Type != "apn" || show(apn.Sandbox) != "True" ||
			time.Since(*apn.DateCreated) > time.Minute || *apn.Url != f.server.URL+"/v1/Credentials/"+*apn.Sid {
			t.Errorf("created %+v", apn)
		}
		gcm, err := api.CreateCredential(&conversations.CreateCredentialParams{Type: new("GcM"), ApiKey: new(private)})
		if err != nil || *gcm.Type != "gcm" || gcm.FriendlyName != nil || gcm.Sandbox != nil {
			t.Fatalf("CreateCredential(gcm) = %+v, %v", gcm, err)
		}
		fcm, err := api.CreateCredential(&conversations.CreateCredentialParams{Type: new("fcm"), Secret: new(private)})
		if err != nil {
			t.Fatal(err)
		}
		all, err := api.ListCredential(&conversations.ListCredentialParams{PageSize: new(1)})
		if err != nil || len(all) != 3 || *all[0].Sid != *apn.Sid || *all[1].Sid != *gcm.Sid || *all[2].Sid != *fcm.Sid {
			t.Errorf("ListCredential by one = %+v, %v; want all three in order", all, err)
		}
		up, err := api.UpdateCredential(*apn.Sid, &conversations.UpdateCredentialParams{FriendlyName: new("iPhone"), Sandbox: new(false), Type: new("apn")})
		if err != nil || *up.FriendlyName != "iPhone" || show(up.Sandbox) != "False" || !up.DateCreated.Equal(*apn.DateCreated) {
			t.Errorf("UpdateCredential = %+v, %v", up, err)
		}
		same, err := api.UpdateCredential(*apn.Sid, nil)
		if err != nil || *same.FriendlyName != "iPhone" {
			t.Errorf("an update of nothing = %+v, %v", same, err)
		}
		_, err = api.UpdateCredential(*apn.Sid, &conversations.UpdateCredentialParams{Type: new("fcm")})
		wantError(t, "another type", err, 400, 20001)
		for _, params := range []*conversations.CreateCredentialParams{{}, {Type: new("twilsock")}, {Type: new("webpush")}, {Type: new("fcm"), Secret: new(strings.Repeat("x", 16<<10+1))}} {
			_, err = api.CreateCredential(params)
			wantError(t, "a credential that is none", err, 400, 20001)
		}
		_, err = api.CreateCredential(&conversations.CreateCredentialParams{Type: new("fcm"), FriendlyName: new(strings.Repeat("é", 65))})
		wantError(t, "a long name", err, 400, 50003)

		for _, path := range []string{"", "/" + *apn.Sid, "/" + *gcm.Sid, "/" + *fcm.Sid} {
			a := f.do(t, "GET", "/v1/Credentials"+path, "")
			if text, err := json.Marshal(a.body); err != nil || a.status != 200 || strings.Contains(string(text), private) {
				t.Errorf("GET /v1/Credentials%s = %d %s, %v; want it without secrets", path, a.status, text, err)
			}
		}
		for _, line := range f.logs.All() {
			if text, _ := json.Marshal(line.ContextMap()); strings.Contains(string(text), private) {
				t.Errorf("the log tells a secret: %s", text)
			}
		}

		if err := api.DeleteCredential(*apn.Sid); err != nil {
			t.Fatal(err)
		}
		_, err = api.FetchCredential(*apn.Sid)
		wantError(t, "a deleted credential", err, 404, 20404)
		wantError(t, "deleting it again", api.DeleteCredential(*apn.Sid), 404, 20404)
		_, err = api.UpdateCredential(*apn.Sid, &conversations.UpdateCredentialParams{FriendlyName: new("x")})
		wantError(t, "updating it", err, 404, 20404)
		_, err = api.FetchCredential(f.service)
		wantError(t, "what is no credential", err, 404, 20404)
	})
}

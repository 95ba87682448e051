package rest_test

import (
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	twilioclient "github.com/twilio/twilio-go/client"
	conversations "github.com/twilio/twilio-go/rest/conversations/v1"
)

// show is a pointer's value for messages and comparisons.
func show[T any](p *T) string {
	if p == nil {
		return "null"
	}
	return fmt.Sprint(*p)
}

// wantError fails unless err is the library's decoded error of that status and code.
func wantError(t *testing.T, what string, err error, status, code int) {
	t.Helper()
	e, ok := errors.AsType[*twilioclient.TwilioRestError](err)
	if !ok || e.Status != status || e.Code != code || e.Message == "" || e.MoreInfo != fmt.Sprintf("https://www.twilio.com/docs/errors/%d", code) {
		t.Errorf("%s: %v; want %d with code %d", what, err, status, code)
	}
}

func TestTwilioServices(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		api := f.twilio.ConversationsV1
		made, err := api.CreateService(&conversations.CreateServiceParams{FriendlyName: new("Ünited + Söns")})
		if err != nil {
			t.Fatal(err)
		}
		if *made.FriendlyName != "Ünited + Söns" || *made.AccountSid != account || time.Since(*made.DateCreated) > time.Minute ||
			*made.Url != f.server.URL+"/v1/Services/"+*made.Sid || (*made.Links)["users"] != *made.Url+"/Users" {
			t.Errorf("created %+v", made)
		}
		got, err := api.FetchService(*made.Sid)
		if err != nil || *got.FriendlyName != *made.FriendlyName || !got.DateCreated.Equal(*made.DateCreated) {
			t.Errorf("FetchService = %+v, %v; want what was created", got, err)
		}
		all, err := api.ListService(nil)
		if err != nil || len(all) != 2 || *all[0].Sid != f.service || *all[1].Sid != *made.Sid {
			t.Errorf("ListService = %+v, %v; want the default service and the new one, in that order", all, err)
		}
		if err := api.DeleteService(*made.Sid); err != nil {
			t.Fatal(err)
		}
		_, err = api.FetchService(*made.Sid)
		wantError(t, "fetch a deleted service", err, 404, 20404)
		wantError(t, "delete it again", api.DeleteService(*made.Sid), 404, 20404)
		_, err = api.ListServiceUser(*made.Sid, nil)
		wantError(t, "list its users", err, 404, 20404)
		wantError(t, "delete the default service", api.DeleteService(f.service), 409, 20409)
	})
}

func TestTwilioConfiguration(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		api := f.twilio.ConversationsV1
		conf, err := api.FetchServiceConfiguration(f.service)
		if err != nil {
			t.Fatal(err)
		}
		if *conf.ReachabilityEnabled || *conf.Url != f.server.URL+"/v1/Services/"+f.service+"/Configuration" || (*conf.Links)["webhooks"] != *conf.Url+"/Webhooks" {
			t.Errorf("a new service's configuration: %+v; want the switch off", conf)
		}
		roles := []string{*conf.DefaultChatServiceRoleSid, *conf.DefaultConversationRoleSid, *conf.DefaultConversationCreatorRoleSid}
		if slices.Sort(roles); len(slices.Compact(roles)) != 3 {
			t.Errorf("default roles %v; want three different ones", roles)
		}
		on, err := api.UpdateServiceConfiguration(f.service, &conversations.UpdateServiceConfigurationParams{ReachabilityEnabled: new(true)})
		if err != nil || !*on.ReachabilityEnabled || *on.DefaultChatServiceRoleSid != *conf.DefaultChatServiceRoleSid {
			t.Fatalf("switching on = %+v, %v", on, err)
		}
		same, err := api.UpdateServiceConfiguration(f.service, nil)
		if err != nil || !*same.ReachabilityEnabled {
			t.Errorf("an update of nothing = %+v, %v; want it unchanged", same, err)
		}
		swapped, err := api.UpdateServiceConfiguration(f.service, &conversations.UpdateServiceConfigurationParams{
			DefaultConversationRoleSid: conf.DefaultConversationCreatorRoleSid, DefaultConversationCreatorRoleSid: conf.DefaultConversationRoleSid,
		})
		if err != nil || *swapped.DefaultConversationRoleSid != *conf.DefaultConversationCreatorRoleSid || !*swapped.ReachabilityEnabled {
			t.Errorf("swapping roles = %+v, %v", swapped, err)
		}
		_, err = api.UpdateServiceConfiguration(f.service, &conversations.UpdateServiceConfigurationParams{DefaultChatServiceRoleSid: new("RL00000000000000000000000000000000")})
		wantError(t, "an unknown role", err, 400, 50100)
		_, err = api.UpdateServiceConfiguration(f.service, &conversations.UpdateServiceConfigurationParams{DefaultChatServiceRoleSid: conf.DefaultConversationRoleSid})
		wantError(t, "a conversation role for users", err, 400, 50105)
		_, err = api.UpdateServiceConfiguration(f.service, &conversations.UpdateServiceConfigurationParams{DefaultConversationRoleSid: conf.DefaultChatServiceRoleSid})
		wantError(t, "a service role for conversations", err, 400, 50105)
		_, err = api.CreateUser(&conversations.CreateUserParams{Identity: new("eve"), RoleSid: conf.DefaultConversationRoleSid})
		wantError(t, "a user with a conversation role", err, 400, 50105)

		acc, err := api.FetchConfiguration()
		if err != nil || *acc.DefaultChatServiceSid != f.service || *acc.AccountSid != account || acc.DefaultMessagingServiceSid != nil ||
			(*acc.Links)["service"] != *conf.Url {
			t.Errorf("FetchConfiguration = %+v, %v", acc, err)
		}
		second, err := api.CreateService(&conversations.CreateServiceParams{FriendlyName: new("second")})
		if err != nil {
			t.Fatal(err)
		}
		acc, err = api.UpdateConfiguration(&conversations.UpdateConfigurationParams{DefaultChatServiceSid: second.Sid, DefaultInactiveTimer: new("PT1M")})
		if err != nil || *acc.DefaultChatServiceSid != *second.Sid {
			t.Errorf("UpdateConfiguration = %+v, %v; want %s the default", acc, err, *second.Sid)
		}
		u, err := api.CreateUser(&conversations.CreateUserParams{Identity: new("alice")})
		if err != nil || *u.ChatServiceSid != *second.Sid {
			t.Errorf("CreateUser = %+v, %v; want it in the new default service", u, err)
		}
		if err := api.DeleteService(f.service); err != nil {
			t.Errorf("DeleteService of the former default = %v; want nil", err)
		}
		_, err = api.UpdateConfiguration(&conversations.UpdateConfigurationParams{DefaultChatServiceSid: new(f.service)})
		wantError(t, "a default that is gone", err, 400, 20001)
	})
}

func TestTwilioUsers(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		api := f.twilio.ConversationsV1
		conf, err := api.FetchServiceConfiguration(f.service)
		if err != nil {
			t.Fatal(err)
		}
		made, err := api.CreateServiceUser(f.service, &conversations.CreateServiceUserParams{
			Identity: new("a b+é@x"), FriendlyName: new("Ann & Bob"), Attributes: new(`{ "duty": "tech" }`), XTwilioWebhookEnabled: new("true"),
		})
		if err != nil {
			t.Fatal(err)
		}
		if *made.Identity != "a b+é@x" || *made.FriendlyName != "Ann & Bob" || *made.Attributes != `{ "duty": "tech" }` || made.IsOnline != nil || made.IsNotifiable != nil ||
			*made.ChatServiceSid != f.service || *made.RoleSid != *conf.DefaultChatServiceRoleSid || *made.AccountSid != account ||
			*made.Url != f.server.URL+"/v1/Services/"+f.service+"/Users/"+*made.Sid || (*made.Links)["user_conversations"] != *made.Url+"/Conversations" {
			t.Errorf("created %+v", made)
		}
		for _, by := range []string{*made.Sid, url.PathEscape("a b+é@x"), "a%20b+%C3%A9@x"} {
			got, err := api.FetchServiceUser(f.service, by)
			if err != nil || *got.Sid != *made.Sid || *got.Url != *made.Url {
				t.Errorf("FetchServiceUser(%q) = %+v, %v", by, got, err)
			}
			short, err := api.FetchUser(by)
			if err != nil || *short.Sid != *made.Sid || *short.Url != f.server.URL+"/v1/Users/"+*made.Sid {
				t.Errorf("FetchUser(%q) = %+v, %v; want the short form of URL", by, short, err)
			}
		}

		bare, err := api.CreateUser(&conversations.CreateUserParams{Identity: new("bob")})
		if err != nil || bare.FriendlyName != nil || *bare.Attributes != "{}" || *bare.ChatServiceSid != f.service {
			t.Fatalf("CreateUser = %+v, %v; want no name and {}", bare, err)
		}
		up, err := api.UpdateUser("bob", &conversations.UpdateUserParams{FriendlyName: new("Bob"), RoleSid: conf.DefaultChatServiceRoleSid})
		if err != nil || *up.FriendlyName != "Bob" || *up.Attributes != "{}" || *up.Url != *bare.Url {
			t.Errorf("UpdateUser = %+v, %v", up, err)
		}
		again, err := api.UpdateServiceUser(f.service, *bare.Sid, &conversations.UpdateServiceUserParams{Attributes: new(`[1,"2"]`)})
		if err != nil || *again.FriendlyName != "Bob" || *again.Attributes != `[1,"2"]` {
			t.Errorf("UpdateServiceUser = %+v, %v; want the name kept", again, err)
		}
		same, err := api.UpdateUser("bob", nil)
		if err != nil || show(same.FriendlyName) != "Bob" || !same.DateUpdated.Equal(*again.DateUpdated) {
			t.Errorf("an update of nothing = %+v, %v; want it unchanged", same, err)
		}

		_, err = api.CreateUser(&conversations.CreateUserParams{Identity: new("bob")})
		wantError(t, "an identity taken", err, 409, 50201)
		other, err := api.CreateUser(&conversations.CreateUserParams{Identity: new("Bob")})
		if err != nil || *other.Sid == *bare.Sid {
			t.Errorf("another case of an identity = %+v, %v; want another user", other, err)
		}
		second, err := api.CreateService(&conversations.CreateServiceParams{FriendlyName: new("second")})
		if err != nil {
			t.Fatal(err)
		}
		for _, by := range []string{"bob", *bare.Sid} {
			_, err = api.FetchServiceUser(*second.Sid, by)
			wantError(t, "a user of another service, by "+by, err, 404, 20404)
		}

		if err := api.DeleteUser("bob", nil); err != nil {
			t.Error(err)
		}
		if err := api.DeleteServiceUser(f.service, *made.Sid, nil); err != nil {
			t.Error(err)
		}
		_, err = api.FetchUser("bob")
		wantError(t, "a deleted user by identity", err, 404, 20404)
		_, err = api.FetchUser(*bare.Sid)
		wantError(t, "a deleted user by SID", err, 404, 20404)
		wantError(t, "its second deletion", api.DeleteUser("bob", nil), 404, 20404)
		_, err = api.UpdateUser("bob", &conversations.UpdateUserParams{FriendlyName: new("x")})
		wantError(t, "its update", err, 404, 20404)
		reborn, err := api.CreateUser(&conversations.CreateUserParams{Identity: new("bob")})
		if err != nil || *reborn.Sid == *bare.Sid || reborn.FriendlyName != nil {
			t.Errorf("made again = %+v, %v; want a new user", reborn, err)
		}
	})
}

func TestTwilioErrors(t *testing.T) {
	f := newMini(t)
	api := f.twilio.ConversationsV1
	user := func(p conversations.CreateUserParams) error {
		_, err := api.CreateUser(&p)
		return err
	}
	_, err := api.CreateService(nil)
	wantError(t, "service without a name", err, 400, 50000)
	_, err = api.CreateService(&conversations.CreateServiceParams{FriendlyName: new(strings.Repeat("é", 257))})
	wantError(t, "long name of a service", err, 400, 50003)
	wantError(t, "no identity", user(conversations.CreateUserParams{}), 400, 50204)
	wantError(t, "empty identity", user(conversations.CreateUserParams{Identity: new("")}), 400, 50204)
	wantError(t, "identity like a SID", user(conversations.CreateUserParams{Identity: new("US" + noSID[2:])}), 400, 50206)
	wantError(t, "long identity", user(conversations.CreateUserParams{Identity: new(strings.Repeat("a", 257))}), 400, 50207)
	wantError(t, "identity not UTF-8", user(conversations.CreateUserParams{Identity: new("\xff")}), 400, 20001)
	wantError(t, "long name", user(conversations.CreateUserParams{Identity: new("a"), FriendlyName: new(strings.Repeat("é", 257))}), 400, 50003)
	wantError(t, "bad attributes", user(conversations.CreateUserParams{Identity: new("a"), Attributes: new("{")}), 400, 50304)
	wantError(t, "long attributes", user(conversations.CreateUserParams{Identity: new("a"), Attributes: new(`"` + strings.Repeat("%", 16<<10) + `"`)}), 400, 50303)
	wantError(t, "unknown role", user(conversations.CreateUserParams{Identity: new("a"), RoleSid: new("RL" + noSID[2:])}), 400, 50100)
	if err := user(conversations.CreateUserParams{Identity: new(strings.Repeat("é", 128)), FriendlyName: new(strings.Repeat("é", 256)), Attributes: new(`"` + strings.Repeat("%", 16<<10-2) + `"`)}); err != nil {
		t.Errorf("everything of the greatest size: %v", err)
	}

	for name, credentials := range map[string][2]string{
		"wrong token": {account, "wrong"}, "wrong account": {"AC" + noSID[2:], authTok}, "key with the token": {keySID, authTok}, "none": {"", ""},
	} {
		_, err := f.client(credentials[0], credentials[1]).ConversationsV1.FetchConfiguration()
		wantError(t, name, err, 401, 20003)
	}
	if conf, err := f.client(keySID, secret).ConversationsV1.FetchConfiguration(); err != nil || *conf.AccountSid != account {
		t.Errorf("with an API key: %+v, %v", conf, err)
	}

	// What the library makes of careless identities must stay a plain 404.
	for _, identity := range []string{"a/b", "a?b", "a#b", "nobody", "%FF", strings.Repeat("a", 300)} {
		_, err := api.FetchUser(identity)
		wantError(t, identity, err, 404, 20404)
	}
}

func TestTwilioPaging(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		api := f.twilio.ConversationsV1
		var want []string
		for i := range 123 {
			u, err := api.CreateUser(&conversations.CreateUserParams{Identity: new(fmt.Sprintf("user.%d", i))})
			if err != nil {
				t.Fatal(err)
			}
			want = append(want, *u.Sid)
		}
		for name, p := range map[string]conversations.ListUserParams{
			"default": {}, "pages of 7": {PageSize: new(7)}, "limit 60": {Limit: new(60)}, "limit 1000": {Limit: new(1000)}, "page of 1000": {PageSize: new(1000)},
		} {
			got, err := api.ListUser(&p)
			if err != nil {
				t.Fatal(err)
			}
			want := want
			if p.Limit != nil {
				want = want[:min(len(want), *p.Limit)]
			}
			var sids []string
			for _, u := range got {
				sids = append(sids, *u.Sid)
			}
			if !slices.Equal(sids, want) {
				t.Errorf("%s: %d users; want %d in the order of their creation, each once", name, len(sids), len(want))
			}
			service, err := api.ListServiceUser(f.service, &conversations.ListServiceUserParams{PageSize: p.PageSize, Limit: p.Limit})
			if err != nil || len(service) != len(want) {
				t.Errorf("%s: ListServiceUser = %d users, %v; want %d", name, len(service), err, len(want))
			}
		}
		page, err := api.PageUser(&conversations.ListUserParams{PageSize: new(50)}, "", "")
		if err != nil {
			t.Fatal(err)
		}
		next, err := url.Parse(*page.Meta.NextPageUrl)
		if err != nil {
			t.Fatal(err)
		}
		page, err = api.PageUser(&conversations.ListUserParams{PageSize: new(50)}, next.Query().Get("PageToken"), "1")
		if err != nil || *page.Users[0].Sid != want[50] {
			t.Errorf("PageUser with the token = %v, %v; want the page that begins with user 50", page, err)
		}
		_, err = api.PageUser(nil, "", "3")
		wantError(t, "a page without its token", err, 400, 20001)
		_, err = api.PageUser(nil, "PTnonsense", "1")
		wantError(t, "an unknown token", err, 400, 20001)

		for i := range 104 {
			if _, err := api.CreateService(&conversations.CreateServiceParams{FriendlyName: new(fmt.Sprint(i))}); err != nil {
				t.Fatal(err)
			}
		}
		services, err := api.ListService(&conversations.ListServiceParams{PageSize: new(500)})
		if err != nil || len(services) != 105 {
			t.Errorf("ListService = %d, %v; want 105", len(services), err)
		}
	})
}

// TestTwilioReachability follows one user through the truth table of the two
// fields, as the library reads it.
func TestTwilioReachability(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		api := f.twilio.ConversationsV1
		flip := func(on bool) {
			t.Helper()
			if _, err := api.UpdateServiceConfiguration(f.service, &conversations.UpdateServiceConfigurationParams{ReachabilityEnabled: &on}); err != nil {
				t.Fatal(err)
			}
		}
		want := func(when, online string) {
			t.Helper()
			u, err := api.FetchUser("alice")
			if err != nil {
				t.Fatal(err)
			}
			if show(u.IsOnline) != online || u.IsNotifiable != nil {
				t.Errorf("%s: is_online %s, is_notifiable %s; want %s, null", when, show(u.IsOnline), show(u.IsNotifiable), online)
			}
			up, err := api.UpdateServiceUser(f.service, "alice", nil)
			if err != nil || show(up.IsOnline) != online {
				t.Errorf("%s: an update shows is_online %s, %v; want %s", when, show(up.IsOnline), err, online)
			}
			list, err := api.ListUser(nil)
			if err != nil || len(list) != 1 || list[0].IsOnline != nil || list[0].IsNotifiable != nil {
				t.Errorf("%s: a list shows %+v, %v; want nulls", when, list, err)
			}
		}
		if _, err := api.CreateUser(&conversations.CreateUserParams{Identity: new("alice")}); err != nil {
			t.Fatal(err)
		}
		want("switched off", "null")
		flip(true)
		want("never online", "null")
		before, err := api.FetchUser("alice")
		if err != nil {
			t.Fatal(err)
		}
		f.connect(t, f.service, "alice", true)
		want("connected", "true")
		if after, err := api.FetchUser("alice"); err != nil || !after.DateUpdated.Equal(*before.DateUpdated) {
			t.Errorf("date_updated %v, %v; want presence not to move it", after.DateUpdated, err)
		}
		f.connect(t, f.service, "alice", false)
		want("left", "false")
		flip(false)
		want("switched off again", "null")
		flip(true)
		want("switched on, not online since", "null")
	})
}

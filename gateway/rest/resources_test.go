package rest_test

import (
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	conversations "github.com/twilio/twilio-go/rest/conversations/v1"

	"github.com/rollcall-presence/rollcall/gateway/rest"
	"github.com/rollcall-presence/rollcall/presence"
)

func TestTwilioRoles(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		api := f.twilio.ConversationsV1
		conf, err := api.FetchServiceConfiguration(f.service)
		if err != nil {
			t.Fatal(err)
		}
		stock, err := api.ListServiceRole(f.service, nil)
		if err != nil || len(stock) != 4 {
			t.Fatalf("ListServiceRole of a new service = %d, %v; want its 4 roles", len(stock), err)
		}
		var names, kinds []string
		for _, r := range stock {
			names, kinds = append(names, *r.FriendlyName), append(kinds, *r.Type)
			if len(*r.Permissions) == 0 || *r.AccountSid != account || *r.ChatServiceSid != f.service || *r.Url != f.server.URL+"/v1/Services/"+f.service+"/Roles/"+*r.Sid {
				t.Errorf("stock role %+v", r)
			}
		}
		if want := []string{"service admin", "service user", "channel admin", "channel user"}; !slices.Equal(names, want) {
			t.Errorf("stock roles %v; want %v", names, want)
		}
		if want := []string{"service", "service", "conversation", "conversation"}; !slices.Equal(kinds, want) {
			t.Errorf("their types %v; want %v", kinds, want)
		}
		for i, sid := range []*string{conf.DefaultChatServiceRoleSid, conf.DefaultConversationCreatorRoleSid, conf.DefaultConversationRoleSid} {
			if *stock[i+1].Sid != *sid {
				t.Errorf("role %d is %s; want the default %s", i+1, *stock[i+1].Sid, *sid)
			}
		}

		made, err := api.CreateServiceRole(f.service, &conversations.CreateServiceRoleParams{
			FriendlyName: new("moderatör"), Type: new("service"), Permission: &[]string{"editAnyMessage", "addParticipant", "editAnyMessage"},
		})
		if err != nil || *made.FriendlyName != "moderatör" || *made.Type != "service" || !slices.Equal(*made.Permissions, []string{"addParticipant", "editAnyMessage"}) {
			t.Fatalf("CreateServiceRole = %+v, %v", made, err)
		}
		short, err := api.FetchRole(*made.Sid)
		if err != nil || *short.Sid != *made.Sid || *short.Url != f.server.URL+"/v1/Roles/"+*made.Sid {
			t.Errorf("FetchRole = %+v, %v; want the short form of URL", short, err)
		}
		up, err := api.UpdateServiceRole(f.service, *made.Sid, &conversations.UpdateServiceRoleParams{Permission: &[]string{"sendMessage"}})
		if err != nil || !slices.Equal(*up.Permissions, []string{"sendMessage"}) || *up.FriendlyName != "moderatör" || !up.DateCreated.Equal(*made.DateCreated) {
			t.Errorf("UpdateServiceRole = %+v, %v; want the permissions replaced", up, err)
		}
		same, err := api.UpdateRole(*made.Sid, nil)
		if err != nil || !slices.Equal(*same.Permissions, []string{"sendMessage"}) {
			t.Errorf("an update of nothing = %+v, %v", same, err)
		}
		got, err := api.FetchServiceRole(f.service, *made.Sid)
		if err != nil || !slices.Equal(*got.Permissions, *up.Permissions) {
			t.Errorf("FetchServiceRole = %+v, %v", got, err)
		}

		u, err := api.CreateUser(&conversations.CreateUserParams{Identity: new("alice"), RoleSid: made.Sid})
		if err != nil || *u.RoleSid != *made.Sid {
			t.Errorf("a user with the role = %+v, %v", u, err)
		}
		if _, err := api.UpdateServiceConfiguration(f.service, &conversations.UpdateServiceConfigurationParams{DefaultChatServiceRoleSid: made.Sid}); err != nil {
			t.Error(err)
		}
		wantError(t, "delete a default role", api.DeleteRole(*made.Sid), 409, 20409)
		if bob, err := api.CreateUser(&conversations.CreateUserParams{Identity: new("bob")}); err != nil || *bob.RoleSid != *made.Sid {
			t.Errorf("a new user = %+v, %v; want the new default role", bob, err)
		}
		if _, err := api.UpdateServiceConfiguration(f.service, &conversations.UpdateServiceConfigurationParams{DefaultChatServiceRoleSid: stock[0].Sid}); err != nil {
			t.Error(err)
		}
		if err := api.DeleteServiceRole(f.service, *made.Sid); err != nil {
			t.Error(err)
		}
		_, err = api.FetchRole(*made.Sid)
		wantError(t, "fetch a deleted role", err, 404, 20404)
		wantError(t, "delete it again", api.DeleteRole(*made.Sid), 404, 20404)
		_, err = api.UpdateRole(*made.Sid, &conversations.UpdateRoleParams{Permission: &[]string{"a"}})
		wantError(t, "update it", err, 404, 20404)
		_, err = api.UpdateServiceConfiguration(f.service, &conversations.UpdateServiceConfigurationParams{DefaultChatServiceRoleSid: made.Sid})
		wantError(t, "make it the default", err, 400, 50100)
		_, err = api.UpdateUser("bob", &conversations.UpdateUserParams{RoleSid: made.Sid})
		wantError(t, "give it to a user", err, 400, 50100)

		second, err := api.CreateService(&conversations.CreateServiceParams{FriendlyName: new("second")})
		if err != nil {
			t.Fatal(err)
		}
		// Nothing of one service may be reached from another, before and after its own roles are there.
		for range 2 {
			_, err = api.FetchServiceRole(*second.Sid, *stock[0].Sid)
			wantError(t, "a role of another service", err, 404, 20404)
			wantError(t, "its deletion", api.DeleteServiceRole(*second.Sid, *stock[0].Sid), 404, 20404)
			_, err = api.UpdateServiceRole(*second.Sid, *stock[0].Sid, &conversations.UpdateServiceRoleParams{Permission: &[]string{"a"}})
			wantError(t, "its update", err, 404, 20404)
			_, err = api.CreateServiceUser(*second.Sid, &conversations.CreateServiceUserParams{Identity: new("eve"), RoleSid: stock[0].Sid})
			wantError(t, "a user with it", err, 400, 50100)
			_, err = api.UpdateServiceConfiguration(*second.Sid, &conversations.UpdateServiceConfigurationParams{DefaultChatServiceRoleSid: stock[0].Sid})
			wantError(t, "a default of it", err, 400, 50100)
		}
		for what, p := range map[string]conversations.CreateRoleParams{
			"50000 no name":       {Type: new("service"), Permission: &[]string{"a"}},
			"50003 long name":     {FriendlyName: new(strings.Repeat("é", 65)), Type: new("service"), Permission: &[]string{"a"}},
			"50105 no type":       {FriendlyName: new("x"), Permission: &[]string{"a"}},
			"50105 unknown type":  {FriendlyName: new("x"), Type: new("channel"), Permission: &[]string{"a"}},
			"20001 no permission": {FriendlyName: new("x"), Type: new("service")},
			"20001 a strange one": {FriendlyName: new("x"), Type: new("service"), Permission: &[]string{"a b"}},
			"20001 a long one":    {FriendlyName: new("x"), Type: new("service"), Permission: &[]string{strings.Repeat("a", 65)}},
			"20001 too many":      {FriendlyName: new("x"), Type: new("service"), Permission: new(words(65))},
			"20001 not UTF-8":     {FriendlyName: new("x"), Type: new("service"), Permission: &[]string{"\xff"}},
		} {
			var code int
			if _, err := fmt.Sscan(what, &code); err != nil {
				t.Fatal(err)
			}
			_, err := api.CreateRole(&p)
			wantError(t, what, err, 400, code)
		}
		for range presence.MaxRoles - 4 {
			if _, err := api.CreateRole(&conversations.CreateRoleParams{FriendlyName: new(strings.Repeat("é", 64)), Type: new("conversation"), Permission: new(words(64))}); err != nil {
				t.Fatal(err)
			}
		}
		_, err = api.CreateRole(&conversations.CreateRoleParams{FriendlyName: new("one more"), Type: new("conversation"), Permission: &[]string{"a"}})
		wantError(t, "a role too many", err, 409, 20409)
		if all, err := api.ListRole(nil); err != nil || len(all) != presence.MaxRoles {
			t.Errorf("ListRole = %d, %v; want %d over two pages", len(all), err, presence.MaxRoles)
		}
		if err := api.DeleteService(*second.Sid); err != nil {
			t.Error(err)
		}
		_, err = api.ListServiceRole(*second.Sid, nil)
		wantError(t, "roles of a deleted service", err, 404, 20404)
	})
}

// words are n different permissions.
func words(n int) (all []string) {
	for i := range n {
		all = append(all, "p"+string(rune('a'+i/26))+string(rune('a'+i%26)))
	}
	return all
}

func TestTwilioAccountConfiguration(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		api := f.twilio.ConversationsV1
		const messaging = "MG0123456789abcdef0123456789abcdef"
		set, err := api.UpdateConfiguration(&conversations.UpdateConfigurationParams{
			DefaultMessagingServiceSid: new(messaging), DefaultInactiveTimer: new("PT1M"), DefaultClosedTimer: new("P1DT30S"),
		})
		if err != nil || show(set.DefaultMessagingServiceSid) != messaging || show(set.DefaultInactiveTimer) != "PT1M" || show(set.DefaultClosedTimer) != "P1DT30S" || *set.DefaultChatServiceSid != f.service {
			t.Errorf("UpdateConfiguration = %+v, %v", set, err)
		}
		for what, p := range map[string]conversations.UpdateConfigurationParams{
			"messaging SID":                        {DefaultMessagingServiceSid: new("IS" + messaging[2:])},
			"inactive timer":                       {DefaultInactiveTimer: new("PT59S")},
			"closed timer":                         {DefaultClosedTimer: new("PT9M")},
			"no duration":                          {DefaultClosedTimer: new("10 minutes")},
			"unknown default, with something good": {DefaultChatServiceSid: new(noSID), DefaultInactiveTimer: new("PT5M")},
		} {
			_, err := api.UpdateConfiguration(&p)
			wantError(t, what, err, 400, 20001)
		}
		got, err := api.FetchConfiguration()
		if err != nil || show(got.DefaultInactiveTimer) != "PT1M" || show(got.DefaultMessagingServiceSid) != messaging {
			t.Errorf("FetchConfiguration = %+v, %v; want nothing changed by what was refused", got, err)
		}
		cleared, err := api.UpdateConfiguration(&conversations.UpdateConfigurationParams{DefaultMessagingServiceSid: new(""), DefaultInactiveTimer: new("")})
		if err != nil || cleared.DefaultMessagingServiceSid != nil || cleared.DefaultInactiveTimer != nil || show(cleared.DefaultClosedTimer) != "P1DT30S" {
			t.Errorf("cleared = %+v, %v; want null, and the other kept", cleared, err)
		}
	})
}

func TestDuration(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"PT1M": time.Minute, "PT60S": time.Minute, "PT0S": 0, "P1D": 24 * time.Hour, "P1W": 7 * 24 * time.Hour, "P1Y2M3DT4H5M6S": (365+60+3)*24*time.Hour + 4*time.Hour + 5*time.Minute + 6*time.Second,
		"PT1.5S": time.Second, "P2M": 60 * 24 * time.Hour,
	} {
		if got, ok := rest.Duration(text); !ok || got != want {
			t.Errorf("duration(%q) = %v, %v; want %v", text, got, ok, want)
		}
	}
	for _, text := range []string{"", "P", "PT", "P1DT", "1M", "PT1", "PT-1M", "-PT1M", "PT1M1H", "P1W1D", "pt1m", "PT1M ", "P999999Y", "P199Y999999D", "PT9999999S", "P1.5D"} {
		if got, ok := rest.Duration(text); ok {
			t.Errorf("duration(%q) = %v; want it refused", text, got)
		}
	}
}

func TestTwilioNotifications(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		api := f.twilio.ConversationsV1
		fresh, err := api.FetchServiceNotification(f.service)
		if err != nil {
			t.Fatal(err)
		}
		if *fresh.LogEnabled || *fresh.ChatServiceSid != f.service || *fresh.AccountSid != account ||
			*fresh.Url != f.server.URL+"/v1/Services/"+f.service+"/Configuration/Notifications" {
			t.Errorf("of a new service: %+v", fresh)
		}
		if want := "map[badge_count_enabled:false enabled:false sound:<nil> template:<nil> with_media:map[enabled:false template:<nil>]]"; fmt.Sprint(*fresh.NewMessage) != want {
			t.Errorf("new_message = %v; want %s", *fresh.NewMessage, want)
		}
		set, err := api.UpdateServiceNotification(f.service, &conversations.UpdateServiceNotificationParams{
			LogEnabled: new(true), NewMessageEnabled: new(true), NewMessageTemplate: new("${USER}: ${MESSAGE} ✉"), NewMessageSound: new("ping"), NewMessageBadgeCountEnabled: new(true),
			NewMessageWithMediaEnabled: new(true), NewMessageWithMediaTemplate: new("a picture"), AddedToConversationEnabled: new(true), AddedToConversationTemplate: new("in"),
			AddedToConversationSound: new("ding"), RemovedFromConversationEnabled: new(true), RemovedFromConversationTemplate: new("out"), RemovedFromConversationSound: new("dong"),
		})
		if err != nil {
			t.Fatal(err)
		}
		check := func(when string, n *conversations.ConversationsV1ServiceNotification, message, added, removed string) {
			t.Helper()
			if fmt.Sprint(*n.NewMessage) != message || fmt.Sprint(*n.AddedToConversation) != added || fmt.Sprint(*n.RemovedFromConversation) != removed || !*n.LogEnabled {
				t.Errorf("%s: %v %v %v %v", when, *n.LogEnabled, *n.NewMessage, *n.AddedToConversation, *n.RemovedFromConversation)
			}
		}
		const message = "map[badge_count_enabled:true enabled:true sound:ping template:${USER}: ${MESSAGE} ✉ with_media:map[enabled:true template:a picture]]"
		check("set", set, message, "map[enabled:true sound:ding template:in]", "map[enabled:true sound:dong template:out]")
		part, err := api.UpdateServiceNotification(f.service, &conversations.UpdateServiceNotificationParams{AddedToConversationEnabled: new(false), RemovedFromConversationSound: new("")})
		if err != nil {
			t.Fatal(err)
		}
		check("a part changed", part, message, "map[enabled:false sound:ding template:in]", "map[enabled:true sound:<nil> template:out]")
		same, err := api.UpdateServiceNotification(f.service, nil)
		if err != nil {
			t.Fatal(err)
		}
		check("nothing changed", same, message, "map[enabled:false sound:ding template:in]", "map[enabled:true sound:<nil> template:out]")

		_, err = api.UpdateServiceNotification(f.service, &conversations.UpdateServiceNotificationParams{NewMessageTemplate: new(strings.Repeat("é", 1025))})
		wantError(t, "a long template", err, 400, 50058)
		_, err = api.UpdateServiceNotification(f.service, &conversations.UpdateServiceNotificationParams{NewMessageSound: new(strings.Repeat("é", 257))})
		wantError(t, "a long sound", err, 400, 20001)
		if a := f.do(t, "POST", "/v1/Services/"+f.service+"/Configuration/Notifications", url.Values{"NewMessage.Enabled": {"yes"}, "LogEnabled": {"false"}}.Encode()); a.status != 400 || a.body["code"] != 20001.0 {
			t.Errorf("a switch that is neither: %d %v", a.status, a.body)
		}
		if a, err := api.FetchServiceNotification(f.service); err != nil || !*a.LogEnabled {
			t.Errorf("after what was refused: %+v, %v; want nothing changed", a, err)
		}

		second, err := api.CreateService(&conversations.CreateServiceParams{FriendlyName: new("second")})
		if err != nil {
			t.Fatal(err)
		}
		other, err := api.FetchServiceNotification(*second.Sid)
		if err != nil || *other.LogEnabled {
			t.Errorf("of another service: %+v, %v; want what a new one has", other, err)
		}
		if err := api.DeleteService(*second.Sid); err != nil {
			t.Error(err)
		}
		_, err = api.UpdateServiceNotification(*second.Sid, &conversations.UpdateServiceNotificationParams{LogEnabled: new(true)})
		wantError(t, "of a deleted service", err, 404, 20404)
	})
}

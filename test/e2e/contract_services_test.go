package e2e

import (
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	conversations "github.com/twilio/twilio-go/rest/conversations/v1"

	"github.com/rollcall-presence/rollcall/internal/testkit/rig"
)

const noSID = "00000000000000000000000000000000"

var serviceOperations = []operation{
	{id: "CreateService", run: func(t *testing.T, c *contract) {
		s, err := c.api.CreateService(&conversations.CreateServiceParams{FriendlyName: new("Ünited + Söns & 100%")})
		if err != nil {
			t.Fatal(err)
		}
		same(t, "friendly_name", s.FriendlyName, "Ünited + Söns & 100%")
		same(t, "account_sid", s.AccountSid, rig.Account)
		for link, path := range map[string]string{
			"conversations": "/Conversations", "users": "/Users", "roles": "/Roles", "bindings": "/Bindings", "configuration": "/Configuration",
			"participant_conversations": "/ParticipantConversations", "conversation_with_participants": "/ConversationWithParticipants",
		} {
			if (*s.Links)[link] != *s.Url+path {
				t.Errorf("link %s = %v; want %s below %s", link, (*s.Links)[link], path, *s.Url)
			}
		}
		conf, err := c.api.FetchServiceConfiguration(*s.Sid)
		if err != nil {
			t.Fatal(err)
		}
		same(t, "reachability_enabled of a new service", conf.ReachabilityEnabled, false)
	}, refuses: []refusal{
		{what: "no name", status: 400, code: 50000},
		{what: "a long name", params: "FriendlyName=" + strings.Repeat("%C3%A9", 257), status: 400, code: 50003},
	}},
	{id: "ListService", run: func(t *testing.T, c *contract) {
		want := append([]string{c.main.service}, c.main.list(t, "/v1/Services", "services", "sid")[1:]...)
		for range 3 {
			s, err := c.api.CreateService(&conversations.CreateServiceParams{FriendlyName: new("one of many")})
			if err != nil {
				t.Fatal(err)
			}
			want = append(want, *s.Sid)
		}
		if got := c.pages(t, "/v1/Services", "", "services", "sid"); !slices.Equal(got, want) {
			t.Errorf("pages of services = %v; want %v, in the order of their creation", got, want)
		}
		for _, p := range []conversations.ListServiceParams{{}, {PageSize: new(2)}, {Limit: new(3)}, {Limit: new(1000)}, {PageSize: new(1000)}} {
			got, err := c.api.ListService(&p)
			if err != nil || len(got) != min(len(want), limit(p.Limit)) || *got[0].Sid != want[0] {
				t.Errorf("ListService(%+v) = %d services, %v; want %d", p, len(got), err, min(len(want), limit(p.Limit)))
			}
		}
	}, refuses: listRefusals},
	{id: "FetchService", run: func(t *testing.T, c *contract) {
		s, err := c.api.FetchService(c.main.service)
		if err != nil {
			t.Fatal(err)
		}
		same(t, "sid", s.Sid, c.main.service)
	}},
	{id: "DeleteService", run: func(t *testing.T, c *contract) {
		s, err := c.api.CreateService(&conversations.CreateServiceParams{FriendlyName: new("short-lived")})
		if err != nil {
			t.Fatal(err)
		}
		if err := c.api.DeleteService(*s.Sid); err != nil {
			t.Fatal(err)
		}
		_, err = c.api.FetchService(*s.Sid)
		wantError(t, "fetching it", err, 404, 20404)
		_, err = c.api.ListServiceUser(*s.Sid, nil)
		wantError(t, "listing its users", err, 404, 20404)
		wantError(t, "deleting it again", c.api.DeleteService(*s.Sid), 404, 20404)
	}, refuses: []refusal{
		{what: "the default service", status: 409, code: 20409},
	}},

	{id: "FetchServiceConfiguration", run: func(t *testing.T, c *contract) {
		conf, err := c.api.FetchServiceConfiguration(c.main.service)
		if err != nil {
			t.Fatal(err)
		}
		same(t, "reachability_enabled", conf.ReachabilityEnabled, true)
		if (*conf.Links)["webhooks"] != *conf.Url+"/Webhooks" || (*conf.Links)["notifications"] != *conf.Url+"/Notifications" {
			t.Errorf("links %v; want webhooks and notifications below %s", *conf.Links, *conf.Url)
		}
	}},
	{id: "UpdateServiceConfiguration", run: func(t *testing.T, c *contract) {
		tn := c.newTenant(t, "configured")
		before, err := c.api.FetchServiceConfiguration(tn.service)
		if err != nil {
			t.Fatal(err)
		}
		off, err := c.api.UpdateServiceConfiguration(tn.service, &conversations.UpdateServiceConfigurationParams{
			ReachabilityEnabled: new(false), DefaultChatServiceRoleSid: before.DefaultChatServiceRoleSid,
			DefaultConversationRoleSid: before.DefaultConversationCreatorRoleSid, DefaultConversationCreatorRoleSid: before.DefaultConversationRoleSid,
		})
		if err != nil {
			t.Fatal(err)
		}
		same(t, "reachability_enabled", off.ReachabilityEnabled, false)
		same(t, "default_conversation_role_sid", off.DefaultConversationRoleSid, *before.DefaultConversationCreatorRoleSid)
		same(t, "default_conversation_creator_role_sid", off.DefaultConversationCreatorRoleSid, *before.DefaultConversationRoleSid)
		unchanged, err := c.api.UpdateServiceConfiguration(tn.service, nil)
		if err != nil {
			t.Fatal(err)
		}
		same(t, "reachability_enabled after an update of nothing", unchanged.ReachabilityEnabled, false)
		tn.wantOnline(t, tn.identity, "null")
		tn.wantNotifiable(t, tn.identity, "null")

		// A device that registers meanwhile counts once it is on again, as does who is connected.
		if _, err := c.api.CreateServiceUser(tn.service, &conversations.CreateServiceUserParams{Identity: new("bob")}); err != nil {
			t.Fatal(err)
		}
		tn.bind(t, "bob", "fcm", "of bob", "")
		tn.wantNotifiable(t, "bob", "null")
		if _, err := c.api.UpdateServiceConfiguration(tn.service, &conversations.UpdateServiceConfigurationParams{ReachabilityEnabled: new(true)}); err != nil {
			t.Fatal(err)
		}
		tn.wantNotifiable(t, "bob", "true")
		tn.wantOnline(t, "bob", "null")
		tn.wantNotifiable(t, tn.identity, "true")
		tn.wantOnline(t, tn.identity, "true")
	}, refuses: []refusal{
		{what: "neither true nor false", params: "ReachabilityEnabled=perhaps", status: 400, code: 20001},
		{what: "no role", params: "DefaultChatServiceRoleSid=RL" + noSID, status: 400, code: 50100},
		{what: "a role of the other type", prepare: otherRole("DefaultConversationRoleSid", "service"), status: 400, code: 50105},
	}},
	{id: "FetchServicePresence", run: func(t *testing.T, c *contract) {
		if err := c.must(t, http.MethodGet, c.main.base("/Configuration/Presence"), "").is(object{"chat_service_sid": c.main.service, "linger": nil}); err != nil {
			t.Error(err)
		}
	}},
	{id: "UpdateServicePresence", run: func(t *testing.T, c *contract) {
		path := c.newTenant(t, "presence").base("/Configuration/Presence")
		if err := c.must(t, http.MethodPost, path, "Linger=7&DebounceWindow=30").is(object{"linger": 7, "debounce_window": 30}); err != nil {
			t.Error(err)
		}
		if err := c.must(t, http.MethodGet, path, "").is(object{"linger": 7, "debounce_window": 30}); err != nil {
			t.Error(err)
		}
	}, refuses: []refusal{
		{what: "more than a minute", params: "Linger=61", status: 400, code: 20001},
		{what: "a window of more than half a minute", params: "DebounceWindow=31", status: 400, code: 20001},
	}},

	{id: "FetchServiceNotification", run: func(t *testing.T, c *contract) {
		n, err := c.api.FetchServiceNotification(c.newTenant(t, "not notified").service)
		if err != nil {
			t.Fatal(err)
		}
		same(t, "account_sid", n.AccountSid, rig.Account)
		same(t, "log_enabled", n.LogEnabled, false)
		for what, got := range map[string]*any{"new_message": n.NewMessage, "added_to_conversation": n.AddedToConversation, "removed_from_conversation": n.RemovedFromConversation} {
			want := object{"enabled": false, "template": nil, "sound": nil}
			if what == "new_message" {
				want["badge_count_enabled"], want["with_media"] = false, map[string]any{"enabled": false, "template": nil}
			}
			if diff := cmp.Diff(map[string]any(want), *got); diff != "" {
				t.Errorf("%s at first (-want +got):\n%s", what, diff)
			}
		}
	}},
	{id: "UpdateServiceNotification", run: func(t *testing.T, c *contract) {
		tn := c.newTenant(t, "notified")
		n, err := c.api.UpdateServiceNotification(tn.service, &conversations.UpdateServiceNotificationParams{
			LogEnabled: new(true), NewMessageEnabled: new(true), NewMessageTemplate: new("${USER}: ${MESSAGE} & more"), NewMessageSound: new("ping"),
			NewMessageBadgeCountEnabled: new(true), NewMessageWithMediaEnabled: new(true), NewMessageWithMediaTemplate: new("a picture"),
			AddedToConversationEnabled: new(true), AddedToConversationTemplate: new("added"), AddedToConversationSound: new("in"),
			RemovedFromConversationEnabled: new(true), RemovedFromConversationTemplate: new("removed"), RemovedFromConversationSound: new("out"),
		})
		if err != nil {
			t.Fatal(err)
		}
		same(t, "log_enabled", n.LogEnabled, true)
		want := map[string]any{
			"enabled": true, "template": "${USER}: ${MESSAGE} & more", "sound": "ping", "badge_count_enabled": true,
			"with_media": map[string]any{"enabled": true, "template": "a picture"},
		}
		if diff := cmp.Diff(want, *n.NewMessage); diff != "" {
			t.Errorf("new_message (-want +got):\n%s", diff)
		}
		// What is not named is kept, also by an update of nothing.
		if _, err = c.api.UpdateServiceNotification(tn.service, &conversations.UpdateServiceNotificationParams{LogEnabled: new(false)}); err != nil {
			t.Fatal(err)
		}
		if n, err = c.api.UpdateServiceNotification(tn.service, nil); err != nil {
			t.Fatal(err)
		}
		same(t, "log_enabled", n.LogEnabled, false)
		if diff := cmp.Diff(any(map[string]any{"enabled": true, "template": "removed", "sound": "out"}), *n.RemovedFromConversation); diff != "" {
			t.Errorf("removed_from_conversation (-want +got):\n%s", diff)
		}
		// They are about what is sent, not about who can be reached.
		tn.wantNotifiable(t, tn.identity, "true")
	}, refuses: []refusal{
		{what: "neither true nor false", params: "NewMessage.Enabled=perhaps", status: 400, code: 20001},
		{what: "a long template", params: "NewMessage.Template=" + strings.Repeat("x", 4097), status: 400, code: 50058},
	}},

	{id: "FetchConfiguration", run: func(t *testing.T, c *contract) {
		conf, err := c.api.FetchConfiguration()
		if err != nil {
			t.Fatal(err)
		}
		same(t, "account_sid", conf.AccountSid, rig.Account)
		same(t, "default_chat_service_sid", conf.DefaultChatServiceSid, c.main.service)
		if links := *conf.Links; !strings.HasSuffix(links["service"].(string), "/v1/Services/"+c.main.service+"/Configuration") || !strings.HasSuffix(links["webhooks"].(string), "/v1/Configuration/Webhooks") {
			t.Errorf("links %v", links)
		}
	}},
	{id: "UpdateConfiguration", run: func(t *testing.T, c *contract) {
		other := c.newTenant(t, "for a moment the default")
		set := func(sid string) {
			t.Helper()
			conf, err := c.api.UpdateConfiguration(&conversations.UpdateConfigurationParams{DefaultChatServiceSid: &sid})
			if err != nil {
				t.Fatal(err)
			}
			same(t, "default_chat_service_sid", conf.DefaultChatServiceSid, sid)
		}
		set(other.service)
		u, err := c.api.FetchUser(other.alice)
		if err != nil {
			t.Fatal(err)
		}
		same(t, "chat_service_sid by the short URL", u.ChatServiceSid, other.service)
		_, err = c.api.FetchUser(c.main.alice)
		wantError(t, "a user of the former default", err, 404, 20404)
		set(c.main.service)

		conf, err := c.api.UpdateConfiguration(&conversations.UpdateConfigurationParams{
			DefaultMessagingServiceSid: new("MG" + noSID), DefaultInactiveTimer: new("PT1M"), DefaultClosedTimer: new("PT10M"),
		})
		if err != nil {
			t.Fatal(err)
		}
		same(t, "default_messaging_service_sid", conf.DefaultMessagingServiceSid, "MG"+noSID)
		same(t, "default_inactive_timer", conf.DefaultInactiveTimer, "PT1M")
		same(t, "default_closed_timer", conf.DefaultClosedTimer, "PT10M")
		conf, err = c.api.UpdateConfiguration(nil)
		if err != nil {
			t.Fatal(err)
		}
		same(t, "default_inactive_timer after an update of nothing", conf.DefaultInactiveTimer, "PT1M")
	}, refuses: []refusal{
		{what: "no service", params: "DefaultChatServiceSid=IS" + noSID, status: 400, code: 20001},
		{what: "a messaging service that is none", params: "DefaultMessagingServiceSid=x", status: 400, code: 20001},
		{what: "a timer under a minute", params: "DefaultInactiveTimer=PT59S", status: 400, code: 20001},
		{what: "a timer under ten minutes", params: "DefaultClosedTimer=PT9M", status: 400, code: 20001},
		{what: "a timer that is none", params: "DefaultInactiveTimer=soon", status: 400, code: 20001},
	}},
}

// otherRole is a parameter that names a role of the main tenant, of a type.
func otherRole(parameter, kind string) func(*testing.T, *contract) (path, params string) {
	return func(t *testing.T, c *contract) (path, params string) {
		role := longRoles(c.main).make(t, "of type "+kind, kind, "leaveConversation")
		return "", parameter + "=" + *role.Sid
	}
}

// list is one member of each item of a list's first page.
func (c *contract) list(t *testing.T, path, key, member string) (all []string) {
	t.Helper()
	for _, item := range c.must(t, http.MethodGet, path, "")[key].([]any) {
		all = append(all, item.(map[string]any)[member].(string))
	}
	return all
}

// limit is the library's: all, if it is not given.
func limit(p *int) int {
	if p == nil {
		return 1 << 30
	}
	return *p
}

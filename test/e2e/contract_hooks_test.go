package e2e

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	conversations "github.com/twilio/twilio-go/rest/conversations/v1"
)

// filters are all that can be asked for: those about conversations are kept and never
// fire.
var filters = []string{
	"onMessageAdd", "onMessageAdded", "onMessageUpdate", "onMessageUpdated", "onMessageRemove", "onMessageRemoved",
	"onConversationAdd", "onConversationAdded", "onConversationUpdate", "onConversationUpdated", "onConversationRemove", "onConversationRemoved",
	"onParticipantAdd", "onParticipantAdded", "onParticipantUpdate", "onParticipantUpdated", "onParticipantRemove", "onParticipantRemoved",
	"onConversationStateUpdated", "onDeliveryUpdated", "onUserAdded", "onUserUpdate", "onUserUpdated", "onReachabilityChanged",
}

// hookRefusals are what both configurations of webhooks refuse.
var hookRefusals = []refusal{
	{what: "a method that is none", params: "Method=PUT", status: 400, code: 50055},
	{what: "a URL that is none", params: "PostWebhookUrl=nonsense", status: 400, code: 50078},
	{what: "a pre URL that is none", params: "PreWebhookUrl=ftp://example.com/", status: 400, code: 50054},
	{what: "a filter that is none", params: "Filters=onNothing", status: 400, code: 50054},
	{what: "an address that is not allowed", params: "PostWebhookUrl=http://10.0.0.1/hook", status: 400, code: 50078},
}

var hookOperations = []operation{
	{id: "FetchServiceWebhookConfiguration", run: func(t *testing.T, c *contract) {
		tn := c.newTenant(t, "unhooked")
		h, err := c.api.FetchServiceWebhookConfiguration(tn.service)
		if err != nil {
			t.Fatal(err)
		}
		same(t, "chat_service_sid", h.ChatServiceSid, tn.service)
		same(t, "account_sid", h.AccountSid, account)
		if h.PreWebhookUrl != nil || h.PostWebhookUrl != nil || h.Filters != nil || h.Method != nil {
			t.Errorf("at first %+v; want the four settings null", h)
		}
		if !strings.HasSuffix(*h.Url, tn.base("/Configuration/Webhooks")) {
			t.Errorf("url %s", *h.Url)
		}
	}},
	{id: "UpdateServiceWebhookConfiguration", run: func(t *testing.T, c *contract) {
		tn := c.newTenant(t, "hooked")
		h, err := c.api.UpdateServiceWebhookConfiguration(tn.service, &conversations.UpdateServiceWebhookConfigurationParams{
			PreWebhookUrl: new("http://127.0.0.1:9/pre?a=b&c=d"), PostWebhookUrl: new("https://example.com/post"), Method: new("GET"), Filters: &filters,
		})
		if err != nil {
			t.Fatal(err)
		}
		same(t, "pre_webhook_url", h.PreWebhookUrl, "http://127.0.0.1:9/pre?a=b&c=d")
		same(t, "post_webhook_url", h.PostWebhookUrl, "https://example.com/post")
		same(t, "method", h.Method, "GET")
		if !slices.Equal(slices.Sorted(slices.Values(*h.Filters)), slices.Sorted(slices.Values(filters))) {
			t.Errorf("filters %v; want all of them", *h.Filters)
		}
		// Of what is not named nothing changes; an empty URL clears.
		if _, err := c.api.UpdateServiceWebhookConfiguration(tn.service, &conversations.UpdateServiceWebhookConfigurationParams{Filters: &[]string{"onUserUpdated"}}); err != nil {
			t.Fatal(err)
		}
		if h, err = c.api.UpdateServiceWebhookConfiguration(tn.service, &conversations.UpdateServiceWebhookConfigurationParams{PreWebhookUrl: new("")}); err != nil {
			t.Fatal(err)
		}
		if h.PreWebhookUrl != nil || show(h.PostWebhookUrl) != "https://example.com/post" || fmt.Sprint(*h.Filters) != "[onUserUpdated]" {
			t.Errorf("pre %s, post %s, filters %v; want the first cleared and the rest kept", show(h.PreWebhookUrl), show(h.PostWebhookUrl), *h.Filters)
		}
	}, refuses: hookRefusals},
	{id: "FetchConfigurationWebhook", run: func(t *testing.T, c *contract) {
		h, err := c.api.FetchConfigurationWebhook()
		if err != nil {
			t.Fatal(err)
		}
		same(t, "account_sid", h.AccountSid, account)
		same(t, "target", h.Target, "webhook")
		if !strings.HasSuffix(*h.Url, "/v1/Configuration/Webhooks") {
			t.Errorf("url %s", *h.Url)
		}
	}},
	{id: "UpdateConfigurationWebhook", run: func(t *testing.T, c *contract) {
		h, err := c.api.UpdateConfigurationWebhook(&conversations.UpdateConfigurationWebhookParams{
			Method: new("POST"), Filters: &[]string{"onUserAdded", "onUserUpdate"}, PreWebhookUrl: new("https://example.com/pre"),
			PostWebhookUrl: new("https://example.com/post"), Target: new("flex"),
		})
		if err != nil {
			t.Fatal(err)
		}
		same(t, "method", h.Method, "POST")
		same(t, "target", h.Target, "flex")
		same(t, "post_webhook_url", h.PostWebhookUrl, "https://example.com/post")
		h, err = c.api.UpdateConfigurationWebhook(&conversations.UpdateConfigurationWebhookParams{PreWebhookUrl: new(""), PostWebhookUrl: new(""), Target: new("webhook")})
		if err != nil || h.PreWebhookUrl != nil || h.PostWebhookUrl != nil || h.Filters == nil {
			t.Errorf("cleared = %+v, %v; want no URL, and an array of filters", h, err)
		}
		if a := c.must(t, http.MethodPost, "/v1/Configuration/Webhooks", ""); fmt.Sprint(a["filters"]) != "[onUserAdded onUserUpdate]" {
			t.Errorf("filters after an update of nothing = %v; want them kept", a["filters"])
		}
	}, refuses: append([]refusal{
		{what: "a target that is none", params: "Target=moon", status: 400, code: 20001},
	}, hookRefusals...)},
}

package twilsock

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/rollcall-presence/rollcall/gateway"
	"github.com/rollcall-presence/rollcall/presence"
)

// tunnel handles an HTTP request that came through the session. It is answered in any
// case, else the SDK would wait for half a minute.
func (h *handler) tunnel(ctx context.Context, m *message) {
	r, known := route(m, h.session.Key().Service)
	if r.name != "" {
		h.session.CountRequest(r.name)
	}
	if r.name == requestMap && h.paid > 0 {
		h.paid--
	} else if p := h.session.Allow(); p != nil {
		h.fail(m, p)
		return
	}
	if !known {
		h.fail(m, &gateway.Problem{Code: gateway.ErrorUnsupported})
		return
	}
	r.handle(h, ctx, m, r.args)
}

// request is a request that was routed: its name for metrics (empty if it is counted by
// what handles it), what handles it, and the variable parts of its path.
type request struct {
	name   string
	handle func(*handler, context.Context, *message, []string)
	args   []string
}

// routes are the requests that are supported. In a path {} stands for a variable part
// and {service} for the session's service.
var routes = []struct {
	method, name string
	path         []string
	handle       func(*handler, context.Context, *message, []string)
}{
	{http.MethodGet, requestConfiguration, split("/Client/v2/Configuration"), (*handler).configuration},
	{http.MethodGet, requestUser, split("/Client/v2/Services/{service}/Users/{}"), (*handler).user},
	{http.MethodPost, requestUpdateUser, split("/Client/v2/Services/{service}/Users/{}"), (*handler).updateUser},
	{http.MethodGet, requestConversations, split("/Client/v2/Services/{service}/Users/{}/Conversations"), (*handler).conversations},
	{http.MethodGet, requestMap, split("/v3/Maps/{}"), (*handler).readMap},
	{http.MethodGet, requestMapItems, split("/v3/Maps/{}/Items"), (*handler).readItems},
	{http.MethodPost, "", split("/v4/Subscriptions"), (*handler).changeSubscriptions},
	{http.MethodPost, requestRegister, split("/v1/registrations"), (*handler).register},
	{http.MethodDelete, requestUnregister, split("/v1/registrations"), (*handler).unregisterAddress},
	{http.MethodDelete, requestUnregister, split("/v1/registrations/{}"), (*handler).unregister},
}

func split(path string) []string { return strings.Split(path, "/") }

// route finds what a request asks for; false if it is not supported.
func route(m *message, service string) (request, bool) {
	unsupported := request{name: requestUnsupported}
	parts := split(m.HTTP.Path)
	for _, r := range routes {
		if r.method != m.HTTP.Method || len(r.path) != len(parts) {
			continue
		}
		args, ok := match(r.path, parts, service)
		if ok {
			return request{name: r.name, handle: r.handle, args: args}, true
		}
	}
	return unsupported, false
}

func match(pattern, parts []string, service string) (args []string, ok bool) {
	for i, want := range pattern {
		part, err := url.PathUnescape(parts[i])
		switch {
		case err != nil || !utf8.ValidString(part):
			return nil, false
		case want == "{}":
			args = append(args, part)
		case want == "{service}":
			if part != service {
				return nil, false
			}
		case want != part:
			return nil, false
		}
	}
	return args, true
}

// fail answers a request with a problem. There are no conversations, so one that is
// read is not found; the SDK gets the same text for either.
func (h *handler) fail(m *message, p *gateway.Problem) {
	h.session.CountError(p.Code)
	code := statusOf(p.Code)
	if p.Code == gateway.ErrorUnsupported && m.HTTP.Method == http.MethodGet {
		code = http.StatusNotFound
	}
	h.session.Send(encodeAnswer(m.ID, code, p.Code.Text(), errorBody{
		Code: int(p.Code), Message: p.Code.Text(), Status: code, Retry: p.Retry.Milliseconds(),
	}))
}

func (h *handler) answer(ctx context.Context, m *message, code int, body any) {
	h.session.Answer(ctx, encodeAnswer(m.ID, code, http.StatusText(code), body))
}

// body reads the request's body; false if it has answered that it cannot be.
func (h *handler) body(m *message, v any) bool {
	if !utf8.Valid(m.payload) || presence.LoneSurrogate(m.payload) || json.Unmarshal(m.payload, v) != nil {
		h.fail(m, &gateway.Problem{Code: gateway.ErrorBadField})
		return false
	}
	return true
}

type (
	configuration struct {
		Identity   string            `json:"identity"`
		ServiceSID string            `json:"service_sid"`
		Options    options           `json:"options"`
		Links      map[string]string `json:"links"`
		Sync       map[string]string `json:"sync_objects"`
	}
	options struct {
		Reachability        bool     `json:"reachability_enabled"`
		Users               int      `json:"user_infos_to_subscribe"`
		HTTPCache           string   `json:"http_cache_interval"`
		ConsumptionReport   string   `json:"consumption_report_interval"`
		MediaCount          int      `json:"media_attachments_count_limit"`
		MediaSize           int      `json:"media_attachment_size_limit_in_mb"`
		MediaTotal          int      `json:"media_attachments_total_size_limit_in_mb"`
		EmailHistoriesTypes []string `json:"email_histories_allowed_mime_types"`
		EmailBodiesTypes    []string `json:"email_bodies_allowed_mime_types"`
	}
)

// apiBase begins the URLs of all but maps that come back through the tunnel. It is not
// the gateway's own, for the SDK knows no addresses such as [::1].
const apiBase = "https://api.rollcall.invalid/Client/v2/Services/"

// configuration tells the SDK what it may do and where. All links but those to media
// come back through the tunnel; media would be sent to this gateway, and refused.
func (h *handler) configuration(ctx context.Context, m *message, _ []string) {
	service, p := h.session.Service(ctx)
	if p != nil {
		h.fail(m, p)
		return
	}
	h.blind.Store(!service.Enabled)
	identity := h.session.Key().Identity
	base := apiBase + service.SID
	me := base + "/Users/" + url.PathEscape(identity)
	media := h.origin + "/v1/Services/" + service.SID
	h.answer(ctx, m, http.StatusOK, configuration{
		Identity: identity, ServiceSID: service.SID,
		Options: options{
			Reachability: service.Enabled, Users: h.users, HTTPCache: "PT5S", ConsumptionReport: "PT5S",
			MediaCount: 10, MediaSize: 150, MediaTotal: 150, EmailHistoriesTypes: []string{}, EmailBodiesTypes: []string{},
		},
		Links: map[string]string{
			"users": base + "/Users", "current_user": me, "my_conversations": me + "/Conversations", "conversations": base + "/Conversations",
			"typing": base + "/typing", "messages_receipts": base + "/receipts",
			"media_service": media + "/Media", "media_set_service": media + "/MediaSet",
		},
		Sync: map[string]string{
			"my_user_info": mapSID(userMap, identity), "my_conversations": mapSID(conversationsMap, identity),
		},
	})
}

type userBody struct {
	Identity     string            `json:"identity"`
	SID          string            `json:"sid"`
	FriendlyName *string           `json:"friendly_name"`
	Attributes   string            `json:"attributes"`
	Online       presence.Tri      `json:"is_online"`
	Notifiable   presence.Tri      `json:"is_notifiable"`
	URL          string            `json:"url"`
	Sync         map[string]string `json:"sync_objects"`
}

func (h *handler) showUser(ctx context.Context, m *message, v *presence.Snapshot) {
	h.answer(ctx, m, http.StatusOK, userBody{
		Identity: v.Identity, SID: v.SID, FriendlyName: v.FriendlyName, Attributes: *attributesOf(v).Value, Online: v.Online, Notifiable: v.Notifiable,
		URL:  apiBase + h.session.Key().Service + "/Users/" + url.PathEscape(v.Identity),
		Sync: map[string]string{"user_info_map": mapSID(userMap, v.Identity)},
	})
}

// user answers where a user's map is. The SDK reads that next: the two count as one
// request, so that an application may ask for all users that it may be subscribed to.
func (h *handler) user(ctx context.Context, m *message, args []string) {
	v, p := h.session.User(ctx, args[0])
	if p != nil {
		h.fail(m, p)
		return
	}
	h.paid = min(h.paid+1, h.users)
	h.showUser(ctx, m, &v)
}

func (h *handler) updateUser(ctx context.Context, m *message, args []string) {
	if args[0] != h.session.Key().Identity {
		h.fail(m, &gateway.Problem{Code: gateway.ErrorNotOwn})
		return
	}
	var b struct {
		FriendlyName *string `json:"friendly_name"`
		Attributes   *string `json:"attributes"`
	}
	if !h.body(m, &b) {
		return
	}
	asked := *m
	ok := h.session.Beside(ctx, func(ctx context.Context) {
		if v, p := h.session.UpdateProfile(ctx, b.FriendlyName, b.Attributes); p != nil {
			h.fail(&asked, p)
		} else {
			h.showUser(ctx, &asked, &v)
		}
	})
	if !ok {
		h.fail(m, &gateway.Problem{Code: gateway.ErrorRateLimited, Retry: busyRetry})
	}
}

// busyRetry is when a user may change itself again who has too many changes under way.
const busyRetry = time.Second

func (h *handler) conversations(ctx context.Context, m *message, args []string) {
	if args[0] != h.session.Key().Identity {
		h.fail(m, &gateway.Problem{Code: gateway.ErrorNotOwn})
		return
	}
	h.answer(ctx, m, http.StatusOK, struct {
		Conversations []struct{} `json:"conversations"`
		Meta          pageMeta   `json:"meta"`
	}{Conversations: []struct{}{}})
}

// find is the user whose map was asked for, nil for one's own map of conversations;
// false if it has answered that there is no such map.
func (h *handler) find(ctx context.Context, m *message, name string) (*presence.Snapshot, bool) {
	kind, identity, ok := parseMapSID(name)
	switch {
	case ok && kind == conversationsMap && identity == h.session.Key().Identity:
		return nil, true
	case !ok || kind == conversationsMap:
		h.fail(m, &gateway.Problem{Code: gateway.ErrorNoMap})
		return nil, false
	}
	v, p := h.session.User(ctx, identity)
	if p != nil {
		if statusOf(p.Code) == http.StatusNotFound || statusOf(p.Code) == http.StatusBadRequest {
			p = &gateway.Problem{Code: gateway.ErrorNoMap}
		}
		h.fail(m, p)
		return nil, false
	}
	return &v, true
}

func (h *handler) readMap(ctx context.Context, m *message, args []string) {
	v, ok := h.find(ctx, m, args[0])
	if !ok {
		return
	}
	if v == nil {
		h.answer(ctx, m, http.StatusOK, describeMap(args[0], conversationsRev))
		return
	}
	body := describeMap(args[0], v.Rev)
	if text(m.HTTP.Params.Include) == "items" {
		body.Items = itemsOf(v, "")
	}
	h.answer(ctx, m, http.StatusOK, body)
}

func (h *handler) readItems(ctx context.Context, m *message, args []string) {
	v, ok := h.find(ctx, m, args[0])
	if !ok {
		return
	}
	body := itemsBody{Items: []item{}}
	if v != nil {
		body.Items = itemsOf(v, text(m.HTTP.Params.Key))
	}
	h.answer(ctx, m, http.StatusOK, body)
}

// text is a parameter that came once; else it is empty.
func text(v any) string {
	s, _ := v.(string)
	s, _ = url.QueryUnescape(s)
	return s
}

func (h *handler) changeSubscriptions(ctx context.Context, m *message, _ []string) {
	var s subscriptions
	if !h.body(m, &s) {
		h.session.CountRequest(requestMalformed)
		return
	}
	valid := s.valid()
	switch {
	case valid && len(s.Requests) > maxBatch:
		h.session.CountRequest(requestMalformed)
		h.fail(m, &gateway.Problem{Code: gateway.ErrorTooManyIdentities})
	case valid && s.Action == "establish":
		h.session.CountRequest(requestSubscribe)
		h.subscribe(ctx, m, &s)
	case valid && s.Action == "cancel":
		h.session.CountRequest(requestUnsubscribe)
		h.unsubscribe(m, &s)
	default:
		h.session.CountRequest(requestMalformed)
		h.fail(m, &gateway.Problem{Code: gateway.ErrorBadField})
	}
}

// messageTypes are the SDK's names of what can be pushed; it names others too, which
// nobody pushes.
var messageTypes = map[string]string{
	"twilio.conversations.new_message":               "new_message",
	"twilio.conversations.added_to_conversation":     "added_to_conversation",
	"twilio.conversations.removed_from_conversation": "removed_from_conversation",
}

func (h *handler) register(ctx context.Context, m *message, _ []string) {
	var b struct {
		Type         presence.PushType `json:"channel_type"`
		MessageTypes []string          `json:"message_types"`
		Data         struct {
			Address string `json:"registration_id"`
		} `json:"data"`
	}
	if !h.body(m, &b) {
		return
	}
	var types []string
	for _, t := range b.MessageTypes {
		if ours := messageTypes[t]; ours != "" && !slices.Contains(types, ours) {
			types = append(types, ours)
		}
	}
	binding, p := h.session.RegisterPush(ctx, presence.Registration{Type: b.Type, Address: b.Data.Address, MessageTypes: types})
	if p != nil {
		h.fail(m, p)
		return
	}
	h.answer(ctx, m, http.StatusCreated, map[string]string{"id": binding.SID})
}

func (h *handler) unregisterAddress(ctx context.Context, m *message, _ []string) {
	var b struct {
		Type    presence.PushType `json:"binding_type"`
		Address string            `json:"address"`
	}
	if !h.body(m, &b) {
		return
	}
	if b.Type == "" || b.Address == "" {
		h.fail(m, &gateway.Problem{Code: gateway.ErrorBadField})
		return
	}
	h.unregistered(ctx, m, h.session.UnregisterPush(ctx, "", b.Type, b.Address))
}

func (h *handler) unregister(ctx context.Context, m *message, args []string) {
	if args[0] == "" {
		h.fail(m, &gateway.Problem{Code: gateway.ErrorBadField})
		return
	}
	h.unregistered(ctx, m, h.session.UnregisterPush(ctx, args[0], "", ""))
}

func (h *handler) unregistered(ctx context.Context, m *message, p *gateway.Problem) {
	if p != nil {
		h.fail(m, p)
		return
	}
	h.answer(ctx, m, http.StatusOK, struct{}{})
}

package rest

import (
	"context"
	"errors"
	"regexp"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"go.uber.org/zap"

	"github.com/rollcall-presence/rollcall/presence"
)

// Account is what the API needs of the account's configuration, of which the choice
// of the service that the short URLs speak of is a part.
type Account interface {
	DefaultService(ctx context.Context) (sid string, err error)
	Account(ctx context.Context) (presence.Account, error)
	UpdateAccount(ctx context.Context, u presence.AccountUpdate) error
}

// Notifications is what the API needs of the stored push settings of services: by
// name, those that were set; an empty value clears.
type Notifications interface {
	Notifications(ctx context.Context, service string) (map[string]string, error)
	UpdateNotifications(ctx context.Context, service string, set map[string]string) (map[string]string, error)
}

type configuration struct {
	AccountSID       string            `json:"account_sid"`
	ServiceSID       string            `json:"default_chat_service_sid"`
	MessagingService *string           `json:"default_messaging_service_sid"`
	InactiveTimer    *string           `json:"default_inactive_timer"`
	ClosedTimer      *string           `json:"default_closed_timer"`
	URL              string            `json:"url"`
	Links            map[string]string `json:"links"`
}

// orNull is null for what is not set.
func orNull(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

func (c *call) fetchConfiguration() (any, error) {
	sid, err := c.store.DefaultService(c.ctx)
	if err != nil {
		return nil, err
	}
	a, err := c.store.Account(c.ctx)
	if err != nil {
		return nil, err
	}
	return configuration{
		AccountSID: c.account, ServiceSID: sid, URL: c.url("/v1/Configuration"),
		MessagingService: orNull(a.MessagingService), InactiveTimer: orNull(a.InactiveTimer), ClosedTimer: orNull(a.ClosedTimer),
		Links: links(c.url(""), map[string]string{
			"service": "/v1/Services/" + sid + "/Configuration", "webhooks": "/v1/Configuration/Webhooks",
		}),
	}, nil
}

func (c *call) updateConfiguration() (any, error) {
	var u presence.AccountUpdate
	for _, p := range []struct {
		name  string
		set   **string
		check func(string) error
	}{
		{"DefaultChatServiceSid", &u.DefaultService, func(v string) error { return unless(presence.IsSID(v, "IS"), errNoDefault) }},
		{"DefaultMessagingServiceSid", &u.MessagingService, func(v string) error { return unless(v == "" || presence.IsSID(v, "MG"), errMessaging) }},
		{"DefaultInactiveTimer", &u.InactiveTimer, func(v string) error { return checkTimer("DefaultInactiveTimer", v, time.Minute) }},
		{"DefaultClosedTimer", &u.ClosedTimer, func(v string) error { return checkTimer("DefaultClosedTimer", v, 10*time.Minute) }},
	} {
		v, err := c.form.text(p.name)
		if err == nil && v != nil {
			err = p.check(*v)
		}
		if err != nil {
			return nil, err
		}
		*p.set = v
	}
	if u != (presence.AccountUpdate{}) {
		if err := c.store.UpdateAccount(c.ctx, u); errors.Is(err, presence.ErrNoService) {
			return nil, errNoDefault
		} else if err != nil {
			return nil, err
		}
		c.audit("account configuration updated", zap.Stringp("service", u.DefaultService))
	}
	return c.fetchConfiguration()
}

func unless(ok bool, err error) error {
	if ok {
		return nil
	}
	return err
}

// checkTimer returns nil for an ISO 8601 duration of at least the shortest, and for
// an empty one, which clears.
func checkTimer(name, v string, shortest time.Duration) error {
	if d, ok := duration(v); v == "" || ok && d >= shortest {
		return nil
	}
	return invalid(name + " must be an ISO 8601 duration of at least PT" + strconv.Itoa(int(shortest/time.Minute)) + "M, or empty for none")
}

// isoDuration leaves a number before each designator; weeks stand alone.
var isoDuration = regexp.MustCompile(`^P(?:(\d{1,6})W|(?:(\d{1,6})Y)?(?:(\d{1,6})M)?(?:(\d{1,6})D)?(?:T(?:(\d{1,6})H)?(?:(\d{1,6})M)?(?:(\d{1,6})(?:\.\d{1,9})?S)?)?)$`)

// duration reads an ISO 8601 duration, a year as 365 days and a month as 30, in
// whole seconds; at most 200 years.
func duration(v string) (d time.Duration, ok bool) {
	m := isoDuration.FindStringSubmatch(v)
	if m == nil || strings.HasSuffix(v, "P") || strings.HasSuffix(v, "T") {
		return 0, false
	}
	const day = 24 * time.Hour
	for i, unit := range []time.Duration{7 * day, 365 * day, 30 * day, day, time.Hour, time.Minute, time.Second} {
		if m[i+1] == "" {
			continue
		}
		n, err := strconv.Atoi(m[i+1])
		if err != nil || time.Duration(n) > 200*365*day/unit {
			return 0, false
		}
		if d += time.Duration(n) * unit; d > 200*365*day {
			return 0, false
		}
	}
	return d, true
}

// push is the push settings: the parameter, which in lower case with underscores is
// the member of the answer, and whether it is a switch or a text.
var push = []struct {
	parameter, member string
	text              *Error // for one that is too long; nil for a switch
	longest           int    // characters
}{
	{"LogEnabled", "log_enabled", nil, 0},
	{"NewMessage.Enabled", "new_message.enabled", nil, 0},
	{"NewMessage.Template", "new_message.template", errLongTemplate, 1024},
	{"NewMessage.Sound", "new_message.sound", errLongSound, 256},
	{"NewMessage.BadgeCountEnabled", "new_message.badge_count_enabled", nil, 0},
	{"NewMessage.WithMedia.Enabled", "new_message.with_media.enabled", nil, 0},
	{"NewMessage.WithMedia.Template", "new_message.with_media.template", errLongTemplate, 1024},
	{"AddedToConversation.Enabled", "added_to_conversation.enabled", nil, 0},
	{"AddedToConversation.Template", "added_to_conversation.template", errLongTemplate, 1024},
	{"AddedToConversation.Sound", "added_to_conversation.sound", errLongSound, 256},
	{"RemovedFromConversation.Enabled", "removed_from_conversation.enabled", nil, 0},
	{"RemovedFromConversation.Template", "removed_from_conversation.template", errLongTemplate, 1024},
	{"RemovedFromConversation.Sound", "removed_from_conversation.sound", errLongSound, 256},
}

func (c *call) showNotifications(s presence.Service, set map[string]string) any {
	shown := map[string]any{
		"account_sid": c.account, "chat_service_sid": s.SID, "url": c.url("/v1/Services/" + s.SID + "/Configuration/Notifications"),
	}
	for _, p := range push {
		at := shown
		path := strings.Split(p.member, ".")
		for _, name := range path[:len(path)-1] {
			inner, ok := at[name].(map[string]any)
			if !ok {
				inner = map[string]any{}
				at[name] = inner
			}
			at = inner
		}
		last := path[len(path)-1]
		if p.text == nil {
			at[last] = set[p.member] == "true"
		} else {
			at[last] = orNull(set[p.member])
		}
	}
	return shown
}

func (c *call) fetchNotifications() (any, error) {
	s, err := c.service()
	if err != nil {
		return nil, err
	}
	set, err := c.store.Notifications(c.ctx, s.SID)
	if err != nil {
		return nil, err
	}
	return c.showNotifications(s, set), nil
}

func (c *call) updateNotifications() (any, error) {
	s, err := c.service()
	if err != nil {
		return nil, err
	}
	set := map[string]string{}
	for _, p := range push {
		if p.text == nil {
			on, err := c.form.boolean(p.parameter)
			if err != nil {
				return nil, err
			}
			if on != nil {
				set[p.member] = strconv.FormatBool(*on)
			}
			continue
		}
		v, err := c.form.text(p.parameter)
		if err != nil {
			return nil, err
		}
		if v == nil {
			continue
		}
		if utf8.RuneCountInString(*v) > p.longest {
			return nil, p.text
		}
		set[p.member] = *v
	}
	if len(set) == 0 {
		return c.fetchNotifications()
	}
	now, err := c.store.UpdateNotifications(c.ctx, s.SID, set)
	if err != nil {
		return nil, err
	}
	c.audit("notifications configuration updated", zap.String("service", s.SID))
	return c.showNotifications(s, now), nil
}

package rest

import (
	"context"
	"slices"
	"strings"

	"go.uber.org/zap"

	"github.com/rollcall-presence/rollcall/presence"
)

// Webhooks is what the API needs of the stored webhooks.
type Webhooks interface {
	AccountWebhooks(context.Context) (presence.Webhooks, error)
	UpdateAccountWebhooks(context.Context, presence.WebhooksUpdate) (presence.Webhooks, error)
	ListDeadLetters(ctx context.Context, service, cursor string, limit int) (presence.Page[presence.DeadLetter], error)
	DeadLetter(ctx context.Context, service, sid string) (presence.DeadLetter, error)
	DeleteDeadLetter(ctx context.Context, service, sid string) error
	ReplayDeadLetter(ctx context.Context, service, sid string) error
	ReplayDeadLetters(ctx context.Context, service string, limit int) (int, error)
}

// Hooks is what the API needs of the delivery of webhooks.
type Hooks interface {
	// CheckURL returns nil for a URL that may be a target.
	CheckURL(url string) error
	// BeforeUserUpdate asks the service's backend whether a user may be changed; if not
	// it is ErrRejected, or ErrAsking if it cannot be asked. It
	// answers within seconds.
	BeforeUserUpdate(context.Context, presence.Service, presence.User, presence.UserUpdate) error
}

type noHooks struct{}

func (noHooks) CheckURL(string) error { return nil }
func (noHooks) BeforeUserUpdate(context.Context, presence.Service, presence.User, presence.UserUpdate) error {
	return nil
}

// hookEvents are the names that Filters may hold: the published ones, of which most
// are about conversations and never fire here, and our own.
var hookEvents = func() []string {
	names := []string{
		"onConversationStateUpdated", "onDeliveryUpdated",
		presence.EventUserAdded, presence.EventUserUpdate, presence.EventUserUpdated, presence.EventReachabilityChanged,
	}
	for _, what := range []string{"Message", "Conversation", "Participant"} {
		for _, did := range []string{"Add", "Added", "Update", "Updated", "Remove", "Removed"} {
			names = append(names, "on"+what+did)
		}
	}
	return names
}()

const (
	maxDeadLetterPage = 100
	// maxReplay bounds the dead letters that one call replays.
	maxReplay = 1000
)

type serviceWebhooks struct {
	AccountSID string   `json:"account_sid"`
	ServiceSID string   `json:"chat_service_sid"`
	PreURL     *string  `json:"pre_webhook_url"`
	PostURL    *string  `json:"post_webhook_url"`
	Filters    []string `json:"filters"` // null where never set, as are the other three
	Method     *string  `json:"method"`
	URL        string   `json:"url"`
}

func (c *call) showServiceWebhooks(s presence.Service) any {
	w := s.Webhooks
	return serviceWebhooks{
		AccountSID: c.account, ServiceSID: s.SID, PreURL: orNull(w.PreURL), PostURL: orNull(w.PostURL), Filters: w.Events(), Method: orNull(w.Method),
		URL: c.url("/v1/Services/" + s.SID + "/Configuration/Webhooks"),
	}
}

func (c *call) fetchServiceWebhooks() (any, error) {
	s, err := c.service()
	if err != nil {
		return nil, err
	}
	return c.showServiceWebhooks(s), nil
}

func (c *call) updateServiceWebhooks() (any, error) {
	s, err := c.service()
	if err != nil {
		return nil, err
	}
	w, err := c.webhooksUpdate()
	if err != nil {
		return nil, err
	}
	var u presence.ServiceUpdate
	if w != (presence.WebhooksUpdate{}) {
		u.Webhooks = &w
	}
	return c.updateService(s, u, "service webhooks updated", c.showServiceWebhooks)
}

// webhooksUpdate reads what the form sets; an empty value clears.
func (c *call) webhooksUpdate() (u presence.WebhooksUpdate, err error) {
	for _, f := range []struct {
		name  string
		set   **string
		wrong *Error
	}{{"PreWebhookUrl", &u.PreURL, errHookFormat}, {"PostWebhookUrl", &u.PostURL, errHookPost}} {
		v, err := c.form.text(f.name)
		if err != nil {
			return u, err
		}
		if v != nil && *v != "" && c.opt.Hooks.CheckURL(*v) != nil {
			return u, f.wrong
		}
		*f.set = v
	}
	if u.Method, err = c.form.text("Method"); err != nil {
		return u, err
	}
	if u.Method != nil {
		if *u.Method = strings.ToUpper(*u.Method); !slices.Contains([]string{"GET", "POST", ""}, *u.Method) {
			return u, errHookMethod
		}
	}
	filters, err := c.form.texts("Filters")
	if err != nil || filters == nil {
		return u, err
	}
	var events []string
	for _, name := range filters {
		switch {
		case name == "" || slices.Contains(events, name):
		case !slices.Contains(hookEvents, name):
			return u, errHookFilter
		default:
			events = append(events, name)
		}
	}
	joined := strings.Join(events, ",")
	u.Filters = &joined
	return u, nil
}

type accountWebhooks struct {
	AccountSID string   `json:"account_sid"`
	PreURL     *string  `json:"pre_webhook_url"`
	PostURL    *string  `json:"post_webhook_url"`
	Filters    []string `json:"filters"`
	Method     string   `json:"method"`
	Target     string   `json:"target"`
	URL        string   `json:"url"`
}

func (c *call) showAccountWebhooks(w presence.Webhooks) any {
	a := accountWebhooks{
		AccountSID: c.account, PreURL: orNull(w.PreURL), PostURL: orNull(w.PostURL), Filters: w.Events(), Method: w.Method, Target: w.Target,
		URL: c.url("/v1/Configuration/Webhooks"),
	}
	if a.Filters == nil {
		a.Filters = []string{}
	}
	if a.Method == "" {
		a.Method = "POST"
	}
	if a.Target == "" {
		a.Target = "webhook"
	}
	return a
}

func (c *call) fetchAccountWebhooks() (any, error) {
	w, err := c.store.AccountWebhooks(c.ctx)
	if err != nil {
		return nil, err
	}
	return c.showAccountWebhooks(w), nil
}

func (c *call) updateAccountWebhooks() (any, error) {
	u, err := c.webhooksUpdate()
	if err != nil {
		return nil, err
	}
	if u.Target, err = c.form.text("Target"); err != nil {
		return nil, err
	}
	if u.Target != nil && !slices.Contains([]string{"webhook", "flex", ""}, *u.Target) {
		return nil, errHookTarget
	}
	if u == (presence.WebhooksUpdate{}) {
		return c.fetchAccountWebhooks()
	}
	w, err := c.store.UpdateAccountWebhooks(c.ctx, u)
	if err != nil {
		return nil, err
	}
	c.audit("account webhooks updated")
	return c.showAccountWebhooks(w), nil
}

// deadLetter is an extension: an event that was not delivered.
type deadLetter struct {
	SID        string       `json:"sid"`
	AccountSID string       `json:"account_sid"`
	ServiceSID string       `json:"chat_service_sid"`
	UserSID    string       `json:"user_sid"`
	Identity   string       `json:"identity"`
	Event      string       `json:"event_type"`
	Revision   int64        `json:"revision"`
	Online     presence.Tri `json:"is_online"` // of the event
	Notifiable presence.Tri `json:"is_notifiable"`
	Cause      string       `json:"cause"`
	Reason     string       `json:"reason"`
	Attempts   int          `json:"attempts"`
	Created    string       `json:"date_created"` // when the event happened
	Failed     string       `json:"date_failed"`  // when it became a dead letter
	URL        string       `json:"url"`
}

func (c *call) showDeadLetter(s presence.Service, d presence.DeadLetter) any {
	view := s.View(d.User)
	return deadLetter{
		SID: d.SID, AccountSID: c.account, ServiceSID: s.SID, UserSID: d.User.SID, Identity: d.User.Identity, Event: d.Event,
		Revision: d.User.Rev, Online: view.Online, Notifiable: view.Notifiable, Cause: d.Cause, Reason: d.Why, Attempts: d.Attempts,
		Created: date(d.At), Failed: date(d.Died), URL: c.url("/v1/Services/" + s.SID + "/Webhooks/DeadLetters/" + d.SID),
	}
}

func (c *call) listDeadLetters() (any, error) {
	s, err := c.service()
	if err != nil {
		return nil, err
	}
	return list(c, "dead_letters", maxDeadLetterPage, func(cursor string, limit int) (presence.Page[presence.DeadLetter], error) {
		return c.store.ListDeadLetters(c.ctx, s.SID, cursor, limit)
	}, func(d presence.DeadLetter) any { return c.showDeadLetter(s, d) })
}

func (c *call) fetchDeadLetter() (any, error) {
	s, err := c.service()
	if err != nil {
		return nil, err
	}
	d, err := c.store.DeadLetter(c.ctx, s.SID, c.vars["Sid"])
	if err != nil {
		return nil, err
	}
	return c.showDeadLetter(s, d), nil
}

func (c *call) deleteDeadLetter() (any, error) {
	s, err := c.service()
	if err != nil {
		return nil, err
	}
	if err := c.store.DeleteDeadLetter(c.ctx, s.SID, c.vars["Sid"]); err != nil {
		return nil, err
	}
	c.audit("dead letter deleted", zap.String("service", s.SID), zap.String("event", c.vars["Sid"]))
	return nil, nil
}

// replayed is how many dead letters were queued again.
type replayed struct {
	ServiceSID string `json:"chat_service_sid"`
	Replayed   int    `json:"replayed"`
	More       bool   `json:"more"` // there may be more: call again
}

func (c *call) replayDeadLetter() (any, error) {
	s, err := c.service()
	if err != nil {
		return nil, err
	}
	if err := c.store.ReplayDeadLetter(c.ctx, s.SID, c.vars["Sid"]); err != nil {
		return nil, err
	}
	c.audit("dead letter replayed", zap.String("service", s.SID), zap.String("event", c.vars["Sid"]))
	return replayed{ServiceSID: s.SID, Replayed: 1}, nil
}

func (c *call) replayDeadLetters() (any, error) {
	s, err := c.service()
	if err != nil {
		return nil, err
	}
	n, err := c.store.ReplayDeadLetters(c.ctx, s.SID, maxReplay)
	if err != nil {
		return nil, err
	}
	c.audit("dead letters replayed", zap.String("service", s.SID), zap.Int("dead_letters", n))
	return replayed{ServiceSID: s.SID, Replayed: n, More: n == maxReplay}, nil
}

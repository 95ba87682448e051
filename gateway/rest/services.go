package rest

import (
	"errors"
	"time"

	"go.uber.org/zap"

	"github.com/rollcall-presence/rollcall/presence"
)

const maxServicePage = 100

type service struct {
	SID          string            `json:"sid"`
	AccountSID   string            `json:"account_sid"`
	FriendlyName string            `json:"friendly_name"`
	Created      string            `json:"date_created"`
	Updated      string            `json:"date_updated"`
	URL          string            `json:"url"`
	Links        map[string]string `json:"links"`
}

func (c *call) showService(s presence.Service) any {
	url := c.url("/v1/Services/" + s.SID)
	return service{
		SID: s.SID, AccountSID: c.account, FriendlyName: s.FriendlyName,
		Created: date(s.Created), Updated: date(s.Updated), URL: url,
		Links: links(url, map[string]string{
			"conversations": "/Conversations", "users": "/Users", "roles": "/Roles", "bindings": "/Bindings", "configuration": "/Configuration",
			"participant_conversations": "/ParticipantConversations", "conversation_with_participants": "/ConversationWithParticipants",
		}),
	}
}

// service is the service that the request is about: the one its path names, else
// the default one.
func (c *call) service() (presence.Service, error) {
	sid, err := c.serviceSID()
	if err != nil {
		return presence.Service{}, err
	}
	return c.store.Service(c.ctx, sid)
}

// base is the path below which the service's resources are, in the form of the
// request's own: that of the service, or the short one of the default service.
func (c *call) base(service string) string {
	if _, named := c.vars["ChatServiceSid"]; named {
		return "/v1/Services/" + service
	}
	return "/v1"
}

// serviceSID is the SID of the service that the request is about.
func (c *call) serviceSID() (string, error) {
	sid, named := c.vars["ChatServiceSid"]
	switch {
	case !named:
		var err error
		if sid, err = c.store.DefaultService(c.ctx); err != nil {
			return "", err
		}
	case !presence.IsSID(sid, "IS"):
		return "", presence.ErrNoService
	}
	c.of = sid
	return sid, nil
}

func (c *call) createService() (any, error) {
	name, err := c.form.name(presence.MaxFriendlyName)
	if err != nil {
		return nil, err
	}
	if name == nil || *name == "" {
		return nil, errNoName
	}
	s, err := c.store.CreateService(c.ctx, presence.Service{Account: c.account, FriendlyName: *name, Linger: -1})
	if err != nil {
		return nil, err
	}
	c.audit("service created", zap.String("service", s.SID))
	return c.showService(s), nil
}

func (c *call) listServices() (any, error) {
	return list(c, "services", maxServicePage, func(cursor string, limit int) (presence.Page[presence.Service], error) {
		return c.store.ListServices(c.ctx, cursor, limit)
	}, c.showService)
}

func (c *call) fetchService() (any, error) {
	s, err := c.service()
	if err != nil {
		return nil, err
	}
	return c.showService(s), nil
}

func (c *call) deleteService() (any, error) {
	s, err := c.service()
	if err != nil {
		return nil, err
	}
	if err := c.store.DeleteService(c.ctx, s.SID); err != nil {
		return nil, err
	}
	c.audit("service deleted", zap.String("service", s.SID))
	return nil, nil
}

type serviceConfiguration struct {
	ServiceSID       string            `json:"chat_service_sid"`
	CreatorRole      string            `json:"default_conversation_creator_role_sid"`
	ConversationRole string            `json:"default_conversation_role_sid"`
	ServiceRole      string            `json:"default_chat_service_role_sid"`
	Enabled          bool              `json:"reachability_enabled"`
	URL              string            `json:"url"`
	Links            map[string]string `json:"links"`
}

func (c *call) showServiceConfiguration(s presence.Service) any {
	url := c.url("/v1/Services/" + s.SID + "/Configuration")
	return serviceConfiguration{
		ServiceSID: s.SID, CreatorRole: s.DefaultConversationCreatorRole, ConversationRole: s.DefaultConversationRole,
		ServiceRole: s.DefaultServiceRole, Enabled: s.Enabled, URL: url,
		Links: links(url, map[string]string{"notifications": "/Notifications", "webhooks": "/Webhooks"}),
	}
}

func (c *call) fetchServiceConfiguration() (any, error) {
	s, err := c.service()
	if err != nil {
		return nil, err
	}
	return c.showServiceConfiguration(s), nil
}

func (c *call) updateServiceConfiguration() (any, error) {
	s, err := c.service()
	if err != nil {
		return nil, err
	}
	var u presence.ServiceUpdate
	if u.Enabled, err = c.form.boolean("ReachabilityEnabled"); err != nil {
		return nil, err
	}
	for _, r := range []struct {
		name string
		set  **string
		of   presence.RoleType
	}{
		{"DefaultChatServiceRoleSid", &u.DefaultServiceRole, presence.RoleOfService},
		{"DefaultConversationRoleSid", &u.DefaultConversationRole, presence.RoleOfConversation},
		{"DefaultConversationCreatorRoleSid", &u.DefaultConversationCreatorRole, presence.RoleOfConversation},
	} {
		if *r.set, err = c.roleParameter(r.name, s.SID, r.of); err != nil {
			return nil, err
		}
	}
	return c.updateService(s, u, "service configuration updated", c.showServiceConfiguration)
}

// updateService makes a change of a service, if there is any, and shows the result.
func (c *call) updateService(s presence.Service, u presence.ServiceUpdate, what string, show func(presence.Service) any) (any, error) {
	if u == (presence.ServiceUpdate{}) {
		return show(s), nil
	}
	s, err := c.store.UpdateService(c.ctx, s.SID, u)
	if errors.Is(err, presence.ErrNoRole) {
		return nil, errNoRole
	}
	if err != nil {
		return nil, err
	}
	c.audit(what, zap.String("service", s.SID), zap.Bool("reachability_enabled", s.Enabled))
	return show(s), nil
}

// servicePresence is an extension: what Twilio's configuration has no name for.
type servicePresence struct {
	ServiceSID string `json:"chat_service_sid"`
	Linger     *int   `json:"linger"`          // seconds; null: the node's default
	Debounce   int    `json:"debounce_window"` // seconds; 0: none
	URL        string `json:"url"`
}

func (c *call) showServicePresence(s presence.Service) any {
	p := servicePresence{ServiceSID: s.SID, Debounce: int(s.Debounce / time.Second), URL: c.url("/v1/Services/" + s.SID + "/Configuration/Presence")}
	if s.Linger >= 0 {
		seconds := int(s.Linger / time.Second)
		p.Linger = &seconds
	}
	return p
}

func (c *call) fetchServicePresence() (any, error) {
	s, err := c.service()
	if err != nil {
		return nil, err
	}
	return c.showServicePresence(s), nil
}

func (c *call) updateServicePresence() (any, error) {
	s, err := c.service()
	if err != nil {
		return nil, err
	}
	var u presence.ServiceUpdate
	if u.Linger, err = c.form.linger(); err != nil {
		return nil, err
	}
	if u.Debounce, err = c.form.debounce(); err != nil {
		return nil, err
	}
	return c.updateService(s, u, "service presence updated", c.showServicePresence)
}

package rest

import (
	"errors"

	"go.uber.org/zap"

	"github.com/rollcall-presence/rollcall/presence"
)

const maxUserPage = 50

type user struct {
	SID          string            `json:"sid"`
	AccountSID   string            `json:"account_sid"`
	ServiceSID   string            `json:"chat_service_sid"`
	RoleSID      string            `json:"role_sid"`
	Identity     string            `json:"identity"`
	FriendlyName *string           `json:"friendly_name"`
	Attributes   string            `json:"attributes"`
	Online       presence.Tri      `json:"is_online"`
	Notifiable   presence.Tri      `json:"is_notifiable"`
	Created      string            `json:"date_created"`
	Updated      string            `json:"date_updated"`
	URL          string            `json:"url"`
	Links        map[string]string `json:"links"`
}

// showUser shows a user by itself, with its reachability, at the form of URL that
// was asked: that of the service, or the short one of the default service.
func (c *call) showUser(s presence.Service, u presence.User) user {
	url := c.url(c.base(s.SID) + "/Users/" + u.SID)
	view := s.View(u)
	return user{
		SID: u.SID, AccountSID: c.account, ServiceSID: s.SID, RoleSID: u.Role, Identity: u.Identity, FriendlyName: u.FriendlyName,
		Attributes: u.Attributes, Online: view.Online, Notifiable: view.Notifiable, Created: date(u.Created), Updated: date(u.Updated),
		URL: url, Links: links(url, map[string]string{"user_conversations": "/Conversations"}),
	}
}

func (c *call) createUser() (any, error) {
	s, err := c.service()
	if err != nil {
		return nil, err
	}
	identity, err := c.form.text("Identity")
	if err != nil {
		return nil, err
	}
	if identity == nil {
		return nil, errNoIdentity
	}
	if err := c.checkIdentity(*identity); err != nil {
		return nil, err
	}
	update, err := c.userUpdate(s)
	if err != nil {
		return nil, err
	}
	u, err := c.store.CreateUser(c.ctx, presence.Key{Service: s.SID, Identity: *identity}, update)
	if err != nil {
		return nil, err
	}
	c.audit("user created", zap.String("service", s.SID), zap.String("user", u.SID))
	return c.showUser(s, u), nil
}

func (c *call) checkIdentity(identity string) error {
	switch err := presence.CheckIdentity(identity); {
	case err == nil && len(identity) > c.opt.MaxIdentity:
		return errLongIdentity
	case errors.Is(err, presence.ErrIdentityEmpty):
		return errNoIdentity
	case errors.Is(err, presence.ErrIdentityTooLong):
		return errLongIdentity
	case err != nil:
		return errUTF8
	case presence.IsSID(identity, "US"):
		return errIdentityIsSID
	}
	return nil
}

func (c *call) userUpdate(s presence.Service) (u presence.UserUpdate, err error) {
	if u.FriendlyName, err = c.form.name(presence.MaxFriendlyName); err != nil {
		return u, err
	}
	if u.Attributes, err = c.form.attributes(c.opt.MaxAttributes); err != nil {
		return u, err
	}
	if c.r.Header.Get("X-Twilio-Webhook-Enabled") == "true" {
		u.Tell = presence.OriginAPI
	}
	u.Role, err = c.roleParameter("RoleSid", s.SID, presence.RoleOfService)
	return u, err
}

func (c *call) listUsers() (any, error) {
	s, err := c.service()
	if err != nil {
		return nil, err
	}
	return list(c, "users", maxUserPage, func(cursor string, limit int) (presence.Page[presence.User], error) {
		return c.store.ListUsers(c.ctx, s.SID, cursor, limit)
	}, func(u presence.User) any {
		shown := c.showUser(s, u)
		shown.Online, shown.Notifiable = presence.Null, presence.Null // only a single user tells
		return shown
	})
}

// user is the user that the request is about, by SID or identity, and its service.
func (c *call) user() (presence.Service, presence.User, error) {
	sid, err := c.serviceSID()
	if err != nil {
		return presence.Service{}, presence.User{}, err
	}
	if presence.CheckIdentity(c.vars["Sid"]) != nil {
		return presence.Service{}, presence.User{}, presence.ErrNoUser
	}
	return c.store.User(c.ctx, sid, c.vars["Sid"])
}

func (c *call) fetchUser() (any, error) {
	s, u, err := c.user()
	if err != nil {
		return nil, err
	}
	return c.showUser(s, u), nil
}

func (c *call) updateUser() (any, error) {
	s, u, err := c.user()
	if err != nil {
		return nil, err
	}
	update, err := c.userUpdate(s)
	if err != nil {
		return nil, err
	}
	if !update.Empty() {
		if update.Tell != presence.OriginUntold {
			if err := c.opt.Hooks.BeforeUserUpdate(c.ctx, s, u, update); err != nil {
				return nil, err
			}
		}
		if u, err = c.store.UpdateUser(c.ctx, u.Key, update); err != nil {
			return nil, err
		}
		c.audit("user updated", zap.String("service", s.SID), zap.String("user", u.SID))
	}
	return c.showUser(s, u), nil
}

func (c *call) deleteUser() (any, error) {
	s, u, err := c.user()
	if err != nil {
		return nil, err
	}
	if err := c.store.DeleteUser(c.ctx, u.Key); err != nil {
		return nil, err
	}
	c.audit("user deleted", zap.String("service", s.SID), zap.String("user", u.SID))
	return nil, nil
}

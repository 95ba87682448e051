package rest

import (
	"context"
	"errors"
	"slices"
	"strings"

	"go.uber.org/zap"

	"github.com/rollcall-presence/rollcall/presence"
)

// Roles is what the API needs of the stored roles; one that is not there is
// presence.ErrNoRole.
type Roles interface {
	CreateRole(ctx context.Context, r presence.Role) (presence.Role, error)
	Role(ctx context.Context, service, sid string) (presence.Role, error)
	ListRoles(ctx context.Context, service, cursor string, limit int) (presence.Page[presence.Role], error)
	UpdateRole(ctx context.Context, service, sid string, permissions []string) (presence.Role, error)
	DeleteRole(ctx context.Context, service, sid string) error
}

const (
	maxRolePage    = 50
	maxRoleName    = 64 // characters
	maxPermissions = 64 // of a role, and letters of one
)

type role struct {
	SID          string            `json:"sid"`
	AccountSID   string            `json:"account_sid"`
	ServiceSID   string            `json:"chat_service_sid"`
	FriendlyName string            `json:"friendly_name"`
	Type         presence.RoleType `json:"type"`
	Permissions  []string          `json:"permissions"`
	Created      string            `json:"date_created"`
	Updated      string            `json:"date_updated"`
	URL          string            `json:"url"`
}

func (c *call) showRole(r presence.Role) any {
	return role{
		SID: r.SID, AccountSID: c.account, ServiceSID: r.Service, FriendlyName: r.FriendlyName, Type: r.Type, Permissions: r.Permissions,
		Created: date(r.Created), Updated: date(r.Updated), URL: c.url(c.base(r.Service) + "/Roles/" + r.SID),
	}
}

// roleParameter is the SID of a role of the service that is of the type, nil if the
// parameter is absent.
func (c *call) roleParameter(name, service string, of presence.RoleType) (*string, error) {
	v, err := c.form.text(name)
	if v == nil || err != nil {
		return nil, err
	}
	switch r, err := c.store.Role(c.ctx, service, *v); {
	case errors.Is(err, presence.ErrNoRole):
		return nil, errNoRole
	case err != nil:
		return nil, err
	case r.Type != of:
		return nil, errRoleType
	}
	return v, nil
}

// permissions are those that the form gives, sorted, each once. They may be any
// words: nothing here depends on them.
func (c *call) permissions() ([]string, error) {
	given, err := c.form.texts("Permission")
	if err != nil {
		return nil, err
	}
	given = slices.Compact(slices.Sorted(slices.Values(given)))
	if len(given) == 0 || len(given) > maxPermissions {
		return nil, errPermissions
	}
	for _, p := range given {
		if p == "" || len(p) > maxPermissions || strings.ContainsFunc(p, func(r rune) bool { return (r|' ' < 'a') || (r|' ' > 'z') }) {
			return nil, errPermissions
		}
	}
	return given, nil
}

func (c *call) createRole() (any, error) {
	s, err := c.service()
	if err != nil {
		return nil, err
	}
	name, err := c.form.name(maxRoleName)
	if err != nil {
		return nil, err
	}
	if name == nil || *name == "" {
		return nil, errNoName
	}
	kind, err := c.form.text("Type")
	if err != nil {
		return nil, err
	}
	if kind == nil || *kind != string(presence.RoleOfService) && *kind != string(presence.RoleOfConversation) {
		return nil, errNoRoleType
	}
	permissions, err := c.permissions()
	if err != nil {
		return nil, err
	}
	r, err := c.store.CreateRole(c.ctx, presence.Role{Service: s.SID, FriendlyName: *name, Type: presence.RoleType(*kind), Permissions: permissions})
	if err != nil {
		return nil, err
	}
	c.audit("role created", zap.String("service", s.SID), zap.String("role", r.SID))
	return c.showRole(r), nil
}

func (c *call) listRoles() (any, error) {
	s, err := c.service()
	if err != nil {
		return nil, err
	}
	return list(c, "roles", maxRolePage, func(cursor string, limit int) (presence.Page[presence.Role], error) {
		return c.store.ListRoles(c.ctx, s.SID, cursor, limit)
	}, c.showRole)
}

func (c *call) fetchRole() (any, error) {
	s, err := c.service()
	if err != nil {
		return nil, err
	}
	r, err := c.store.Role(c.ctx, s.SID, c.vars["Sid"])
	if err != nil {
		return nil, err
	}
	return c.showRole(r), nil
}

func (c *call) updateRole() (any, error) {
	s, err := c.service()
	if err != nil {
		return nil, err
	}
	if c.form.values["Permission"] == nil {
		return c.fetchRole()
	}
	permissions, err := c.permissions()
	if err != nil {
		return nil, err
	}
	r, err := c.store.UpdateRole(c.ctx, s.SID, c.vars["Sid"], permissions)
	if err != nil {
		return nil, err
	}
	c.audit("role updated", zap.String("service", s.SID), zap.String("role", r.SID))
	return c.showRole(r), nil
}

func (c *call) deleteRole() (any, error) {
	s, err := c.service()
	if err != nil {
		return nil, err
	}
	if err := c.store.DeleteRole(c.ctx, s.SID, c.vars["Sid"]); err != nil {
		return nil, err
	}
	c.audit("role deleted", zap.String("service", s.SID), zap.String("role", c.vars["Sid"]))
	return nil, nil
}

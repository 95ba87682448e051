package rest

import (
	"context"
	"errors"
	"net/url"
	"strconv"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/rollcall-presence/rollcall/presence"
)

const (
	maxBindingPage = 100
	// maxFilter is how many identities a list of bindings may be filtered by.
	maxFilter = 100
)

// Bindings is what the API needs of the stored push bindings. One that is not there is
// presence.ErrNoBinding.
type Bindings interface {
	presence.Bindings
	Binding(ctx context.Context, service, sid string) (presence.Binding, error)
	ListBindings(ctx context.Context, service string, f presence.BindingFilter, cursor string, limit int) (presence.Page[presence.Binding], error)
}

type binding struct {
	SID          string            `json:"sid"`
	AccountSID   string            `json:"account_sid"`
	ServiceSID   string            `json:"chat_service_sid"`
	Credential   *string           `json:"credential_sid"`
	Endpoint     string            `json:"endpoint"`
	Identity     string            `json:"identity"`
	Type         presence.PushType `json:"binding_type"`
	MessageTypes []string          `json:"message_types"`
	Created      string            `json:"date_created"`
	Updated      string            `json:"date_updated"`
	Expires      string            `json:"date_expires"` // an extension
	URL          string            `json:"url"`
}

func (c *call) showBinding(b presence.Binding) any {
	shown := binding{
		SID: b.SID, AccountSID: c.account, ServiceSID: b.Service, Endpoint: b.Address, Identity: b.Identity, Type: b.Type, MessageTypes: b.MessageTypes,
		Created: date(b.Created), Updated: date(b.Updated), Expires: date(b.Expires), URL: c.url("/v1/Services/" + b.Service + "/Bindings/" + b.SID),
	}
	if b.Credential != "" {
		shown.Credential = &b.Credential
	}
	return shown
}

func (c *call) listBindings() (any, error) {
	s, err := c.service()
	if err != nil {
		return nil, err
	}
	query, err := url.ParseQuery(c.r.URL.RawQuery)
	if err != nil {
		return nil, errQuery
	}
	f := presence.BindingFilter{Identities: query["Identity"]}
	if len(f.Identities) > maxFilter {
		return nil, errFilter
	}
	for _, name := range query["BindingType"] {
		t, err := pushType(name)
		if err != nil && !strings.EqualFold(name, twilsock) {
			return nil, err
		}
		f.Types = append(f.Types, t)
	}
	return c.bindings(s, f)
}

// twilsock is a type of binding that there is none of here: connected clients are
// told over their connection without one.
const twilsock = "twilsock"

// pushType reads the name of a type, in any case.
func pushType(name string) (presence.PushType, error) {
	for _, t := range presence.PushTypes() {
		if strings.EqualFold(name, string(t)) {
			return t, nil
		}
	}
	return "", errBindingType
}

// bindings lists those that pass.
func (c *call) bindings(s presence.Service, f presence.BindingFilter) (any, error) {
	return list(c, "bindings", maxBindingPage, func(cursor string, limit int) (presence.Page[presence.Binding], error) {
		return c.store.ListBindings(c.ctx, s.SID, f, cursor, limit)
	}, c.showBinding)
}

func (c *call) listUserBindings() (any, error) {
	s, u, err := c.user()
	if err != nil {
		return nil, err
	}
	return c.bindings(s, presence.BindingFilter{Identities: []string{u.Identity}})
}

// binding is the binding that the request is about.
func (c *call) binding() (presence.Binding, error) {
	s, err := c.service()
	if err != nil {
		return presence.Binding{}, err
	}
	return c.store.Binding(c.ctx, s.SID, c.vars["Sid"])
}

func (c *call) fetchBinding() (any, error) {
	b, err := c.binding()
	if err != nil {
		return nil, err
	}
	return c.showBinding(b), nil
}

func (c *call) deleteBinding() (any, error) {
	b, err := c.binding()
	if err != nil {
		return nil, err
	}
	if err := c.store.Unbind(c.ctx, b.Key, b.SID); err != nil {
		return nil, err
	}
	c.audit("binding deleted", zap.String("service", b.Service), zap.String("binding", b.SID))
	return nil, nil
}

// createBinding is an extension: elsewhere only clients register for push.
func (c *call) createBinding() (any, error) {
	_, u, err := c.user()
	if err != nil {
		return nil, err
	}
	r, err := c.registration()
	if err != nil {
		return nil, err
	}
	b, err := c.store.Bind(c.ctx, u.Key, r)
	if errors.Is(err, presence.ErrNoCredential) || errors.Is(err, presence.ErrCredentialType) {
		return nil, errBindingCredential
	}
	if err != nil {
		return nil, err
	}
	c.audit("binding created", zap.String("service", b.Service), zap.String("user", u.SID), zap.String("binding", b.SID))
	return c.showBinding(b), nil
}

// registration is what the form asks for.
func (c *call) registration() (r presence.Registration, err error) {
	var v [4]*string
	for i, name := range []string{"BindingType", "Address", "CredentialSid", "ExpiresIn"} {
		if v[i], err = c.form.text(name); err != nil {
			return r, err
		}
	}
	if v[0] == nil || v[1] == nil {
		return r, errNoBinding
	}
	if r.Type, err = pushType(*v[0]); err != nil {
		return r, err
	}
	r.Address = *v[1]
	if v[2] != nil {
		r.Credential = *v[2]
	}
	if v[3] != nil {
		seconds, err := strconv.ParseUint(*v[3], 10, 32)
		r.Life = time.Duration(seconds) * time.Second
		if err != nil || r.Life == 0 {
			return r, errBindingLife
		}
	}
	if r.MessageTypes, err = c.form.texts("MessageTypes"); err != nil {
		return r, err
	}
	switch err := r.Check(); {
	case errors.Is(err, presence.ErrAddress):
		return r, errAddress
	case errors.Is(err, presence.ErrMessageTypes):
		return r, errMessageTypes
	case errors.Is(err, presence.ErrBindingLife):
		return r, errBindingLife
	case errors.Is(err, presence.ErrNoCredential):
		return r, errBindingCredential
	case err != nil:
		return r, err
	}
	return r, nil
}

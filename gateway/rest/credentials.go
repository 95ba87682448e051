package rest

import (
	"context"
	"unicode/utf8"

	"go.uber.org/zap"

	"github.com/rollcall-presence/rollcall/presence"
)

const maxCredentialPage = 100

// PushCredentials is what the API needs of the stored push credentials. One that is not
// there is presence.ErrNoCredential.
type PushCredentials interface {
	CreateCredential(ctx context.Context, account string, t presence.PushType, u presence.CredentialUpdate) (presence.Credential, error)
	Credential(ctx context.Context, sid string) (presence.Credential, error)
	ListCredentials(ctx context.Context, cursor string, limit int) (presence.Page[presence.Credential], error)
	UpdateCredential(ctx context.Context, sid string, u presence.CredentialUpdate) (presence.Credential, error)
	DeleteCredential(ctx context.Context, sid string) error
}

type credential struct {
	SID          string            `json:"sid"`
	AccountSID   string            `json:"account_sid"`
	FriendlyName *string           `json:"friendly_name"`
	Type         presence.PushType `json:"type"`
	Sandbox      *string           `json:"sandbox"` // a text, of APN only
	Created      string            `json:"date_created"`
	Updated      string            `json:"date_updated"`
	URL          string            `json:"url"`
}

func (c *call) showCredential(v presence.Credential) any {
	shown := credential{
		SID: v.SID, AccountSID: c.account, Type: v.Type, Created: date(v.Created), Updated: date(v.Updated), URL: c.url("/v1/Credentials/" + v.SID),
	}
	if v.FriendlyName != "" {
		shown.FriendlyName = &v.FriendlyName
	}
	if v.Type == presence.PushAPN {
		sandbox := "False"
		if v.Sandbox {
			sandbox = "True"
		}
		shown.Sandbox = &sandbox
	}
	return shown
}

// credentialUpdate reads what the form sets of a credential of that type; what is
// of other types is ignored.
func (c *call) credentialUpdate(t presence.PushType) (u presence.CredentialUpdate, err error) {
	if u.FriendlyName, err = c.form.text("FriendlyName"); err != nil {
		return u, err
	}
	if u.FriendlyName != nil && utf8.RuneCountInString(*u.FriendlyName) > presence.MaxCredentialName {
		return u, errLongCredentialName
	}
	secrets := map[string]**string{}
	switch t {
	case presence.PushAPN:
		secrets["Certificate"], secrets["PrivateKey"] = &u.Certificate, &u.PrivateKey
		if u.Sandbox, err = c.form.boolean("Sandbox"); err != nil {
			return u, err
		}
	case presence.PushGCM:
		secrets["ApiKey"] = &u.APIKey
	case presence.PushFCM:
		secrets["Secret"] = &u.Secret
	case presence.PushWeb:
	}
	for name, set := range secrets {
		if *set, err = c.form.text(name); err != nil {
			return u, err
		}
		if *set != nil && len(**set) > maxSecret {
			return u, errLongSecret
		}
	}
	return u, nil
}

// maxSecret is the longest certificate, key or other secret, in bytes.
const maxSecret = 16 << 10

// credentialType reads Type, "" if it is absent.
func (c *call) credentialType() (presence.PushType, error) {
	name, err := c.form.text("Type")
	if name == nil || err != nil {
		return "", err
	}
	t, err := pushType(*name)
	if err != nil || t == presence.PushWeb {
		return "", errCredentialType
	}
	return t, nil
}

func (c *call) createCredential() (any, error) {
	t, err := c.credentialType()
	if err != nil {
		return nil, err
	}
	if t == "" {
		return nil, errCredentialType
	}
	u, err := c.credentialUpdate(t)
	if err != nil {
		return nil, err
	}
	v, err := c.store.CreateCredential(c.ctx, c.account, t, u)
	if err != nil {
		return nil, err
	}
	c.audit("credential created", zap.String("push_credential", v.SID))
	return c.showCredential(v), nil
}

func (c *call) listCredentials() (any, error) {
	return list(c, "credentials", maxCredentialPage, func(cursor string, limit int) (presence.Page[presence.Credential], error) {
		return c.store.ListCredentials(c.ctx, cursor, limit)
	}, c.showCredential)
}

func (c *call) fetchCredential() (any, error) {
	v, err := c.store.Credential(c.ctx, c.vars["Sid"])
	if err != nil {
		return nil, err
	}
	return c.showCredential(v), nil
}

func (c *call) updateCredential() (any, error) {
	v, err := c.store.Credential(c.ctx, c.vars["Sid"])
	if err != nil {
		return nil, err
	}
	t, err := c.credentialType()
	if err != nil {
		return nil, err
	}
	if t != "" && t != v.Type { // bindings were made with it for what it is
		return nil, errCredentialChange
	}
	u, err := c.credentialUpdate(v.Type)
	if err != nil {
		return nil, err
	}
	if u != (presence.CredentialUpdate{}) {
		if v, err = c.store.UpdateCredential(c.ctx, v.SID, u); err != nil {
			return nil, err
		}
		c.audit("credential updated", zap.String("push_credential", v.SID))
	}
	return c.showCredential(v), nil
}

func (c *call) deleteCredential() (any, error) {
	sid := c.vars["Sid"]
	if err := c.store.DeleteCredential(c.ctx, sid); err != nil {
		return nil, err
	}
	c.audit("credential deleted", zap.String("push_credential", sid))
	return nil, nil
}

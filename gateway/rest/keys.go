package rest

import (
	"context"

	"go.uber.org/zap"

	"github.com/rollcall-presence/rollcall/presence"
)

// Keys is what the API needs of the stored API keys; one that is not there is
// presence.ErrNoKey.
type Keys interface {
	CreateAPIKey(ctx context.Context, account, name string) (presence.APIKey, error)
	APIKey(ctx context.Context, sid string) (presence.APIKey, error)
	ListAPIKeys(ctx context.Context, cursor string, limit int) (presence.Page[presence.APIKey], error)
	UpdateAPIKey(ctx context.Context, sid, name string) (presence.APIKey, error)
	DeleteAPIKey(ctx context.Context, sid string) error
}

const (
	maxKeyPage = 100
	maxKeyName = 64 // characters
)

// key is an extension in the shape of Twilio's Key resource.
type key struct {
	SID          string `json:"sid"`
	AccountSID   string `json:"account_sid"`
	FriendlyName string `json:"friendly_name"`
	Secret       string `json:"secret,omitempty"` // told once, when the key is made
	Created      string `json:"date_created"`
	Updated      string `json:"date_updated"`
	URL          string `json:"url"`
}

func (c *call) showKey(k presence.APIKey) key {
	return key{
		SID: k.SID, AccountSID: k.Account, FriendlyName: k.FriendlyName,
		Created: date(k.Created), Updated: date(k.Updated), URL: c.url("/v1/Keys/" + k.SID),
	}
}

// keeper lets none but the account itself deal with keys: a key that leaked must
// not make others that outlive it.
func (c *call) keeper() error {
	if c.credential != c.account {
		return errForbidden
	}
	return nil
}

func (c *call) createKey() (any, error) {
	if err := c.keeper(); err != nil {
		return nil, err
	}
	name, err := c.form.name(maxKeyName)
	if err != nil {
		return nil, err
	}
	if name == nil {
		name = new("")
	}
	k, err := c.store.CreateAPIKey(c.ctx, c.account, *name)
	if err != nil {
		return nil, err
	}
	c.audit("API key created", zap.String("key", k.SID))
	shown := c.showKey(k)
	shown.Secret = k.Secret
	return shown, nil
}

func (c *call) listKeys() (any, error) {
	if err := c.keeper(); err != nil {
		return nil, err
	}
	return list(c, "keys", maxKeyPage, func(cursor string, limit int) (presence.Page[presence.APIKey], error) {
		return c.store.ListAPIKeys(c.ctx, cursor, limit)
	}, func(k presence.APIKey) any { return c.showKey(k) })
}

func (c *call) fetchKey() (any, error) {
	if err := c.keeper(); err != nil {
		return nil, err
	}
	k, err := c.store.APIKey(c.ctx, c.vars["Sid"])
	if err != nil {
		return nil, err
	}
	return c.showKey(k), nil
}

func (c *call) updateKey() (any, error) {
	if err := c.keeper(); err != nil {
		return nil, err
	}
	name, err := c.form.name(maxKeyName)
	if err != nil {
		return nil, err
	}
	if name == nil {
		return c.fetchKey()
	}
	k, err := c.store.UpdateAPIKey(c.ctx, c.vars["Sid"], *name)
	if err != nil {
		return nil, err
	}
	c.audit("API key updated", zap.String("key", k.SID))
	return c.showKey(k), nil
}

func (c *call) deleteKey() (any, error) {
	if err := c.keeper(); err != nil {
		return nil, err
	}
	if err := c.store.DeleteAPIKey(c.ctx, c.vars["Sid"]); err != nil {
		return nil, err
	}
	c.audit("API key revoked", zap.String("key", c.vars["Sid"]))
	return nil, nil
}

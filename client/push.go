package client

import (
	"context"
	"errors"
	"time"
)

// Push is a device to register for push.
type Push struct {
	BindingType string `json:"binding_type,omitempty"` // apn, fcm, gcm or webpush
	Address     string `json:"address,omitempty"`      // the device's token, or whatever the push service knows it by
	// CredentialSID is the push credential; empty means the one that the session's token names, if it names any.
	CredentialSID string `json:"credential_sid,omitempty"`
	// MessageTypes is what to push: new_message, added_to_conversation, removed_from_conversation; empty means all.
	MessageTypes []string `json:"message_types,omitempty"`
	// ExpiresInS is for how many seconds the registration holds unless it is repeated: a minute to a year; 0 means a year.
	ExpiresInS int64 `json:"expires_in_s,omitempty"`
}

// Binding is a device that is registered for push.
type Binding struct {
	SID           string    `json:"sid"`
	BindingType   string    `json:"binding_type"`
	Address       string    `json:"address"`
	CredentialSID string    `json:"credential_sid"` // empty for none
	MessageTypes  []string  `json:"message_types"`
	ExpiresAt     time.Time `json:"expires_at"`
}

// RegisterPush registers a device of the client's user, or renews it; whoever had the address before has it no more.
// It waits for a connection, is repeated if the connection is lost meanwhile, and returns when answered or when ctx
// ends.
func (c *Client) RegisterPush(ctx context.Context, p Push) (Binding, error) {
	m, err := c.request(ctx, request{Type: "register_push", Push: p})
	if err != nil {
		return Binding{}, err
	}
	return m.Binding, nil
}

// UnregisterPush removes a registration of the client's user by its SID; that it is gone already is no error. It
// returns like RegisterPush.
func (c *Client) UnregisterPush(ctx context.Context, sid string) error {
	if sid == "" {
		return errors.New("rollcall: a binding's SID is required")
	}
	_, err := c.request(ctx, request{Type: "unregister_push", SID: sid})
	return err
}

package rest

import (
	"context"
	"time"

	"go.uber.org/zap"

	"github.com/rollcall-presence/rollcall/presence"
)

// Revocations is what the API needs to withdraw access tokens of a service, those of
// an identity or ("") of everybody. Before is the zero time for now.
type Revocations interface {
	Revoke(ctx context.Context, service, identity string, before time.Time) (presence.Revocation, error)
	ListRevocations(ctx context.Context, service, cursor string, limit int) (presence.Page[presence.Revocation], error)
}

const maxRevocationPage = 100

type revocation struct {
	SID        string  `json:"sid"`
	AccountSID string  `json:"account_sid"`
	ServiceSID string  `json:"chat_service_sid"`
	Identity   *string `json:"identity"` // null: everybody
	Before     string  `json:"issued_before"`
	Created    string  `json:"date_created"`
	Expires    string  `json:"date_expires"`
}

func (c *call) showRevocation(r presence.Revocation) any {
	return revocation{
		SID: r.SID, AccountSID: c.account, ServiceSID: r.Service, Identity: orNull(r.Identity),
		Before: r.Before.UTC().Format("2006-01-02T15:04:05.000Z"), Created: date(r.Created), Expires: date(r.Expires()),
	}
}

func (c *call) createRevocation() (any, error) {
	s, err := c.service()
	if err != nil {
		return nil, err
	}
	identity, err := c.form.text("Identity")
	if err != nil {
		return nil, err
	}
	before, err := c.issuedBefore(time.Now())
	switch {
	case err != nil:
		return nil, err
	case identity != nil:
		if err := c.checkIdentity(*identity); err != nil {
			return nil, err
		}
	case before.IsZero(): // nobody turns everybody out by leaving a parameter away
		return nil, errWhatToRevoke
	default:
		identity = new("")
	}
	r, err := c.store.Revoke(c.ctx, s.SID, *identity, before)
	if err != nil {
		return nil, err
	}
	c.audit("tokens revoked", zap.String("service", s.SID), zap.String("revocation", r.SID), zap.Bool("everybody", r.Identity == ""), zap.Time("issued_before", r.Before))
	return c.showRevocation(r), nil
}

// issuedBefore is the parameter, zero if it is absent. A time to come would refuse
// tokens yet to be made, and one long past none that lives.
func (c *call) issuedBefore(now time.Time) (time.Time, error) {
	v, err := c.form.text("IssuedBefore")
	if v == nil || err != nil {
		return time.Time{}, err
	}
	t, err := time.Parse(time.RFC3339, *v)
	if err != nil || t.After(now.Add(5*time.Second)) || t.Before(now.Add(-presence.RevocationLife)) {
		return time.Time{}, errIssuedBefore
	}
	return t, nil
}

func (c *call) listRevocations() (any, error) {
	s, err := c.service()
	if err != nil {
		return nil, err
	}
	return list(c, "revocations", maxRevocationPage, func(cursor string, limit int) (presence.Page[presence.Revocation], error) {
		return c.store.ListRevocations(c.ctx, s.SID, cursor, limit)
	}, c.showRevocation)
}

package rest

import (
	"context"
	"net/url"

	"go.uber.org/zap"

	"github.com/rollcall-presence/rollcall/presence"
)

// Sessions is what the API needs of the live sessions of users.
type Sessions interface {
	UserSessions(ctx context.Context, k presence.Key) ([]presence.UserSession, error)
	// EndSessions ends a session, or all of the user's where id is "", and returns how
	// many it ended.
	EndSessions(ctx context.Context, k presence.Key, s presence.Service, id presence.SessionID) (int, error)
}

type session struct {
	ID   presence.SessionID `json:"id"`
	Node presence.NodeID    `json:"node"`
	URL  string             `json:"url"`
}

func (c *call) listSessions() (any, error) {
	s, u, err := c.user()
	if err != nil {
		return nil, err
	}
	list, err := c.store.UserSessions(c.ctx, u.Key)
	if err != nil {
		return nil, err
	}
	base := c.url("/v1/Services/" + s.SID + "/Users/" + u.SID + "/Sessions/")
	sessions := make([]session, len(list))
	for i, v := range list {
		sessions[i] = session{v.ID, v.Node, base + url.PathEscape(string(v.ID))}
	}
	return map[string]any{"user_sid": u.SID, "identity": u.Identity, "sessions": sessions}, nil
}

func (c *call) endSession() (any, error) {
	return c.endSessions(presence.SessionID(c.vars["SessionId"]))
}

func (c *call) endAllSessions() (any, error) { return c.endSessions("") }

func (c *call) endSessions(id presence.SessionID) (any, error) {
	s, u, err := c.user()
	if err != nil {
		return nil, err
	}
	n, err := c.store.EndSessions(c.ctx, u.Key, s, id)
	if err != nil {
		return nil, err
	}
	if n == 0 && id != "" {
		return nil, c.notFound()
	}
	c.audit("user's sessions ended", zap.String("service", s.SID), zap.String("user", u.SID), zap.Int("sessions", n))
	return nil, nil
}

package rest

import (
	"context"
	"net/url"
	"strconv"

	"github.com/rollcall-presence/rollcall/presence"
)

// Presence is what the API needs to read the reachability of many users.
type Presence interface {
	// Presence returns a service and users of it without their profiles, in the order
	// asked; one that does not exist has no SID.
	Presence(ctx context.Context, service string, identities []string) (presence.Service, []presence.User, error)
	// OnlineUsers returns a page of the users that are recorded online, the one whose
	// last change is the longest ago first, and how many there are in all.
	OnlineUsers(ctx context.Context, service, cursor string, limit int) (presence.Page[presence.User], int64, error)
	// Moment is the present; Changes are those after a place and before a moment.
	// presence.ErrPlaceGone.
	Moment(context.Context) (presence.Moment, error)
	Changes(ctx context.Context, s presence.Service, from presence.Place, limit int, m presence.Moment) (presence.Changes, error)
}

// maxPresence is how many users one answer tells of.
const maxPresence = 500

// reachability is a user's presence by itself.
type reachability struct {
	Identity   string       `json:"identity"`
	SID        *string      `json:"sid"` // null where there is no such user
	Online     presence.Tri `json:"is_online"`
	Notifiable presence.Tri `json:"is_notifiable"`
	Rev        int64        `json:"rev"`
	LastOnline *string      `json:"date_last_online"`
}

func showPresence(s presence.Service, u presence.User) reachability {
	v := s.View(u)
	r := reachability{Identity: v.Identity, Online: v.Online, Notifiable: v.Notifiable, Rev: v.Rev}
	if v.SID != "" {
		r.SID = &v.SID
	}
	if !v.LastOnline.IsZero() {
		d := date(v.LastOnline)
		r.LastOnline = &d
	}
	return r
}

// presenceList is the answer of both reads.
type presenceList struct {
	Meta        *meta          `json:"meta"`         // null where users were named
	OnlineCount *int64         `json:"online_count"` // the same, and where the switch is off
	Enabled     bool           `json:"reachability_enabled"`
	Users       []reachability `json:"users"`
}

func (c *call) readPresence() (any, error) {
	query, err := url.ParseQuery(c.r.URL.RawQuery)
	if err != nil {
		return nil, invalid("The query is malformed")
	}
	identities := query["Identity"]
	switch online := query.Get("Online"); {
	case online == "true" && len(identities) == 0:
		return c.listOnline()
	case online != "" || len(identities) == 0:
		return nil, errPresenceOf
	case len(identities) > maxPresence:
		return nil, errManyIdentities
	}
	for _, identity := range identities {
		if err := presence.CheckIdentity(identity); err != nil {
			return nil, c.checkIdentity(identity)
		}
	}
	sid, err := c.serviceSID()
	if err != nil {
		return nil, err
	}
	s, users, err := c.store.Presence(c.ctx, sid, identities)
	if err != nil {
		return nil, err
	}
	answer := presenceList{Enabled: s.Enabled, Users: make([]reachability, len(users))}
	for i, u := range users {
		answer.Users[i] = showPresence(s, u)
	}
	return answer, nil
}

func (c *call) listOnline() (any, error) {
	s, err := c.service()
	if err != nil {
		return nil, err
	}
	answer := presenceList{Enabled: s.Enabled, Users: []reachability{}}
	m, err := page(c, "users", maxPresence, func(cursor string, limit int) (presence.Page[presence.User], error) {
		if !s.Enabled { // nobody's reachability is known
			return presence.Page[presence.User]{}, nil
		}
		list, count, err := c.store.OnlineUsers(c.ctx, s.SID, cursor, limit)
		answer.OnlineCount = &count
		return list, err
	}, func(u presence.User) { answer.Users = append(answer.Users, showPresence(s, u)) })
	answer.Meta = &m
	return answer, err
}

// change is a user as the change log tells of it.
type change struct {
	reachability
	Deleted bool `json:"deleted"`
}

func showChange(s presence.Service, c presence.Change) change {
	return change{showPresence(s, c.User), c.Deleted}
}

type changeList struct {
	Users   []change `json:"users"`
	Cursor  string   `json:"cursor"`
	More    bool     `json:"more"`
	Reset   bool     `json:"reset"`
	Enabled bool     `json:"reachability_enabled"`
}

func (c *call) listChanges() (any, error) {
	query, err := url.ParseQuery(c.r.URL.RawQuery)
	if err != nil {
		return nil, invalid("The query is malformed")
	}
	limit := defaultPageSize
	if query.Has("Limit") {
		if limit, err = strconv.Atoi(query.Get("Limit")); err != nil || limit < 1 {
			return nil, errLimit
		}
	}
	from, now, err := place(query.Get("Cursor"))
	if err != nil {
		return nil, err
	}
	s, err := c.service() // before the moment: a flip in between is told by the next page
	if err != nil {
		return nil, err
	}
	m, err := c.store.Moment(c.ctx)
	if err != nil {
		return nil, err
	}
	if now {
		return changeList{Users: []change{}, Cursor: m.Place(s).String(), Enabled: s.Enabled}, nil
	}
	p, err := c.store.Changes(c.ctx, s, from, min(limit, maxPresence), m)
	if err != nil {
		return nil, err
	}
	answer := changeList{Users: make([]change, len(p.Items)), Cursor: p.Next.String(), More: p.More, Reset: p.Reset, Enabled: s.Enabled}
	for i, item := range p.Items {
		answer.Users[i] = showChange(s, item)
	}
	return answer, nil
}

// place reads a cursor of changes; the word now is the end of the log.
func place(cursor string) (p presence.Place, now bool, err error) {
	if cursor == "now" {
		return p, true, nil
	}
	p, err = presence.ParsePlace(cursor)
	if err != nil {
		return p, false, errCursor
	}
	return p, false, nil
}

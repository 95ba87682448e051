package rest

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
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

// encoded is an answer that is JSON already: where one tells of hundreds of users,
// encoding/json would be a third of the work.
type encoded []byte

// appendPresence writes a user's presence by itself. deleted: the member of that name,
// where there is one.
func appendPresence(b []byte, v presence.Snapshot, deleted *bool) []byte {
	b = appendText(append(b, `{"identity":`...), v.Identity)
	b = append(b, `,"sid":`...)
	if v.SID == "" {
		b = append(b, "null"...)
	} else {
		b = appendText(b, v.SID)
	}
	b = append(append(b, `,"is_online":`...), v.Online.String()...)
	b = append(append(b, `,"is_notifiable":`...), v.Notifiable.String()...)
	b = strconv.AppendInt(append(b, `,"rev":`...), v.Rev, 10)
	b = append(b, `,"date_last_online":`...)
	if v.LastOnline.IsZero() {
		b = append(b, "null"...)
	} else {
		b = append(v.LastOnline.UTC().AppendFormat(append(b, '"'), dateFormat), '"')
	}
	if deleted != nil {
		b = strconv.AppendBool(append(b, `,"deleted":`...), *deleted)
	}
	return append(b, '}')
}

// appendText writes a JSON string.
func appendText(b []byte, s string) []byte {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c >= 0x7f || c == '"' || c == '\\' {
			text, _ := json.Marshal(s) // never fails
			return append(b, text...)
		}
	}
	return append(append(append(b, '"'), s...), '"')
}

// presenceSize is what a user takes in an answer, roughly.
const presenceSize = 200

// encodeUsers writes the last member of an answer: a list of users.
func encodeUsers(b []byte, s presence.Service, users []presence.User) encoded {
	b = append(slices.Grow(b, presenceSize*len(users)), `"users":[`...)
	for i, u := range users {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendPresence(b, s.View(u), nil)
	}
	return append(b, "]}\n"...)
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
	return encodeUsers(fmt.Appendf(nil, `{"meta":null,"online_count":null,"reachability_enabled":%v,`, s.Enabled), s, users), nil
}

func (c *call) listOnline() (any, error) {
	s, err := c.service()
	if err != nil {
		return nil, err
	}
	var users []presence.User
	var online *int64
	m, err := page(c, "users", maxPresence, func(cursor string, limit int) (presence.Page[presence.User], error) {
		if !s.Enabled { // nobody's reachability is known
			return presence.Page[presence.User]{}, nil
		}
		list, count, err := c.store.OnlineUsers(c.ctx, s.SID, cursor, limit)
		online = &count
		return list, err
	}, func(u presence.User) { users = append(users, u) })
	if err != nil {
		return nil, err
	}
	head, err := json.Marshal(struct {
		Meta    meta   `json:"meta"`
		Count   *int64 `json:"online_count"`
		Enabled bool   `json:"reachability_enabled"`
	}{m, online, s.Enabled})
	if err != nil {
		return nil, err
	}
	return encodeUsers(append(head[:len(head)-1], ','), s, users), nil
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
	p := presence.Changes{Next: m.Place(s)}
	if !now {
		if p, err = c.store.Changes(c.ctx, s, from, min(limit, maxPresence), m); err != nil {
			return nil, err
		}
	}
	b := fmt.Appendf(make([]byte, 0, presenceSize*(1+len(p.Items))), `{"cursor":"%s","more":%v,"reset":%v,"reachability_enabled":%v,"users":[`, p.Next, p.More, p.Reset, s.Enabled)
	for i, item := range p.Items {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendPresence(b, s.View(item.User), &item.Deleted)
	}
	return encoded(append(b, "]}\n"...)), nil
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

package rest

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"iter"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/rollcall-presence/rollcall/presence"
)

// Presence is what the API needs to read the reachability of many users.
type Presence interface {
	// Presence returns a service and users of it without their profiles, in the order
	// asked; one that does not exist has no SID.
	Presence(ctx context.Context, service string, identities []string) (presence.Service, iter.Seq[presence.User], error)
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
// encoding/json would be a third of the work. Its memory is used again.
type encoded struct{ *bytes.Buffer }

var buffers = sync.Pool{New: func() any { return new(bytes.Buffer) }}

func encode(format string, args ...any) encoded {
	e := encoded{buffers.Get().(*bytes.Buffer)}
	e.Reset()
	_, _ = fmt.Fprintf(e, format, args...)
	return e
}

// user writes an element of a list of users.
func (e encoded) user(v presence.Snapshot, deleted *bool) {
	b := e.AvailableBuffer()
	if !bytes.HasSuffix(e.Bytes(), []byte("[")) {
		b = append(b, ',')
	}
	_, _ = e.Write(appendPresence(b, v, deleted))
}

// users writes the last member of an answer.
func (e encoded) users(s presence.Service, users iter.Seq[presence.User]) encoded {
	_, _ = e.WriteString(`"users":[`)
	for u := range users {
		e.user(s.View(u), nil)
	}
	_, _ = e.WriteString("]}\n")
	return e
}

// appendPresence writes a user's presence by itself. deleted: the member of that name,
// where there is one.
func appendPresence(b []byte, v presence.Snapshot, deleted *bool) []byte {
	b = appendText(append(b, `{"identity":`...), v.Identity)
	b = append(b, `,"sid":`...)
	if v.SID == "" {
		b = append(b, "null"...)
	} else {
		b = append(append(append(b, '"'), v.SID...), '"')
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

// identities are the parameters Identity of a query, and rest its others. There may be
// hundreds: one string holds them all, where url.ParseQuery makes one of each.
func identities(query string) (list []string, rest url.Values, err error) {
	var others []string
	var ends []int
	text := make([]byte, 0, len(query))
	for pair := range strings.SplitSeq(query, "&") {
		value, ok := strings.CutPrefix(pair, "Identity=")
		if !ok {
			others = append(others, pair)
			continue
		}
		if text, ok = appendUnescaped(text, value); !ok {
			return nil, nil, errQuery
		}
		ends = append(ends, len(text))
	}
	if rest, err = url.ParseQuery(strings.Join(others, "&")); err != nil {
		return nil, nil, errQuery
	}
	if rest.Has("Identity") { // spelt in another way, somewhere among the others
		if rest, err = url.ParseQuery(query); err != nil {
			return nil, nil, errQuery
		}
		return rest["Identity"], rest, nil
	}
	all, begin := string(text), 0
	list = make([]string, len(ends))
	for i, end := range ends {
		list[i], begin = all[begin:end], end
	}
	return list, rest, nil
}

// appendUnescaped is url.QueryUnescape, without a string of its own.
func appendUnescaped(b []byte, s string) (_ []byte, ok bool) {
	for i := 0; i < len(s); i++ {
		switch c := s[i]; c {
		case '%':
			var err error
			if b, err = hex.AppendDecode(b, []byte(s[i+1:min(i+3, len(s))])); err != nil || i+2 >= len(s) {
				return b, false
			}
			i += 2
		case '+':
			b = append(b, ' ')
		case ';':
			return b, false
		default:
			b = append(b, c)
		}
	}
	return b, true
}

func (c *call) readPresence() (any, error) {
	list, query, err := identities(c.r.URL.RawQuery)
	if err != nil {
		return nil, err
	}
	switch online := query.Get("Online"); {
	case online == "true" && len(list) == 0:
		return c.listOnline()
	case online != "" || len(list) == 0:
		return nil, errPresenceOf
	case len(list) > maxPresence:
		return nil, errManyIdentities
	}
	for _, identity := range list {
		if err := presence.CheckIdentity(identity); err != nil {
			return nil, c.checkIdentity(identity)
		}
	}
	sid, err := c.serviceSID()
	if err != nil {
		return nil, err
	}
	s, users, err := c.store.Presence(c.ctx, sid, list)
	if err != nil {
		return nil, err
	}
	return encode(`{"meta":null,"online_count":null,"reachability_enabled":%v,`, s.Enabled).users(s, users), nil
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
	return encode("%s,", head[:len(head)-1]).users(s, slices.Values(users)), nil
}

func (c *call) listChanges() (any, error) {
	query, err := url.ParseQuery(c.r.URL.RawQuery)
	if err != nil {
		return nil, errQuery
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
	e := encode(`{"cursor":"%s","more":%v,"reset":%v,"reachability_enabled":%v,"users":[`, p.Next, p.More, p.Reset, s.Enabled)
	for _, item := range p.Items {
		e.user(s.View(item.User), &item.Deleted)
	}
	_, _ = e.WriteString("]}\n")
	return e, nil
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

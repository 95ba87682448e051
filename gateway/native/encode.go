package native

import (
	"encoding/json"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/rollcall-presence/rollcall/fanout"
	"github.com/rollcall-presence/rollcall/gateway"
	"github.com/rollcall-presence/rollcall/presence"
)

// frame begins a frame whose payload may take about n bytes; gateway.TextFrame ends it.
func frame(n int) []byte { return make([]byte, gateway.MaxFrameHeader, gateway.MaxFrameHeader+n) }

// appendHead begins a message; the caller adds fields and the closing brace.
func appendHead(b []byte, typ string, id json.RawMessage) []byte {
	b = append(b, `{"type":"`...)
	b = append(b, typ...)
	b = append(b, '"')
	if id != nil {
		b = append(b, `,"id":`...)
		b = append(b, id...)
	}
	return b
}

// plain is a message of only a type and an id.
func plain(typ string, id json.RawMessage) []byte {
	return gateway.TextFrame(append(appendHead(frame(40+len(id)), typ, id), '}'))
}

func encodeError(id json.RawMessage, p *gateway.Problem) []byte {
	b := appendHead(frame(160), "error", id)
	b = append(b, `,"code":`...)
	b = strconv.AppendInt(b, int64(p.Code), 10)
	b = append(b, `,"message":`...)
	b = appendString(b, p.Code.Text())
	if p.Retry > 0 {
		b = append(b, `,"retry_after_ms":`...)
		b = strconv.AppendInt(b, max(p.Retry.Milliseconds(), 1), 10)
	}
	return gateway.TextFrame(append(b, '}'))
}

// userSize is about what a USER takes.
const userSize = 256

func encodeWelcome(w gateway.Welcome, known map[string]int64) []byte {
	b := appendHead(frame(2*userSize), "welcome", nil)
	b = append(b, `,"session":"`...)
	b = append(b, w.Session...)
	b = append(b, `","service_sid":`...)
	b = appendString(b, w.Key.Service)
	b = append(b, `,"identity":`...)
	b = appendString(b, w.Key.Identity)
	b = append(b, `,"reachability_enabled":`...)
	b = strconv.AppendBool(b, w.Service.Enabled)
	b = append(b, `,"ping_interval_ms":`...)
	b = strconv.AppendInt(b, w.Ping.Milliseconds(), 10)
	b = append(b, `,"user":`...)
	b = appendUser(b, &w.User)
	b = append(b, `,"users":[`...)
	first := true
	for i := range w.Known {
		if known[w.Known[i].Identity] == w.Known[i].Rev {
			continue
		}
		if !first {
			b = append(b, ',')
		}
		first = false
		b = appendUser(b, &w.Known[i])
	}
	return gateway.TextFrame(append(b, "]}"...))
}

func encodeSubscribed(id json.RawMessage, users []presence.Snapshot) []byte {
	b := appendHead(frame(64+userSize*len(users)), "subscribed", id)
	b = append(b, `,"users":[`...)
	for i := range users {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendUser(b, &users[i])
	}
	return gateway.TextFrame(append(b, "]}"...))
}

func encodeTokenAccepted(id json.RawMessage, expires time.Time) []byte {
	b := appendHead(frame(96), "token_accepted", id)
	b = append(b, `,"expires_at":"`...)
	b = expires.UTC().AppendFormat(b, time.RFC3339)
	return gateway.TextFrame(append(b, `"}`...))
}

func encodePushRegistered(id json.RawMessage, v *presence.Binding) []byte {
	b := appendHead(frame(256+len(v.Address)), "push_registered", id)
	b = append(b, `,"binding":{"sid":`...)
	b = appendString(b, v.SID)
	b = append(b, `,"binding_type":`...)
	b = appendString(b, string(v.Type))
	b = append(b, `,"address":`...)
	b = appendString(b, v.Address)
	b = append(b, `,"credential_sid":`...)
	if v.Credential == "" {
		b = append(b, "null"...)
	} else {
		b = appendString(b, v.Credential)
	}
	b = append(b, `,"message_types":[`...)
	for i, m := range v.MessageTypes {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendString(b, m)
	}
	b = append(b, `],"expires_at":"`...)
	b = v.Expires.UTC().AppendFormat(b, time.RFC3339)
	return gateway.TextFrame(append(b, `"}}`...))
}

func encodeExpiring(in time.Duration) []byte {
	b := appendHead(frame(64), "token.expiring", nil)
	b = append(b, `,"expires_in_ms":`...)
	b = strconv.AppendInt(b, in.Milliseconds(), 10)
	return gateway.TextFrame(append(b, '}'))
}

// The two frames of service.updated, shared by all sessions.
var serviceUpdated = map[presence.Tri][]byte{
	presence.True:  encodeServiceUpdated(true),
	presence.False: encodeServiceUpdated(false),
}

func encodeServiceUpdated(enabled bool) []byte {
	b := appendHead(frame(64), "service.updated", nil)
	b = append(b, `,"reachability_enabled":`...)
	b = strconv.AppendBool(b, enabled)
	return gateway.TextFrame(append(b, '}'))
}

var reasonNames = [...]struct {
	reason presence.Reasons
	name   string
}{
	{presence.ReasonOnline, `"reachabilityOnline"`},
	{presence.ReasonNotifiable, `"reachabilityNotifiable"`},
	{presence.ReasonFriendlyName, `"friendlyName"`},
	{presence.ReasonAttributes, `"attributes"`},
}

func encodeUpdate(u *fanout.Update) []byte {
	b := appendHead(frame(userSize), "user.updated", nil)
	b = append(b, `,"update_reasons":[`...)
	first := true
	for _, r := range reasonNames {
		if u.Reasons&r.reason == 0 {
			continue
		}
		if !first {
			b = append(b, ',')
		}
		first = false
		b = append(b, r.name...)
	}
	b = append(b, `],"user":{`...)
	b = appendName(b, &u.View)
	if u.Reasons&presence.ReasonFriendlyName != 0 {
		b = append(b, ',')
		b = appendFriendlyName(b, &u.View)
	}
	if u.Reasons&presence.ReasonAttributes != 0 {
		b = append(b, ',')
		b = appendAttributes(b, &u.View)
	}
	b = append(b, ',')
	return gateway.TextFrame(append(appendState(b, &u.View), "}}"...))
}

// appendUser appends a whole USER.
func appendUser(b []byte, v *presence.Snapshot) []byte {
	b = appendName(append(b, '{'), v)
	b = appendFriendlyName(append(b, ','), v)
	b = appendAttributes(append(b, ','), v)
	b = appendState(append(b, ','), v)
	return append(b, '}')
}

func appendName(b []byte, v *presence.Snapshot) []byte {
	b = append(b, `"identity":`...)
	b = appendString(b, v.Identity)
	b = append(b, `,"sid":`...)
	if v.SID == "" {
		return append(b, "null"...)
	}
	return appendString(b, v.SID)
}

func appendFriendlyName(b []byte, v *presence.Snapshot) []byte {
	b = append(b, `"friendly_name":`...)
	if v.FriendlyName == nil {
		return append(b, "null"...)
	}
	return appendString(b, *v.FriendlyName)
}

// appendAttributes appends the attributes as what they are, a text; a user without
// any has an empty object's.
func appendAttributes(b []byte, v *presence.Snapshot) []byte {
	b = append(b, `"attributes":`...)
	if v.Attributes == "" {
		return append(b, `"{}"`...)
	}
	return appendString(b, v.Attributes)
}

func appendState(b []byte, v *presence.Snapshot) []byte {
	b = append(b, `"is_online":`...)
	b = append(b, v.Online.String()...)
	b = append(b, `,"is_notifiable":`...)
	b = append(b, v.Notifiable.String()...)
	b = append(b, `,"rev":`...)
	b = strconv.AppendInt(b, v.Rev, 10)
	b = append(b, `,"date_last_online":`...)
	if v.LastOnline.IsZero() {
		return append(b, "null"...)
	}
	b = append(b, '"')
	b = v.LastOnline.UTC().AppendFormat(b, "2006-01-02T15:04:05.000Z")
	return append(b, '"')
}

const hexDigits = "0123456789abcdef"

// appendString appends s as a JSON string. Bytes that are not UTF-8 become U+FFFD.
func appendString(b []byte, s string) []byte {
	b = append(b, '"')
	from := 0
	for i := 0; i < len(s); {
		c := s[i]
		if c >= utf8.RuneSelf {
			r, n := utf8.DecodeRuneInString(s[i:])
			if r == utf8.RuneError && n == 1 {
				b = append(b, s[from:i]...)
				b = append(b, `\ufffd`...)
				from = i + 1
			}
			i += n
			continue
		}
		if c < ' ' || c == '"' || c == '\\' {
			b = append(b, s[from:i]...)
			if c < ' ' {
				b = append(b, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&0xf])
			} else {
				b = append(b, '\\', c)
			}
			from = i + 1
		}
		i++
	}
	return append(append(b, s[from:]...), '"')
}

package webhook

import (
	"net/url"
	"strconv"
	"time"

	"github.com/rollcall-presence/rollcall/presence"
)

// Why an event that was queued is not delivered. It counts as done.
const (
	dropVoid       = "void"       // of reachability, which is null by now: switched off, or on anew
	dropUnwanted   = "unwanted"   // the configuration no longer names it
	dropNoService  = "no_service" // its service was deleted
	dropUnreadable = "unreadable" // queued by a version that is not compatible
)

var drops = []string{dropVoid, dropUnwanted, dropNoService, dropUnreadable}

// date is a time as webhooks carry it.
func date(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.000Z") }

// params are what the backend of a service is told of an event; drop says why it is
// not to be told.
func params(s presence.Service, e presence.Owed) (p url.Values, drop string) {
	view := s.View(e.User)
	if e.Event != presence.EventUserAdded && !e.Profile && view.Online == presence.Null && view.Notifiable == presence.Null {
		return nil, dropVoid
	}
	p = url.Values{}
	set := func(name, value string) {
		if value != "" {
			p.Set(name, value)
		}
	}
	set("EventType", e.Event)
	set("EventSid", e.SID)
	set("EventDate", date(e.At))
	set("AccountSid", s.Account)
	set("Source", e.Origin)
	if e.Origin == string(presence.OriginSDK) {
		set("ClientIdentity", e.User.Identity)
	}
	set("ChatServiceSid", s.SID)
	set("UserSid", e.User.SID)
	set("Identity", e.User.Identity)
	set("Revision", strconv.FormatInt(view.Rev, 10))
	if e.Event == presence.EventReachabilityChanged {
		set("Cause", e.Cause)
		if e.Before != 0 {
			set("PreviousRevision", strconv.FormatInt(e.Before, 10))
		}
		if !e.User.LastOnline.IsZero() {
			set("DateLastOnline", date(e.User.LastOnline))
		}
	} else {
		profile(set, e.User)
	}
	if e.Event == presence.EventUserAdded {
		return p, ""
	}
	if e.Event == presence.EventUserUpdated {
		set("DateUpdated", date(e.User.Updated))
	}
	for name, v := range map[string]presence.Tri{"isOnline": view.Online, "isNotifiable": view.Notifiable} {
		if v != presence.Null {
			set(name, v.String())
		}
	}
	return p, ""
}

func profile(set func(name, value string), u presence.User) {
	set("DateCreated", date(u.Created))
	set("RoleSid", u.Role)
	set("Attributes", u.Attributes)
	if u.FriendlyName != nil {
		set("FriendlyName", *u.FriendlyName)
	}
}

// updateParams are what is asked before a user is changed.
func updateParams(s presence.Service, u presence.User, update presence.UserUpdate, now time.Time) url.Values {
	if update.FriendlyName != nil {
		u.FriendlyName = update.FriendlyName
	}
	if update.Attributes != nil {
		u.Attributes = *update.Attributes
	}
	if update.Role != nil {
		u.Role = *update.Role
	}
	p := url.Values{}
	set := func(name, value string) {
		if value != "" {
			p.Set(name, value)
		}
	}
	set("EventType", presence.EventUserUpdate)
	set("EventDate", date(now))
	set("AccountSid", s.Account)
	set("Source", string(update.Tell))
	if update.Tell == presence.OriginSDK {
		set("ClientIdentity", u.Identity)
	}
	set("ChatServiceSid", s.SID)
	set("UserSid", u.SID)
	set("Identity", u.Identity)
	set("DateUpdated", date(u.Updated))
	profile(set, u)
	return p
}

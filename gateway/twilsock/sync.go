package twilsock

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/rollcall-presence/rollcall/fanout"
	"github.com/rollcall-presence/rollcall/gateway"
	"github.com/rollcall-presence/rollcall/presence"
)

// mapKind tells what a map is of; it is in the map's SID.
type mapKind byte

const (
	userMap          mapKind = 'u' // a user's profile and reachability
	conversationsMap mapKind = 'c' // a user's conversations: there are none
)

// conversationsRev is the one revision of every map of conversations.
const conversationsRev = 1

// mapSID is the SID of a user's map, by which also other nodes, and this one after
// the store has lost everything, know whose it is. It is also the map's unique name.
func mapSID(kind mapKind, identity string) string {
	return "MP" + string(kind) + base64.RawURLEncoding.EncodeToString([]byte(identity))
}

// parseMapSID is the opposite of mapSID. Whether the identity may be one is not
// looked at.
func parseMapSID(sid string) (kind mapKind, identity string, ok bool) {
	code, ok := strings.CutPrefix(sid, "MP")
	if !ok || len(code) < 2 || len(code) > 1+base64.RawURLEncoding.EncodedLen(presence.MaxIdentity) {
		return 0, "", false
	}
	kind = mapKind(code[0])
	b, err := base64.RawURLEncoding.Strict().DecodeString(code[1:])
	if err != nil || kind != userMap && kind != conversationsMap {
		return 0, "", false
	}
	identity = string(b)
	return kind, identity, mapSID(kind, identity) == sid // the decoder skips line ends
}

// The items of a user's map.
const (
	itemFriendlyName = "friendlyName"
	itemAttributes   = "attributes"
	itemReachability = "reachability"
)

// value is the data of an item of the profile; an absent friendly name is null.
type value struct {
	Value *string `json:"value"`
}

type reachability struct {
	Online     presence.Tri `json:"online"`
	Notifiable presence.Tri `json:"notifiable"`
}

func friendlyNameOf(v *presence.Snapshot) value { return value{v.FriendlyName} }

func attributesOf(v *presence.Snapshot) value {
	text := v.Attributes
	if text == "" {
		text = "{}"
	}
	return value{&text}
}

func reachabilityOf(v *presence.Snapshot) reachability { return reachability{v.Online, v.Notifiable} }

// A map as it is read. Its revision and those of its items are all the user's, and so
// is the id of the last event.
type (
	mapBody struct {
		SID         string   `json:"sid"`
		UniqueName  string   `json:"unique_name"`
		URL         string   `json:"url"`
		Links       mapLinks `json:"links"`
		Revision    string   `json:"revision"`
		LastEventID int64    `json:"last_event_id"`
		Updated     string   `json:"date_updated"`
		Expires     *string  `json:"date_expires"`
		Items       []item   `json:"items,omitempty"`
	}
	mapLinks struct {
		Items string `json:"items"`
	}
	item struct {
		Key         string  `json:"key"`
		URL         string  `json:"url"`
		LastEventID int64   `json:"last_event_id"`
		Revision    string  `json:"revision"`
		Data        any     `json:"data"`
		Updated     string  `json:"date_updated"`
		Expires     *string `json:"date_expires"`
	}
	itemsBody struct {
		Items []item   `json:"items"`
		Meta  pageMeta `json:"meta"`
	}
	pageMeta struct {
		Previous *string `json:"previous_token"`
		Next     *string `json:"next_token"`
	}
	itemEvent struct {
		ID           int64   `json:"id"`
		MapSID       string  `json:"map_sid"`
		MapRevision  string  `json:"map_revision"`
		ItemKey      string  `json:"item_key"`
		ItemRevision string  `json:"item_revision"`
		ItemData     any     `json:"item_data"`
		ItemURL      string  `json:"item_url"`
		Created      string  `json:"date_created"`
		Expires      *string `json:"date_expires"`
	}
)

// date is about when a revision was made; see the meaning of revisions in
// docs/ARCHITECTURE.md.
func date(rev int64) string { return time.UnixMilli(rev).UTC().Format("2006-01-02T15:04:05.000Z") }

// syncBase begins the URLs of maps. The SDK only ever sends them back, cut into pieces.
const syncBase = "https://sync.rollcall.invalid/v3/Maps/"

func mapURL(sid string) string       { return syncBase + sid }
func itemURL(sid, key string) string { return syncBase + sid + "/Items/" + key }

func describeMap(sid string, rev int64) mapBody {
	return mapBody{
		SID: sid, UniqueName: sid, URL: mapURL(sid), Links: mapLinks{mapURL(sid) + "/Items"},
		Revision: strconv.FormatInt(rev, 10), LastEventID: rev, Updated: date(rev),
	}
}

// itemsOf are the items of a user's map, one of them if key names it.
func itemsOf(v *presence.Snapshot, key string) []item {
	sid := mapSID(userMap, v.Identity)
	items := []item{} // an array, also when there are none
	for _, i := range []item{
		{Key: itemFriendlyName, Data: friendlyNameOf(v)},
		{Key: itemAttributes, Data: attributesOf(v)},
		{Key: itemReachability, Data: reachabilityOf(v)},
	} {
		if key != "" && key != i.Key {
			continue
		}
		i.URL, i.LastEventID, i.Revision, i.Updated = itemURL(sid, i.Key), v.Rev, strconv.FormatInt(v.Rev, 10), date(v.Rev)
		items = append(items, i)
	}
	return items
}

// itemEvents tell of a user's items that what names, under the id of one event.
func itemEvents(events []itemEvent, v *presence.Snapshot, what presence.Reasons, id int64) []itemEvent {
	sid, rev := mapSID(userMap, v.Identity), strconv.FormatInt(id, 10)
	add := func(key string, data any) {
		events = append(events, itemEvent{
			ID: id, MapSID: sid, MapRevision: rev, ItemKey: key, ItemRevision: rev, ItemData: data, ItemURL: itemURL(sid, key), Created: date(id),
		})
	}
	if what&presence.ReasonFriendlyName != 0 {
		add(itemFriendlyName, friendlyNameOf(v))
	}
	if what&presence.ReasonAttributes != 0 {
		add(itemAttributes, attributesOf(v))
	}
	if what&presence.Reachability != 0 {
		add(itemReachability, reachabilityOf(v))
	}
	return events
}

const (
	profile    = presence.ReasonFriendlyName | presence.ReasonAttributes
	everything = profile | presence.Reachability
)

// encodeUpdate is the notification of an update under an id; nil if it changed
// nothing that the SDK shows. The profile of another user than before is told whole.
func encodeUpdate(u *fanout.Update, id int64) []byte {
	what := u.Reasons
	if u.Another {
		what |= profile
	}
	return encodeItems(itemEvents(nil, &u.View, what, id))
}

// subscriptions is the body of a request about subscriptions.
type subscriptions struct {
	Action      string          `json:"action"`
	Correlation json.RawMessage `json:"correlation_id"`
	Requests    []object        `json:"requests"`
}

// object is what it is about: a map and the id of the last event that the client has of it.
type object struct {
	SID         string `json:"object_sid"`
	Type        string `json:"object_type"`
	LastEventID *int64 `json:"last_event_id"`
}

// maxCorrelation is the longest correlation_id, as JSON: that of a double.
const maxCorrelation = 32

// maxEventID is above all ids that were ever given, and leaves room below 2^53, from
// which on the client's numbers are not exact.
const maxEventID = 1<<53 - 1<<32

func (s *subscriptions) valid() bool {
	n := s.Correlation
	return len(n) > 0 && len(n) <= maxCorrelation && (n[0] == '-' || n[0] >= '0' && n[0] <= '9') && s.Requests != nil
}

const mapObject = "map"

// What is told of subscriptions. The client asks again for what it did not hear of in
// estimatedDelivery, names at most maxBatch objects in a request (before it was told,
// as many), and repeats its subscriptions after subscriptionTTL and up to a quarter
// more, so that those who came together do not do so together. That mends what nobody
// thought of.
const (
	estimatedDelivery = 10 * time.Second
	maxBatch          = 100
	subscriptionTTL   = 20 * time.Hour
)

type subscriptionsBody struct {
	Delivery int64 `json:"estimated_delivery_in_ms"`
	MaxBatch int   `json:"max_batch_size"`
	TTL      int64 `json:"ttl_in_s"`
}

// encodeSubscriptions answers a request about subscriptions; what became of each object
// is told by notifications.
func encodeSubscriptions(id string) []byte {
	ttl := subscriptionTTL + rand.N(subscriptionTTL/4) //nolint:gosec // G404: jitter is no secret
	return encodeAnswer(id, http.StatusAccepted, http.StatusText(http.StatusAccepted), subscriptionsBody{
		estimatedDelivery.Milliseconds(), maxBatch, int64(ttl / time.Second),
	})
}

type (
	objectEvent struct {
		SID         string `json:"object_sid"`
		Type        string `json:"object_type"`
		Replay      string `json:"replay_status,omitempty"`
		LastEventID *int64 `json:"last_event_id,omitempty"`
	}
	objectFailure struct {
		SID   string    `json:"object_sid"`
		Type  string    `json:"object_type"`
		Error errorBody `json:"error"`
	}
)

func established(sid string, last int64) objectEvent {
	return objectEvent{SID: sid, Type: mapObject, Replay: "completed", LastEventID: &last}
}

func failed(o object, code gateway.ErrorCode) objectFailure {
	return objectFailure{o.SID, o.Type, errorBody{Code: int(code), Message: code.Text(), Status: statusOf(code)}}
}

// subscribe handles a request to establish subscriptions. What of a user the client
// has not seen comes before the subscription is established, and what is new after.
func (h *handler) subscribe(ctx context.Context, m *message, s *subscriptions) {
	var (
		identities []string
		wanted     []object // one for each identity
		known      = map[string]int64{}
		done       []objectEvent
		refused    []objectFailure
	)
	for _, o := range s.Requests {
		kind, identity, ok := parseMapSID(o.SID)
		switch {
		case !ok || o.Type != mapObject || kind == conversationsMap && identity != h.session.Key().Identity ||
			h.session.CheckIdentities([]string{identity}) != nil:
			refused = append(refused, failed(o, gateway.ErrorNoMap))
		case kind == conversationsMap:
			done = append(done, established(o.SID, conversationsRev))
		default:
			identities, wanted = append(identities, identity), append(wanted, o)
			if o.LastEventID != nil && *o.LastEventID > 0 && *o.LastEventID < maxEventID {
				known[identity] = *o.LastEventID
			}
		}
	}
	answer := func(users []presence.Snapshot) []byte {
		var events []itemEvent
		for i := range users {
			last := h.replay(&events, &users[i], known[users[i].Identity])
			done = append(done, established(wanted[i].SID, last))
		}
		frames := encodeSubscriptions(m.ID)
		notify := func(frame []byte) {
			frames = append(frames, frame...)
			h.owed.Add(1)
		}
		if len(refused) > 0 {
			notify(notification(eventFailed, s.Correlation, refused))
		}
		if frame := encodeItems(events); frame != nil {
			notify(frame)
		}
		if len(done) > 0 {
			notify(notification(eventEstablished, s.Correlation, done))
		}
		return frames
	}
	if len(identities) == 0 {
		h.session.Send(answer(nil))
		return
	}
	// Beyond the session's limit the whole request fails, and the SDK repeats it: what it
	// is about to cancel makes room. A subscription that fails by itself fails for ever.
	if p := h.session.Subscribe(ctx, identities, known, answer); p != nil {
		h.fail(m, p)
	}
}

// replay adds the events of what a client has not seen of a user, and returns the id
// of its last event. A client may have seen a revision above the user's: on a node
// that put it ahead of the store's, or before the store lost data; or it was sent one
// here, for that reason. A blind one gets again what it has read and not looked at.
func (h *handler) replay(events *[]itemEvent, v *presence.Snapshot, known int64) (last int64) {
	id := v.Rev
	if known > 0 && known == id && (!h.blind.Load() || v.Online == presence.Null && v.Notifiable == presence.Null) {
		return id
	}
	h.mu.Lock()
	if seen := max(known, h.floors[v.Identity].id); seen > 0 && seen >= id {
		id = seen + 1
		if h.floors == nil {
			h.floors = map[string]floor{}
		}
		h.floors[v.Identity] = floor{v.Rev, id}
	}
	h.mu.Unlock()
	*events = itemEvents(*events, v, everything, id)
	return id
}

// unsubscribe handles a request to cancel subscriptions.
func (h *handler) unsubscribe(m *message, s *subscriptions) {
	var identities []string
	canceled := make([]objectEvent, len(s.Requests))
	for i, o := range s.Requests {
		canceled[i] = objectEvent{SID: o.SID, Type: o.Type}
		if kind, identity, ok := parseMapSID(o.SID); ok && kind == userMap {
			identities = append(identities, identity)
		}
	}
	if p := h.session.Unsubscribe(identities); p != nil {
		h.fail(m, p)
		return
	}
	h.mu.Lock()
	for _, identity := range identities {
		delete(h.floors, identity)
	}
	h.mu.Unlock()
	frames := encodeSubscriptions(m.ID)
	h.owed.Add(1)
	h.session.Send(append(frames, notification(eventCanceled, s.Correlation, canceled)...))
}

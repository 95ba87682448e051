package twilsock

import (
	"bytes"
	"encoding/json"
	"net/http"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/rollcall-presence/rollcall/gateway"
)

// manySessionsRetry is when a client may come back whose user has too many sessions:
// one of them may have ended by then.
const manySessionsRetry = 30 * time.Second

// frames counts the frames that this process gave ids to.
var frames atomic.Uint64

// frameID is an id for a frame that a client is to acknowledge.
func frameID() string { return "RC" + strconv.FormatUint(frames.Add(1), 36) }

// statusOf is the HTTP status that stands for a problem.
func statusOf(code gateway.ErrorCode) int {
	switch code {
	case gateway.ErrorInternal:
		return http.StatusInternalServerError
	case gateway.ErrorUnavailable, gateway.ErrorTooManyWaiting:
		return http.StatusServiceUnavailable
	case gateway.ErrorRateLimited, gateway.ErrorTooManySessions, gateway.ErrorSubscriptions:
		return http.StatusTooManyRequests
	case gateway.ErrorNoUser, gateway.ErrorNoMap, gateway.ErrorNoService:
		return http.StatusNotFound
	case gateway.ErrorNotOwn, gateway.ErrorHookRejected, gateway.ErrorPushOff, gateway.ErrorTokenIdentity, gateway.ErrorTokenService:
		return http.StatusForbidden
	case gateway.ErrorTooManyBindings:
		return http.StatusConflict
	case gateway.ErrorUnsupported:
		return http.StatusNotImplemented
	case gateway.ErrorTokenInvalid, gateway.ErrorTokenHeader, gateway.ErrorTokenIssuer, gateway.ErrorTokenExpired,
		gateway.ErrorTokenNotYet, gateway.ErrorTokenGrants, gateway.ErrorTokenSignature:
		return http.StatusUnauthorized
	default: // the request is wrong
		return http.StatusBadRequest
	}
}

// problemStatus is the status of a frame for a problem.
func problemStatus(p *gateway.Problem) *status {
	code := statusOf(p.Code)
	return &status{Code: code, Status: http.StatusText(code), Description: p.Code.Text(), ErrorCode: int(p.Code)}
}

// initReply is what the answer to init has beside its status.
type initReply struct {
	Capabilities            []string             `json:"capabilities"`
	ContinuationToken       string               `json:"continuation_token"`
	ContinuationTokenStatus continuationStatus   `json:"continuation_token_status"`
	InitRegistrations       []registrationStatus `json:"init_registrations"`
}

type continuationStatus struct {
	Reissued bool   `json:"reissued"`
	Reason   string `json:"reissue_reason"`
	Message  string `json:"reissue_message"`
}

type registrationStatus struct {
	Product string `json:"product"`
	Type    string `json:"type"`
	Status  status `json:"status"`
}

// encodeInit lets a client in. Without offline_storage the SDK in a browser reads maps
// afresh after a reload, rather than item by item; without telemetry it sends none.
func encodeInit(id, given string, c continuation) []byte {
	state := continuationStatus{Reissued: c.reissued}
	if c.reissued {
		state.Reason = "MISSING"
		if given != "" {
			state.Reason = "INVALID"
		}
	}
	return encode(header{Method: methodReply, ID: id, Status: statusOK, initReply: &initReply{
		Capabilities:            []string{"client_update"},
		ContinuationToken:       c.String(),
		ContinuationTokenStatus: state,
		InitRegistrations:       []registrationStatus{{"ip_messaging", "ers", status{Code: 201, Status: "CREATED"}}},
	}}, nil)
}

// encodeRefusal tells a client why it is not let in. The SDK stays away after 401 and
// 403, and comes back after all else.
func encodeRefusal(id string, p *gateway.Problem) []byte {
	s := problemStatus(p)
	var payload []byte
	switch {
	case p.Code == gateway.ErrorTooManySessions:
		payload = encodeBackoff(manySessionsRetry)
	case p.Close == gateway.CloseBadToken || p.Close == gateway.CloseBadRequest || p.Close == gateway.CloseEnded:
		if s.Code != http.StatusUnauthorized {
			s.Code, s.Status = http.StatusForbidden, http.StatusText(http.StatusForbidden)
		}
	}
	return encode(header{Method: methodReply, ID: id, Status: s}, payload)
}

func encodeBackoff(retry time.Duration) []byte {
	var v struct {
		Policy struct {
			Min int64 `json:"reconnect_min_ms"`
		} `json:"backoff_policy"`
	}
	v.Policy.Min = retry.Milliseconds()
	return marshal(v)
}

// encodeAnswer answers a tunnelled request. The SDK makes its error message of the
// phrase.
func encodeAnswer(id string, code int, phrase string, body any) []byte {
	return encode(header{Method: methodReply, ID: id, Status: statusOK, HTTPStatus: &status{Code: code, Status: phrase}}, marshal(body))
}

type errorBody struct {
	Code    int    `json:"code"`
	Message string `json:"message"`
	Status  int    `json:"status"`
	Retry   int64  `json:"retry_after_ms,omitempty"`
}

// The types of events.
const (
	eventItem        = "map_item_updated"
	eventEstablished = "subscription_established"
	eventCanceled    = "subscription_canceled"
	eventFailed      = "subscription_failed"
)

// notification is the frame of an event that tells of a request about subscriptions.
func notification(event string, correlation json.RawMessage, events any) []byte {
	return encodeNotification(marshal(struct {
		Type        string          `json:"event_type"`
		Version     json.Number     `json:"event_protocol_version"`
		Correlation json.RawMessage `json:"correlation_id"`
		Events      any             `json:"events"`
	}{event, eventVersion, correlation, events}))
}

// syncEvent is the message type of all notifications: the SDK then takes them to be in
// order, and to move its cursor.
const (
	syncEvent    = "twilio.sync.event"
	eventVersion = "4"
)

func encodeNotification(payload []byte) []byte {
	return encode(header{Method: "notification", ID: frameID(), MessageType: syncEvent}, payload)
}

// What is around the events of items, in a notification.
const (
	itemsHead = `{"event_type":"` + eventItem + `","event_protocol_version":` + eventVersion + `,"events":[`
	itemsTail = `]}`
)

// encodeItems is the notification of events of items, which may be of several maps; nil
// for none.
func encodeItems(events []itemEvent) []byte {
	if len(events) == 0 {
		return nil
	}
	b := []byte(itemsHead)
	for i := range events {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, marshal(&events[i])...)
	}
	return encodeNotification(append(b, itemsTail...))
}

// merge makes one notification of several that encodeItems made.
func merge(frames [][]byte) []byte {
	b := []byte(itemsHead)
	for i, frame := range frames {
		if i > 0 {
			b = append(b, ',')
		}
		// Nothing before the payload can hold its head, which begins with a brace.
		_, events, _ := bytes.Cut(frame, []byte(itemsHead))
		b = append(b, events[:len(events)-len(itemsTail)]...)
	}
	return encodeNotification(append(b, itemsTail...))
}

package rest

import (
	"errors"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/rollcall-presence/rollcall/presence"
)

// Error is the body of every answer that is not a success.
type Error struct {
	Code     int    `json:"code"`
	Message  string `json:"message"`
	MoreInfo string `json:"more_info"`
	Status   int    `json:"status"` // always the HTTP status

	retry time.Duration // when to try again; 0: soon
}

func (e *Error) Error() string { return e.Message }

func failed(status, code int, message string) *Error {
	return &Error{Code: code, Message: message, MoreInfo: "https://www.twilio.com/docs/errors/" + strconv.Itoa(code), Status: status}
}

// invalid is a malformed parameter that has no code of its own.
func invalid(message string) *Error { return failed(http.StatusBadRequest, 20001, message) }

// The errors of constant text.
var (
	errCredentials  = failed(http.StatusUnauthorized, 20003, "Authenticate")
	errMethod       = failed(http.StatusMethodNotAllowed, 20004, "Method not allowed")
	errBodyTooLarge = failed(http.StatusRequestEntityTooLarge, 20001, "The request body is too large")
	errBodyType     = invalid("The request body must be application/x-www-form-urlencoded")
	errBody         = invalid("The request body is malformed or incomplete")
	errUTF8         = invalid("Parameters must be valid UTF-8")

	errNoName         = failed(http.StatusBadRequest, 50000, "FriendlyName not provided")
	errNoIdentity     = failed(http.StatusBadRequest, 50204, "Identity not provided")
	errIdentityIsSID  = failed(http.StatusBadRequest, 50206, "Identity should not match user SID pattern")
	errLongIdentity   = failed(http.StatusBadRequest, 50207, "Identity too long: at most 256 bytes")
	errUserExists     = failed(http.StatusConflict, 50201, "User already exists")
	errLongAttributes = failed(http.StatusBadRequest, 50303, "Attributes too long")
	errDeepAttributes = failed(http.StatusBadRequest, 50304, "Attributes not valid: nested more than 64 levels deep")
	errAttributes     = failed(http.StatusBadRequest, 50304, "Attributes not valid: must be JSON")
	errNoRole         = failed(http.StatusBadRequest, 50100, "Role not found")
	errRoleType       = failed(http.StatusBadRequest, 50105, "Invalid role type")
	errNoRoleType     = failed(http.StatusBadRequest, 50105, "Invalid role type: must be conversation or service")
	errPermissions    = invalid("Permission must be given: once or several times, each 1 to 64 letters, at most 64 of them")
	errDefaultRole    = failed(http.StatusConflict, 20409, "A default role of the service cannot be deleted: choose another default first")
	errTooManyRoles   = failed(http.StatusConflict, 20409, "The service has 100 roles, the most it can have")
	errLongTemplate   = failed(http.StatusBadRequest, 50058, "Notification template too long: at most 1024 characters")
	errLongSound      = invalid("The name of a sound may have at most 256 characters")
	errMessaging      = invalid("DefaultMessagingServiceSid must be the SID of a messaging service, or empty for none")
	errDefaultService = failed(http.StatusConflict, 20409, "The default service cannot be deleted: make another one the default first")
	errNoDefault      = invalid("DefaultChatServiceSid must be the SID of a service")

	errNoBinding         = invalid("BindingType and Address are required")
	errBindingType       = failed(http.StatusBadRequest, 50209, "Invalid binding type: must be apn, gcm, fcm or webpush")
	errAddress           = invalid("Address must be 1 to 4096 bytes")
	errMessageTypes      = invalid("MessageTypes must be of new_message, added_to_conversation and removed_from_conversation")
	errBindingLife       = invalid("ExpiresIn must be a whole number of seconds from 60 to 31536000")
	errBindingCredential = invalid("CredentialSid must be the SID of a credential of the binding's type")
	errTooManyBindings   = failed(http.StatusConflict, 20409, "The user has 20 bindings already: delete one first")
	errFilter            = invalid("At most 100 identities can be asked for")

	errCredentialType     = invalid("Type must be apn, gcm or fcm")
	errCredentialChange   = invalid("The type of a credential cannot be changed")
	errLongCredentialName = failed(http.StatusBadRequest, 50003, "Friendly name too long: at most 64 characters")
	errLongSecret         = invalid("Certificates, keys and secrets are at most 16 KiB")

	errHookFormat   = failed(http.StatusBadRequest, 50054, "Invalid webhook format: a URL must be absolute, http or https, at most 2048 bytes, and lead to an address that may be called")
	errHookMethod   = failed(http.StatusBadRequest, 50055, "Invalid webhook method: must be GET or POST")
	errHookPost     = failed(http.StatusBadRequest, 50078, "Invalid post-webhook URL: must be absolute, http or https, at most 2048 bytes, and lead to an address that may be called")
	errHookFilter   = invalid("Filters must be names of webhook events")
	errHookTarget   = invalid("Target must be webhook or flex")
	errHookRejected = failed(http.StatusBadRequest, 50056, "Webhook cancelled processing")

	errHookBusy = failed(http.StatusServiceUnavailable, 20503, "The service's webhook is being asked about as many changes as it may be: try again shortly; nothing was changed")

	errQuery       = invalid("The query is malformed")
	errPageSize    = invalid("PageSize must be a whole number of at least 1")
	errPage        = invalid("Page must be a whole number of at least 0")
	errPageToken   = invalid("PageToken is not valid for this list")
	errNoPageToken = invalid("PageToken is required for paging.")

	errTooManyKeys        = failed(http.StatusConflict, 20409, "There are 1000 API keys, the most there can be")
	errTooManyRevocations = failed(http.StatusConflict, 20409, "There are 50000 revocations in force, the most there can be; each ends after a day")
	errWhatToRevoke       = invalid("Identity or IssuedBefore must be given, or both")
	errIssuedBefore       = invalid("IssuedBefore must be a time of the last 24 hours, such as 2026-11-22T15:04:05Z")

	errPresenceOf     = invalid("Either Identity, at least one, or Online=true must be given")
	errManyIdentities = invalid("Too many identities: at most 500 in a request")
	errLimit          = invalid("Limit must be a whole number of at least 1")
	errCursor         = invalid("Cursor is not valid: it must come from an answer or an event of this service")
	errCursorGone     = failed(http.StatusGone, 20410, "What changed since this cursor is not known any more: read everything again, without a cursor")
	errManyStreams    = failed(http.StatusServiceUnavailable, 20503, "This node has as many event streams as it may have: try again shortly")
	errDraining       = failed(http.StatusServiceUnavailable, 20503, "This node is about to stop: try again shortly")

	errForbidden   = failed(http.StatusForbidden, 20403, "Forbidden")
	errTooMany     = failed(http.StatusTooManyRequests, 20429, "Too Many Requests")
	errInternal    = failed(http.StatusInternalServerError, 20500, "Internal Server Error")
	errUnavailable = failed(http.StatusServiceUnavailable, 20503, "The presence store cannot be reached: try again shortly; a change may or may not have been made")
)

func (c *call) notFound() *Error {
	return failed(http.StatusNotFound, 20404, "The requested resource "+c.r.URL.EscapedPath()+" was not found")
}

// errorOf is the answer for an error of the store, by its condition, else its kind.
func (c *call) errorOf(err error) *Error {
	switch {
	case errors.Is(err, presence.ErrUserExists):
		return errUserExists
	case errors.Is(err, presence.ErrTooManyBindings):
		return errTooManyBindings
	case errors.Is(err, presence.ErrDefaultService):
		return errDefaultService
	case errors.Is(err, presence.ErrDefaultRole):
		return errDefaultRole
	case errors.Is(err, presence.ErrTooManyRoles):
		return errTooManyRoles
	case errors.Is(err, presence.ErrTooManyKeys):
		return errTooManyKeys
	case errors.Is(err, presence.ErrTooManyRevocations):
		return errTooManyRevocations
	case errors.Is(err, presence.ErrPlaceGone):
		return errCursorGone
	case errors.Is(err, presence.ErrRejected):
		return errHookRejected
	case errors.Is(err, presence.ErrAsking):
		return errHookBusy
	}
	switch presence.KindOf(err) {
	case presence.KindNotFound:
		return c.notFound()
	case presence.KindInvalid:
		return invalid("A parameter is not valid")
	case presence.KindUnauthenticated:
		return errCredentials
	case presence.KindDenied:
		return errForbidden
	case presence.KindConflict:
		return failed(http.StatusConflict, 20409, "The request conflicts with the resource's state")
	case presence.KindLimited:
		limited := *errTooMany
		if e, ok := errors.AsType[*presence.Error](err); ok {
			limited.retry = e.Retry
		}
		return &limited
	case presence.KindUnavailable:
		return errUnavailable
	case presence.KindInternal:
	}
	return errInternal
}

// headers sets what goes with the status.
func (e *Error) headers(h http.Header, allowed []string) {
	switch e.Status {
	case http.StatusUnauthorized:
		h.Set("WWW-Authenticate", `Basic realm="Twilio API"`)
	case http.StatusMethodNotAllowed:
		h.Set("Allow", strings.Join(allowed, ", "))
	case http.StatusServiceUnavailable, http.StatusTooManyRequests:
		h.Set("Retry-After", strconv.Itoa(max(1, int((e.retry+time.Second-1)/time.Second))))
	}
}

package rest

import (
	"errors"
	"net/http"
	"strconv"
	"strings"

	"github.com/rollcall-presence/rollcall/presence"
)

// Error is the body of every answer that is not a success.
type Error struct {
	Code     int    `json:"code"`
	Message  string `json:"message"`
	MoreInfo string `json:"more_info"`
	Status   int    `json:"status"` // always the HTTP status
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
	errLongName       = failed(http.StatusBadRequest, 50003, "Friendly name too long: at most 256 characters")
	errNoIdentity     = failed(http.StatusBadRequest, 50204, "Identity not provided")
	errIdentityIsSID  = failed(http.StatusBadRequest, 50206, "Identity should not match user SID pattern")
	errLongIdentity   = failed(http.StatusBadRequest, 50207, "Identity too long: at most 256 bytes")
	errUserExists     = failed(http.StatusConflict, 50201, "User already exists")
	errLongAttributes = failed(http.StatusBadRequest, 50303, "Attributes too long")
	errAttributes     = failed(http.StatusBadRequest, 50304, "Attributes not valid: must be JSON")
	errNoRole         = failed(http.StatusBadRequest, 50100, "Role not found")
	errRoleType       = failed(http.StatusBadRequest, 50105, "Invalid role type")
	errDefaultService = failed(http.StatusConflict, 20409, "The default service cannot be deleted: make another one the default first")
	errNoDefault      = invalid("DefaultChatServiceSid must be the SID of a service")

	errHookFormat   = failed(http.StatusBadRequest, 50054, "Invalid webhook format: a URL must be absolute, http or https, at most 2048 bytes, and lead to an address that may be called")
	errHookMethod   = failed(http.StatusBadRequest, 50055, "Invalid webhook method: must be GET or POST")
	errHookPost     = failed(http.StatusBadRequest, 50078, "Invalid post-webhook URL: must be absolute, http or https, at most 2048 bytes, and lead to an address that may be called")
	errHookFilter   = invalid("Filters must be names of webhook events")
	errHookTarget   = invalid("Target must be webhook or flex")
	errHookRejected = failed(http.StatusBadRequest, 50056, "Webhook cancelled processing")

	errPageSize    = invalid("PageSize must be a whole number of at least 1")
	errPage        = invalid("Page must be a whole number of at least 0")
	errPageToken   = invalid("PageToken is not valid for this list")
	errNoPageToken = invalid("PageToken is required for paging.")

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
	case errors.Is(err, presence.ErrDefaultService):
		return errDefaultService
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
		return errTooMany
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
		h.Set("Retry-After", "1")
	}
}

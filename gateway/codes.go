package gateway

import (
	"slices"
	"strconv"
)

// CloseCode is the code of a WebSocket close frame, as the server sends it.
type CloseCode uint16

// The close codes. Those below 3000 are the WebSocket protocol's own. A client
// reconnects after 3000 to 3499 and stays away after 3500 to 3999.
const (
	CloseBye           CloseCode = 1000
	CloseGoingAway     CloseCode = 1001
	CloseProtocol      CloseCode = 1002
	CloseNotUTF8       CloseCode = 1007
	CloseTooBig        CloseCode = 1009
	CloseRestart       CloseCode = 1012
	CloseInternal      CloseCode = 3000
	CloseUnavailable   CloseCode = 3001
	CloseTokenExpired  CloseCode = 3002
	CloseSlow          CloseCode = 3003
	CloseNoPong        CloseCode = 3004
	CloseRateLimited   CloseCode = 3005
	CloseBadToken      CloseCode = 3500
	CloseBadRequest    CloseCode = 3501
	CloseNoHello       CloseCode = 3502
	CloseEnded         CloseCode = 3503
	CloseTooMany       CloseCode = 3504
	CloseSubscriptions CloseCode = 3505
)

// Reconnect tells what a client does after a close.
type Reconnect string

// The rules of reconnecting.
const (
	// ReconnectNever: the same would happen again; do not come back by yourself.
	ReconnectNever Reconnect = "no"
	// ReconnectBackoff: come back, with exponential backoff and jitter.
	ReconnectBackoff Reconnect = "yes, with backoff"
	// ReconnectHint: come back after the retry_after_ms that the reason carries.
	ReconnectHint Reconnect = "yes, after `retry_after_ms`"
)

// Close is one row of the table of close codes.
type Close struct {
	Code      CloseCode
	Name      string    // stable; the metric label's meaning
	Reconnect Reconnect // what a client should do
	Reason    string    // the close frame's reason; empty where it is the retry hint's JSON
	Text      string    // when it happens
}

var closes = [...]Close{
	{CloseBye, "bye", ReconnectNever, "bye", "The client said bye; its user goes offline at once if this was the last session."},
	{CloseGoingAway, "going_away", ReconnectHint, "", "The node is stopping now."},
	{CloseProtocol, "protocol_error", ReconnectNever, "WebSocket protocol error", "The peer broke the WebSocket protocol itself."},
	{CloseNotUTF8, "not_utf8", ReconnectNever, "text frame is not valid UTF-8", "A text frame was not valid UTF-8."},
	{CloseTooBig, "too_big", ReconnectNever, "frame is too big", "A message was longer than the limit (64 KiB by default)."},
	{CloseRestart, "restart", ReconnectHint, "", "The node is draining before a restart; the session is handed over."},
	{CloseInternal, "internal", ReconnectBackoff, "internal error", "The server failed; nothing was wrong with the request."},
	{CloseUnavailable, "unavailable", ReconnectHint, "", "The store could not be reached for as long as a session may wait for it (30 s by default), or too many wait already; an `error` frame before the close says which."},
	{CloseTokenExpired, "token_expired", ReconnectBackoff, "token expired", "The session's token expired and was not renewed. Come back with a new one."},
	{CloseSlow, "slow", ReconnectBackoff, "too slow", "The client did not read: a write made no progress for too long, or too many answers waited."},
	{CloseNoPong, "no_pong", ReconnectBackoff, "no pong", "Nothing was heard from the client after a ping."},
	{CloseRateLimited, "rate_limited", ReconnectHint, "", "The client went on sending too many requests after it was told so."},
	{CloseBadToken, "bad_token", ReconnectNever, "bad token", "The token in hello was refused; an `error` frame before the close says why. Or, later, the session's token or its API key was revoked."},
	{CloseBadRequest, "bad_request", ReconnectNever, "bad request", "A frame was not a JSON object, was binary, or came at the wrong time."},
	{CloseNoHello, "no_hello", ReconnectNever, "no hello in time", "No hello came in time (10 s by default)."},
	{CloseEnded, "ended", ReconnectNever, "ended by the operator", "An operator ended the session, or its user or service was deleted."},
	{CloseTooMany, "too_many_connections", ReconnectNever, "too many connections", "The user has too many sessions on this node already."},
	{CloseSubscriptions, "too_many_subscriptions", ReconnectNever, "too many subscriptions", "`known` in hello named more users than a session may subscribe to."},
}

// Closes is the table of close codes, by code.
func Closes() []Close { return slices.Clone(closes[:]) }

func closeOf(code CloseCode) *Close {
	for i := range closes {
		if closes[i].Code == code {
			return &closes[i]
		}
	}
	return nil
}

// ErrorCode numbers what an error frame tells. Numbers are never reused.
type ErrorCode int

// The error codes. The codes of refused tokens are those of package auth.
const (
	ErrorInternal          ErrorCode = 100
	ErrorUnavailable       ErrorCode = 101
	ErrorUnknownType       ErrorCode = 102
	ErrorBadField          ErrorCode = 103
	ErrorTooManyIdentities ErrorCode = 104
	ErrorSubscriptions     ErrorCode = 105
	ErrorIdentityEmpty     ErrorCode = 106
	ErrorIdentityTooLong   ErrorCode = 107
	ErrorIdentityEncoding  ErrorCode = 108
	ErrorRateLimited       ErrorCode = 109
	ErrorTokenIdentity     ErrorCode = 110
	ErrorTokenService      ErrorCode = 111
	ErrorNoService         ErrorCode = 112
	ErrorTooManySessions   ErrorCode = 113
	ErrorPushOff           ErrorCode = 114
	ErrorPushType          ErrorCode = 115
	ErrorPushAddress       ErrorCode = 116
	ErrorPushLife          ErrorCode = 117
	ErrorPushCredential    ErrorCode = 118
	ErrorTooManyBindings   ErrorCode = 119
	ErrorTooManyWaiting    ErrorCode = 120
	ErrorFriendlyName      ErrorCode = 121
	ErrorAttributesTooLong ErrorCode = 122
	ErrorAttributes        ErrorCode = 123
	ErrorHookRejected      ErrorCode = 124
	ErrorNoUser            ErrorCode = 125
	ErrorNotOwn            ErrorCode = 126
	ErrorNoMap             ErrorCode = 127
	ErrorUnsupported       ErrorCode = 128
	ErrorAttributesDepth   ErrorCode = 129
	ErrorTokenInvalid      ErrorCode = 20101
	ErrorTokenHeader       ErrorCode = 20102
	ErrorTokenIssuer       ErrorCode = 20103
	ErrorTokenExpired      ErrorCode = 20104
	ErrorTokenNotYet       ErrorCode = 20105
	ErrorTokenGrants       ErrorCode = 20106
	ErrorTokenSignature    ErrorCode = 20107
)

// ErrorText is one row of the table of error codes.
type ErrorText struct {
	Code ErrorCode
	Name string // stable; the metric label
	Text string // the frame's message, always the same for the code
}

var errorTexts = [...]ErrorText{
	{ErrorInternal, "internal", "Internal error"},
	{ErrorUnavailable, "unavailable", "Temporarily unavailable; nothing was changed"},
	{ErrorUnknownType, "unknown_type", "Unknown message type"},
	{ErrorBadField, "bad_field", "A field is missing or of the wrong type"},
	{ErrorTooManyIdentities, "too_many_identities", "Too many identities in one request"},
	{ErrorSubscriptions, "too_many_subscriptions", "Too many subscriptions; none was added"},
	{ErrorIdentityEmpty, "identity_empty", "An identity is empty"},
	{ErrorIdentityTooLong, "identity_too_long", "An identity is too long"},
	{ErrorIdentityEncoding, "identity_encoding", "An identity is not valid Unicode"},
	{ErrorRateLimited, "rate_limited", "Too many requests"},
	{ErrorTokenIdentity, "token_identity", "The token is for another identity"},
	{ErrorTokenService, "token_service", "The token is for another service"},
	{ErrorNoService, "no_service", "The token's service does not exist"},
	{ErrorTooManySessions, "too_many_sessions", "The user has too many sessions"},
	{ErrorPushOff, "push_off", "Registrations for push are not taken here"},
	{ErrorPushType, "push_type", "binding_type is not one of apn, fcm, gcm and webpush"},
	{ErrorPushAddress, "push_address", "The address is empty, too long or not valid Unicode"},
	{ErrorPushLife, "push_life", "expires_in_s is not from a minute to a year"},
	{ErrorPushCredential, "push_credential", "There is no such push credential, or it is of another type"},
	{ErrorTooManyBindings, "too_many_bindings", "The user has too many bindings"},
	{ErrorTooManyWaiting, "too_many_waiting", "Temporarily unavailable, and too many sessions wait already"},
	{ErrorFriendlyName, "friendly_name", "The friendly name is longer than 256 characters"},
	{ErrorAttributesTooLong, "attributes_too_long", "The attributes are too long"},
	{ErrorAttributes, "attributes", "The attributes are not JSON"},
	{ErrorHookRejected, "hook_rejected", "A webhook rejected the change"},
	{ErrorNoUser, "no_user", "There is no such user"},
	{ErrorNotOwn, "not_own", "Users may change only themselves"},
	{ErrorNoMap, "no_map", "There is no such map"},
	{ErrorUnsupported, "unsupported", "Not supported: only reachability is served here"},
	{ErrorAttributesDepth, "attributes_depth", "The attributes are nested more than 64 levels deep"},
	{ErrorTokenInvalid, "token_invalid", "Invalid Access Token"},
	{ErrorTokenHeader, "token_header", "Invalid Access Token header"},
	{ErrorTokenIssuer, "token_issuer", "Invalid Access Token issuer/subject"},
	{ErrorTokenExpired, "token_expired", "Access Token expired or expiration date invalid"},
	{ErrorTokenNotYet, "token_not_yet_valid", "Access Token not yet valid"},
	{ErrorTokenGrants, "token_grants", "Invalid Access Token grants"},
	{ErrorTokenSignature, "token_signature", "Invalid Access Token signature"},
}

// ErrorTexts is the table of error codes, by code.
func ErrorTexts() []ErrorText { return slices.Clone(errorTexts[:]) }

// row is the code's row of the table, that of ErrorInternal for a code that is
// in none, so that no number leaves without a text.
func (c ErrorCode) row() *ErrorText {
	for i := range errorTexts {
		if errorTexts[i].Code == c {
			return &errorTexts[i]
		}
	}
	return &errorTexts[0]
}

// Text is the fixed message of the code.
func (c ErrorCode) Text() string { return c.row().Text }

// appendRetryAfter is the reason of a close whose rule is ReconnectHint.
func appendRetryAfter(b []byte, ms int64) []byte {
	b = append(b, `{"retry_after_ms":`...)
	b = strconv.AppendInt(b, ms, 10)
	return append(b, '}')
}

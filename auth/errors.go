package auth

import "github.com/rollcall-presence/rollcall/presence"

// Codes of refused access tokens, as the public error dictionary numbers them.
const (
	CodeInvalid     = 20101 // not a JWT, or of the wrong structure
	CodeHeader      = 20102 // typ, alg or cty is wrong
	CodeIssuer      = 20103 // iss is no key of ours, or sub not its account
	CodeExpired     = 20104 // exp has passed, is missing, or is too far ahead
	CodeNotYetValid = 20105 // nbf is in the future
	CodeGrants      = 20106 // no identity, or no chat grant for a service
	CodeSignature   = 20107 // not signed with the key's secret
)

// Error tells why a token was refused. Each possible value is a package variable
// of constant text: it names the claim at fault, never what the token said.
type Error struct {
	Code   int    // one of the Code constants; also the wire code
	Name   string // what the code stands for
	Detail string // which rule was broken, and so what to change
}

func (e *Error) Error() string { return e.Name + ": " + e.Detail }

// Unwrap gives presence.KindOf its answer: KindUnauthenticated.
func (e *Error) Unwrap() error { return errRefused }

var errRefused = &presence.Error{Op: "access token refused", Kind: presence.KindUnauthenticated}

var (
	errTooLong    = &Error{CodeInvalid, "Invalid Access Token", "longer than 8 KiB"}
	errStructure  = &Error{CodeInvalid, "Invalid Access Token", "must be three base64url parts joined by dots"}
	errRevoked    = &Error{CodeInvalid, "Invalid Access Token", "was revoked"}
	errPayload    = &Error{CodeInvalid, "Invalid Access Token", "the payload must be a JSON object of valid Unicode"}
	errHeaderJSON = &Error{CodeHeader, "Invalid Access Token header", "must be a JSON object"}
	errAlg        = &Error{CodeHeader, "Invalid Access Token header", "alg must be HS256"}
	errTyp        = &Error{CodeHeader, "Invalid Access Token header", "typ must be JWT"}
	errCty        = &Error{CodeHeader, "Invalid Access Token header", "cty must be twilio-fpa;v=1"}
	errCrit       = &Error{CodeHeader, "Invalid Access Token header", "crit is not supported"}
	errIssuer     = &Error{CodeIssuer, "Invalid Access Token issuer/subject", "iss must be the SID of an active API key"}
	errSubject    = &Error{CodeIssuer, "Invalid Access Token issuer/subject", "sub must be the SID of the API key's account"}
	errNoExpiry   = &Error{CodeExpired, "Access Token expired or expiration date invalid", "exp must be a number of seconds"}
	errExpired    = &Error{CodeExpired, "Access Token expired or expiration date invalid", "exp has passed"}
	errTooFar     = &Error{CodeExpired, "Access Token expired or expiration date invalid", "exp must be at most 24 hours ahead"}
	errIssuedAt   = &Error{CodeExpired, "Access Token expired or expiration date invalid", "iat must be a number of seconds"}
	errNotBefore  = &Error{CodeNotYetValid, "Access Token not yet valid", "nbf must be a number of seconds"}
	errNotYet     = &Error{CodeNotYetValid, "Access Token not yet valid", "nbf is in the future"}
	errGrants     = &Error{CodeGrants, "Invalid Access Token grants", "grants must be a JSON object"}
	errIdentity   = &Error{CodeGrants, "Invalid Access Token grants", "grants.identity must be 1 to 256 bytes of UTF-8, and not look like a user SID"}
	errChat       = &Error{CodeGrants, "Invalid Access Token grants", "grants.chat must be an object whose service_sid is the SID of a service"}
	errSignature  = &Error{CodeSignature, "Invalid Access Token signature", "must be made with the API key's secret"}
)

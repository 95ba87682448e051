package auth

import (
	"bytes"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/rollcall-presence/rollcall/internal/plainjson"
	"github.com/rollcall-presence/rollcall/presence"
)

const (
	// MaxToken is the longest token that is looked at, in bytes.
	MaxToken = 8 << 10
	// MaxLifetime is how far ahead of now, and of the token's own iat (of its nbf if
	// it has no iat), exp may be.
	MaxLifetime = 24 * time.Hour
	// Leeway is by how much the clock that minted a token may be ahead of ours
	// before nbf and MaxLifetime refuse it. There is none on exp: a token past its
	// expiry is refused at once.
	Leeway = 5 * time.Second
)

const contentType = "twilio-fpa;v=1"

// Claims is what a verified token says.
type Claims struct {
	KeySID   string // of the API key that signed it
	Account  string // AC SID
	Service  string // IS SID
	Identity string // fit for presence.Key
	// PushCredential is what the user's devices register for push with where they name
	// no credential: as the token has it, "" for none. It need not exist.
	PushCredential string
	// Issued is when the token says that it was made: its iat, else its nbf, else the
	// longest a token may live before it expires. In whole seconds, mostly.
	Issued  time.Time
	Expires time.Time
}

// Key is the user whom the token speaks for.
func (c Claims) Key() presence.Key { return presence.Key{Service: c.Service, Identity: c.Identity} }

// Verifier checks access tokens. It is safe for concurrent use.
type Verifier struct {
	keys    Keys
	revoker Revoker // nil where nothing is ever revoked
}

// NewVerifier returns a Verifier of tokens that were signed with one of keys. If
// keys is a Revoker too, tokens that it revoked are refused.
func NewVerifier(keys Keys) *Verifier {
	v := &Verifier{keys: keys}
	v.revoker, _ = keys.(Revoker)
	return v
}

// Check tells whether what Verify once returned still holds: an *Error if the key
// was withdrawn or the token revoked since. Of what it claims, KeySID, Service,
// Identity and Issued are looked at.
func (v *Verifier) Check(c Claims) error {
	if _, ok := v.keys.Key(c.KeySID); !ok {
		return errIssuer
	}
	if v.revoker != nil && v.revoker.Revoked(c) {
		return errRevoked
	}
	return nil
}

// Verify returns what the token claims if all of it holds at the time now; else an
// *Error. Claims are looked at only after the signature was found good, save iss,
// which names the key. It makes no I/O, and its cost is bounded by MaxToken.
func (v *Verifier) Verify(token string, now time.Time) (Claims, error) {
	if len(token) > MaxToken {
		return Claims{}, errTooLong
	}
	signed, sig, header, payload, ok := split(token)
	if !ok {
		return Claims{}, errStructure
	}
	if err := checkHeader(header); err != nil {
		return Claims{}, err
	}
	var room members
	c, ok := object(room[:0]).decode(payload)
	if !ok {
		return Claims{}, errPayload
	}
	k, ok := v.keys.Key(c.string("iss"))
	if !ok || k.Secret == "" {
		return Claims{}, errIssuer
	}
	if !hmac.Equal(sig, sign(signed, k.Secret)) {
		return Claims{}, errSignature
	}
	if sub := c.string("sub"); sub == "" || sub != k.Account {
		return Claims{}, errSubject
	}
	issued, expires, err := checkTimes(c, now)
	if err != nil {
		return Claims{}, err
	}
	grants, err := checkGrants(c.get("grants"))
	if err != nil {
		return Claims{}, err
	}
	grants.KeySID, grants.Account, grants.Issued, grants.Expires = k.SID, k.Account, issued, expires
	if v.revoker != nil && v.revoker.Revoked(grants) {
		return Claims{}, errRevoked
	}
	return grants, nil
}

func split(token string) (signed string, sig, header, payload []byte, ok bool) {
	// The decoder skips line breaks, which would give one token many spellings.
	if strings.ContainsAny(token, "\r\n") || strings.Count(token, ".") != 2 {
		return "", nil, nil, nil, false
	}
	dot := strings.LastIndexByte(token, '.')
	signed = token[:dot]
	head, body, _ := strings.Cut(signed, ".")
	enc := base64.RawURLEncoding.Strict()
	header, errH := enc.DecodeString(head)
	payload, errP := enc.DecodeString(body)
	sig, errS := enc.DecodeString(token[dot+1:])
	return signed, sig, header, payload, errH == nil && errP == nil && errS == nil
}

func sign(signed, secret string) []byte {
	h := hmac.New(sha256.New, []byte(secret))
	h.Write([]byte(signed))
	return h.Sum(nil)
}

func checkHeader(header []byte) error {
	var room members
	h, ok := object(room[:0]).decode(header)
	switch {
	case !ok:
		return errHeaderJSON
	case h.string("alg") != "HS256":
		return errAlg
	case h.string("typ") != "JWT":
		return errTyp
	case h.string("cty") != contentType:
		return errCty
	case h.get("crit") != nil:
		return errCrit
	}
	return nil
}

func checkTimes(c object, now time.Time) (made, expires time.Time, err error) {
	expires, ok := c.time("exp")
	if !ok || expires.IsZero() {
		return time.Time{}, time.Time{}, errNoExpiry
	}
	issued, ok := c.time("iat")
	if !ok {
		return time.Time{}, time.Time{}, errIssuedAt
	}
	notBefore, ok := c.time("nbf")
	if !ok {
		return time.Time{}, time.Time{}, errNotBefore
	}
	start := now
	switch {
	case !issued.IsZero():
		start = issued
	case !notBefore.IsZero():
		start = notBefore
	}
	switch {
	case !now.Before(expires):
		return time.Time{}, time.Time{}, errExpired
	case expires.Sub(now) > MaxLifetime+Leeway, expires.Sub(start) > MaxLifetime+Leeway:
		return time.Time{}, time.Time{}, errTooFar
	case notBefore.Sub(now) > Leeway:
		return time.Time{}, time.Time{}, errNotYet
	}
	if issued.IsZero() && notBefore.IsZero() {
		start = expires.Add(-MaxLifetime)
	}
	return start, expires, nil
}

// checkGrants returns the claims that the grants make.
func checkGrants(raw []byte) (Claims, error) {
	var rooms [2]members
	grants, ok := object(rooms[0][:0]).decode(raw)
	if !ok {
		return Claims{}, errGrants
	}
	identity := grants.string("identity")
	// A user is addressed by SID or identity; one that looks like the other would
	// make that ambiguous.
	if presence.CheckIdentity(identity) != nil || presence.IsSID(identity, "US") {
		return Claims{}, errIdentity
	}
	grant := grants.get("chat")
	if grant == nil {
		grant = grants.get("ip_messaging") // the older name of the same grant
	}
	chat, ok := object(rooms[1][:0]).decode(grant)
	if !ok || !presence.IsSID(chat.string("service_sid"), "IS") {
		return Claims{}, errChat
	}
	return Claims{Identity: identity, Service: chat.string("service_sid"), PushCredential: chat.string("push_credential_sid")}, nil
}

// member is one of a JSON object.
type member struct{ name, value []byte }

// object is the members of a JSON object, of a name that comes twice the last. Unlike a
// struct it keeps names case-sensitive.
type object []member

// members is room for those of the objects that tokens have.
type members [12]member

// decode appends the members of b to o, which is empty. ok tells that b is one JSON object, of
// whole characters (of others the decoder would make U+FFFD, silently giving two identities one
// name).
func (o object) decode(b []byte) (all object, ok bool) {
	all = o
	if plainjson.Object(b, func(name, value []byte) bool {
		all = append(all, member{name, value})
		return true
	}) {
		return all, true
	}
	return o.decodeAny(b)
}

// decodeAny is decode for objects that are not written plainly, at ten times the cost.
func (o object) decodeAny(b []byte) (all object, ok bool) {
	var m map[string]json.RawMessage
	if !utf8.Valid(b) || presence.LoneSurrogate(b) || json.Unmarshal(b, &m) != nil || m == nil {
		return nil, false
	}
	for name, value := range m {
		o = append(o, member{[]byte(name), value})
	}
	return o, true
}

// get is a member's JSON text, nil if there is none.
func (o object) get(name string) []byte {
	for _, m := range slices.Backward(o) {
		if string(m.name) == name {
			return m.value
		}
	}
	return nil
}

// string is a member that is a string, else "".
func (o object) string(name string) string {
	value := o.get(name)
	if text, ok := plainjson.String(value); ok && bytes.IndexByte(text, '\\') < 0 {
		return string(text)
	}
	var s string
	if json.Unmarshal(value, &s) != nil {
		return ""
	}
	return s
}

// time is a member that holds seconds since 1970; zero where there is none. ok is
// false for anything that is not a time between 1970 and 2286.
func (o object) time(name string) (t time.Time, ok bool) {
	value := o.get(name)
	if value == nil {
		return time.Time{}, true
	}
	if n, ok := plainjson.Int(value); ok {
		if n < 0 || n >= maxSeconds {
			return time.Time{}, false
		}
		return time.UnixMilli(n * 1000), true
	}
	var s *float64
	if json.Unmarshal(value, &s) != nil || s == nil || *s < 0 || *s >= maxSeconds {
		return time.Time{}, false
	}
	return time.UnixMilli(int64(*s * 1000)), true
}

// maxSeconds since 1970 are in 2286.
const maxSeconds = 1e10

// Mint makes a token that lets identity into a service, signed with k, valid from
// now for ttl in whole seconds (at most MaxLifetime). The error tells what Verify
// would refuse.
func Mint(k Key, service, identity string, now time.Time, ttl time.Duration) (string, error) {
	ttl = ttl.Truncate(time.Second)
	switch {
	case k.SID == "" || k.Secret == "" || k.Account == "":
		return "", errors.New("an access token needs the SID and secret of an API key, and its account")
	case !presence.IsSID(service, "IS"):
		return "", errors.New("service must be a service SID: IS and 32 hexadecimal digits")
	case presence.IsSID(identity, "US"):
		return "", errors.New("identity must not look like a user SID")
	case ttl <= 0 || ttl > MaxLifetime:
		return "", errors.New("a token lives at least a second and at most 24 hours")
	}
	if err := presence.CheckIdentity(identity); err != nil {
		return "", err
	}
	type chat struct {
		Service string `json:"service_sid"`
	}
	type grants struct {
		Identity string `json:"identity"`
		Chat     chat   `json:"chat"`
	}
	payload, err := json.Marshal(struct {
		ID       string `json:"jti"`
		Issuer   string `json:"iss"`
		Subject  string `json:"sub"`
		IssuedAt int64  `json:"iat"`
		Expires  int64  `json:"exp"`
		Grants   grants `json:"grants"`
	}{k.SID + "-" + rand.Text(), k.SID, k.Account, now.Unix(), now.Add(ttl).Unix(), grants{identity, chat{service}}})
	if err != nil {
		return "", fmt.Errorf("encode token: %w", err)
	}
	signed := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"HS256","typ":"JWT","cty":"`+contentType+`"}`)) +
		"." + base64.RawURLEncoding.EncodeToString(payload)
	return signed + "." + base64.RawURLEncoding.EncodeToString(sign(signed, k.Secret)), nil
}

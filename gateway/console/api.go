package console

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"go.uber.org/zap"

	"github.com/rollcall-presence/rollcall/presence"
)

const (
	tokenTTL      = time.Hour // the page renews in band long before
	maxBody       = 4 << 10   // a service SID and an identity, percent-encoded
	maxIdentities = 500       // in one question
)

// Error codes, as in the REST API.
const (
	codeInvalid         = 20001
	codeUnauthenticated = 20003
	codeNotAllowed      = 20004
	codeNotFound        = 20404
	codeTooMany         = 20429
	codeInternal        = 20500
	codeUnavailable     = 20503
	codeNoIdentity      = 50204
	codeLongIdentity    = 50207
)

// api is the page's own endpoints.
type api struct{ o Options }

// endpoint checks what all endpoints share: first the method, then who asks.
func (a api) endpoint(method string, serve http.HandlerFunc) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != method {
			notAllowed(w, method)
			return
		}
		if err := a.o.Authenticate(r); err != nil {
			if e, ok := errors.AsType[*presence.Error](err); ok && e.Kind == presence.KindLimited {
				w.Header().Set("Retry-After", strconv.Itoa(max(1, int((e.Retry+time.Second-1)/time.Second))))
				fail(w, http.StatusTooManyRequests, codeTooMany, "Too many requests, or too many wrong passwords, from this address: wait a while")
				return
			}
			// No WWW-Authenticate: a browser would cover the page's own form
			// with its password dialogue.
			fail(w, http.StatusUnauthorized, codeUnauthenticated, "Authenticate")
			return
		}
		serve(w, r)
	})
}

// settings tells what the page explains to its reader.
func (a api) settings(w http.ResponseWriter, r *http.Request) {
	service, ok := serviceOf(w, r)
	if !ok {
		return
	}
	linger, err := a.o.Linger(r.Context(), service)
	if err != nil {
		a.refuse(w, r, err)
		return
	}
	answer(w, http.StatusOK, map[string]int64{"linger_ms": linger.Milliseconds()})
}

// token mints an access token: form ServiceSid, Identity.
func (a api) token(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, maxBody)
	if err := r.ParseForm(); err != nil {
		if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
			fail(w, http.StatusRequestEntityTooLarge, codeInvalid, "The body is larger than "+strconv.Itoa(maxBody)+" bytes")
			return
		}
		fail(w, http.StatusBadRequest, codeInvalid, "The body is not a valid form")
		return
	}
	service, identity := r.PostForm.Get("ServiceSid"), r.PostForm.Get("Identity")
	if !presence.IsSID(service, "IS") {
		fail(w, http.StatusBadRequest, codeInvalid, "ServiceSid is not a service SID (IS and 32 hexadecimal digits)")
		return
	}
	if !checkIdentity(w, identity) {
		return
	}
	token, expires, err := a.o.Mint(service, identity, tokenTTL)
	if err != nil {
		a.refuse(w, r, err)
		return
	}
	answer(w, http.StatusOK, struct {
		Token     string    `json:"token"`
		ExpiresAt time.Time `json:"expires_at"`
	}{token, expires.UTC().Truncate(time.Second)})
}

// sessions counts live sessions: query Identity, repeated.
func (a api) sessions(w http.ResponseWriter, r *http.Request) {
	service, ok := serviceOf(w, r)
	if !ok {
		return
	}
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		fail(w, http.StatusBadRequest, codeInvalid, "The query is malformed")
		return
	}
	identities := query["Identity"]
	if len(identities) > maxIdentities {
		fail(w, http.StatusBadRequest, codeInvalid, "At most "+strconv.Itoa(maxIdentities)+" identities in a request")
		return
	}
	counts := make(map[string]int, len(identities))
	for _, identity := range identities {
		if !checkIdentity(w, identity) {
			return
		}
		counts[identity] = 0
	}
	found, err := a.o.Sessions(r.Context(), service, identities)
	if err != nil {
		a.refuse(w, r, err)
		return
	}
	for identity := range counts { // only what was asked for
		counts[identity] = found[identity]
	}
	answer(w, http.StatusOK, map[string]map[string]int{"sessions": counts})
}

// serviceOf is the service that the path names; else it has answered.
func serviceOf(w http.ResponseWriter, r *http.Request) (service string, ok bool) {
	service = r.PathValue("service")
	if !presence.IsSID(service, "IS") {
		fail(w, http.StatusNotFound, codeNotFound, "The service was not found")
		return "", false
	}
	return service, true
}

// checkIdentity reports whether the identity may be used; else it has answered.
func checkIdentity(w http.ResponseWriter, identity string) bool {
	err := presence.CheckIdentity(identity)
	if err == nil {
		return true
	}
	code := codeInvalid
	switch {
	case errors.Is(err, presence.ErrIdentityEmpty):
		code = codeNoIdentity
	case errors.Is(err, presence.ErrIdentityTooLong):
		code = codeLongIdentity
	}
	fail(w, http.StatusBadRequest, code, "The "+err.Error())
	return false
}

// refuse answers for what failed below, and logs what only an operator may know.
func (a api) refuse(w http.ResponseWriter, r *http.Request, err error) {
	switch presence.KindOf(err) {
	case presence.KindNotFound:
		fail(w, http.StatusNotFound, codeNotFound, "The service was not found")
		return
	case presence.KindUnavailable:
		w.Header().Set("Retry-After", "1")
		fail(w, http.StatusServiceUnavailable, codeUnavailable, "The store cannot be reached right now")
	default:
		fail(w, http.StatusInternalServerError, codeInternal, "Something went wrong; the server's log says what")
	}
	if r.Context().Err() == nil { // a reader that left is not a fault
		a.o.Log.Warn("console request failed", zap.String("path", r.URL.Path), zap.Error(err))
	}
}

func notAllowed(w http.ResponseWriter, allow string) {
	w.Header().Set("Allow", allow)
	fail(w, http.StatusMethodNotAllowed, codeNotAllowed, "Method not allowed; use "+allow)
}

// fail answers with an error of the REST API's shape.
func fail(w http.ResponseWriter, status, code int, message string) {
	answer(w, status, struct {
		Code    int    `json:"code"`
		Message string `json:"message"`
		Status  int    `json:"status"`
	}{code, message, status})
}

func answer(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body) // the reader left: nobody to tell
}

package console

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"strconv"
	"time"
	"unicode/utf8"

	"go.uber.org/zap"
)

const (
	tokenTTL      = time.Hour // the page renews in band long before
	maxBody       = 4 << 10   // a service SID and an identity, percent-encoded
	maxIdentity   = 256       // bytes
	maxIdentities = 500       // in one question
)

// Error codes, as in the REST API.
const (
	codeInvalid         = 20001
	codeUnauthenticated = 20003
	codeNotAllowed      = 20004
	codeNotFound        = 20404
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
		if !a.o.Authenticate(r) {
			// No WWW-Authenticate: a browser would cover the page's own form
			// with its password dialogue.
			fail(w, http.StatusUnauthorized, codeUnauthenticated, "Authenticate")
			return
		}
		serve(w, r)
	})
}

// settings tells what the page explains to its reader.
func (a api) settings(w http.ResponseWriter, _ *http.Request) {
	answer(w, http.StatusOK, map[string]int64{"linger_ms": a.o.Linger.Milliseconds()})
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
	if !isServiceSID(service) {
		fail(w, http.StatusBadRequest, codeInvalid, "ServiceSid is not a service SID (IS and 32 hexadecimal digits)")
		return
	}
	if code, problem := checkIdentity(identity); problem != "" {
		fail(w, http.StatusBadRequest, code, problem)
		return
	}
	token, expires, err := a.o.Mint(service, identity, tokenTTL)
	switch {
	case errors.Is(err, ErrServiceNotFound):
		fail(w, http.StatusNotFound, codeNotFound, "The service "+service+" was not found")
	case err != nil:
		a.o.Log.Error("console token not minted", zap.String("service", service), zap.Error(err))
		fail(w, http.StatusInternalServerError, codeInternal, "The token could not be made; the server's log says why")
	default:
		answer(w, http.StatusOK, struct {
			Token     string    `json:"token"`
			ExpiresAt time.Time `json:"expires_at"`
		}{token, expires.UTC().Truncate(time.Second)})
	}
}

// sessions counts live sessions: query Identity, repeated.
func (a api) sessions(w http.ResponseWriter, r *http.Request) {
	service := r.PathValue("service")
	if !isServiceSID(service) {
		fail(w, http.StatusNotFound, codeNotFound, "The service was not found")
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
		if code, problem := checkIdentity(identity); problem != "" {
			fail(w, http.StatusBadRequest, code, problem)
			return
		}
		counts[identity] = 0
	}
	found, err := a.o.Sessions(r.Context(), service, identities)
	switch {
	case errors.Is(err, ErrServiceNotFound):
		fail(w, http.StatusNotFound, codeNotFound, "The service "+service+" was not found")
	case err != nil:
		if r.Context().Err() == nil { // a reader that left is not a fault
			a.o.Log.Warn("console sessions not counted", zap.String("service", service), zap.Error(err))
		}
		w.Header().Set("Retry-After", "1")
		fail(w, http.StatusServiceUnavailable, codeUnavailable, "Sessions cannot be counted right now")
	default:
		for identity := range counts { // only what was asked for
			counts[identity] = found[identity]
		}
		answer(w, http.StatusOK, map[string]map[string]int{"sessions": counts})
	}
}

func checkIdentity(identity string) (code int, problem string) {
	switch {
	case identity == "":
		return codeNoIdentity, "Identity is not given"
	case len(identity) > maxIdentity:
		return codeLongIdentity, "Identity is longer than " + strconv.Itoa(maxIdentity) + " bytes"
	case !utf8.ValidString(identity):
		return codeInvalid, "Identity is not valid UTF-8"
	}
	return 0, ""
}

func isServiceSID(s string) bool {
	if len(s) != 34 || s[:2] != "IS" {
		return false
	}
	for _, c := range []byte(s[2:]) {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') && (c < 'A' || c > 'F') {
			return false
		}
	}
	return true
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

// Package console serves the live page: a single page, embedded in the binary,
// on which an operator signs in, picks a service, flips its reachability switch
// and watches users come and go.
//
// The page is a client like any other. It reads and changes resources over the
// REST API and follows users over the native WebSocket protocol. The one thing
// it may not hold is the secret that signs access tokens, so this package mints
// them for it, to callers with account credentials only.
package console

import (
	"context"
	"net/http"
	"time"

	"go.uber.org/zap"
)

// Options is what the page needs from the rest of the gateway. All but Log are
// required, and all are called concurrently. Errors are answered by their
// presence.Kind (404, 503, else 500); their text is logged, never shown.
type Options struct {
	// Authenticate returns nil if the request carries valid account credentials
	// (HTTP Basic) and may be served; else an error of KindUnauthenticated, or of
	// KindLimited with Retry. It must not write an answer.
	Authenticate func(r *http.Request) error

	// Mint makes an access token with which identity can open sessions in
	// service for ttl.
	Mint func(service, identity string, ttl time.Duration) (token string, expires time.Time, err error)

	// Sessions counts the live sessions of each identity, on all nodes. An
	// identity without one may be left out. It must end soon after ctx does.
	Sessions func(ctx context.Context, service string, identities []string) (map[string]int, error)

	// Linger tells how long a user of service whose last session was lost is
	// still shown online. The page only tells its reader.
	Linger func(ctx context.Context, service string) (time.Duration, error)

	// Log receives failures. Nil discards them.
	Log *zap.Logger
}

// Handler serves the page at /console, its assets at /console/<name> and its
// own endpoints below /console/api/. Every answer carries headers that keep
// other origins, frames and injected scripts out, whatever an identity contains.
// It panics when a required option is missing.
func Handler(o Options) http.Handler {
	if o.Authenticate == nil || o.Mint == nil || o.Sessions == nil || o.Linger == nil {
		panic("console: Authenticate, Mint, Sessions and Linger are required")
	}
	if o.Log == nil {
		o.Log = zap.NewNop()
	}
	a := api{o}
	mux := http.NewServeMux()
	mux.Handle("/console", loadPage())
	mux.Handle("/console/{asset}", loadPage())
	mux.HandleFunc("/console/{$}", func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "../console", http.StatusPermanentRedirect)
	})
	mux.Handle("/console/api/token", a.endpoint(http.MethodPost, a.token))
	mux.Handle("/console/api/services/{service}/settings", a.endpoint(http.MethodGet, a.settings))
	mux.Handle("/console/api/services/{service}/sessions", a.endpoint(http.MethodGet, a.sessions))
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		fail(w, http.StatusNotFound, codeNotFound, "The requested resource was not found")
	})
	return harden(mux)
}

// policy lets the page load its own files and talk to its own origin ('self'
// covers ws and wss of the same host), and nothing else. Trusted types make
// every way from a string to markup or script throw.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; " +
	"base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"

func harden(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", policy)
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("X-Frame-Options", "DENY")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		h.Set("Permissions-Policy", "camera=(), geolocation=(), microphone=()")
		next.ServeHTTP(w, r)
	})
}

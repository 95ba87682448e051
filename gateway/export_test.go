package gateway

import "net/http"

// OriginAllowed is originAllowed.
var OriginAllowed = originAllowed

// Household is household.
var Household = household

// Wake is Session.wake.
var Wake = (*Session).wake

// ReadPlain is readPlain of a Server with one socket; its request has the peer's address once
// it is asked for.
func ReadPlain(p Protocol, path string, b []byte) (*http.Request, []byte) {
	s := &Server{opt: Options{Sockets: map[string]Protocol{path: p}}}
	_, r, rest := s.readPlain(b)
	return r, rest
}

// PlainFrame is plainFrame.
var PlainFrame = plainFrame

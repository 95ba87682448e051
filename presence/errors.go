package presence

import (
	"errors"
	"time"
)

// Kind says what sort of failure an error is. It decides HTTP status and close
// code at the edge; the zero value is KindInternal, so nothing leaks by default.
type Kind uint8

// The kinds of failure.
const (
	KindInternal Kind = iota
	KindInvalid
	KindUnauthenticated
	KindDenied
	KindNotFound
	KindConflict
	KindLimited
	KindUnavailable // the store cannot be reached; what it would say is unknown
)

// Error is what leaves the package and its stores.
type Error struct {
	Op   string // "open"
	Kind Kind
	Err  error // for logs; may be nil
	// Retry is when what was limited may be tried again; 0 if that is not known.
	Retry time.Duration
}

func (e *Error) Error() string {
	if e.Err == nil {
		return e.Op
	}
	return e.Op + ": " + e.Err.Error()
}

func (e *Error) Unwrap() error { return e.Err }

// KindOf is the Kind of the first Error in err's chain, KindInternal if there is
// none.
func KindOf(err error) Kind {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Kind
	}
	return KindInternal
}

// Conditions that callers branch on.
var (
	ErrIdentityEmpty    = &Error{Op: "identity is empty", Kind: KindInvalid}
	ErrIdentityTooLong  = &Error{Op: "identity is too long", Kind: KindInvalid}
	ErrIdentityEncoding = &Error{Op: "identity is not valid UTF-8", Kind: KindInvalid}

	ErrFriendlyName      = &Error{Op: "friendly name is too long", Kind: KindInvalid}
	ErrAttributesTooLong = &Error{Op: "attributes are too long", Kind: KindInvalid}
	ErrAttributes        = &Error{Op: "attributes are not JSON", Kind: KindInvalid}
	ErrAttributesDepth   = &Error{Op: "attributes are nested too deeply", Kind: KindInvalid}

	ErrNoService  = &Error{Op: "no such service", Kind: KindNotFound}
	ErrNoUser     = &Error{Op: "no such user", Kind: KindNotFound}
	ErrUserExists = &Error{Op: "user already exists", Kind: KindConflict}
	// ErrDefaultService tells that the default service cannot be deleted.
	ErrDefaultService = &Error{Op: "the default service cannot be deleted", Kind: KindConflict}
	ErrNoRole         = &Error{Op: "no such role", Kind: KindNotFound}
	// ErrDefaultRole tells that a role cannot be deleted: new users or conversations get it.
	ErrDefaultRole  = &Error{Op: "a default role cannot be deleted", Kind: KindConflict}
	ErrTooManyRoles = &Error{Op: "the service has too many roles", Kind: KindConflict}
	ErrNoKey        = &Error{Op: "no such API key", Kind: KindNotFound}
	ErrTooManyKeys  = &Error{Op: "there are too many API keys", Kind: KindConflict}
	// ErrTooManyRevocations tells that the limit of those in force is reached; they end by themselves.
	ErrTooManyRevocations = &Error{Op: "there are too many revocations in force", Kind: KindConflict}
	// ErrRejected tells that the service's backend, asked before a change, would not have it.
	ErrRejected = &Error{Op: "the service's backend rejected the change", Kind: KindDenied}
	// ErrAsking tells that the service's backend is being asked about as many changes as it may be.
	ErrAsking = &Error{Op: "the service's backend is asked too much", Kind: KindUnavailable}
	// ErrEnded tells that the session was ended by an operator (its user or service
	// was deleted) and must not be registered again.
	ErrEnded = &Error{Op: "session was ended", Kind: KindDenied}
)

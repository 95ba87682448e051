package presence

import (
	"context"
	"slices"
	"time"
	"unicode/utf8"
)

// Bounds of push registrations.
const (
	// MaxAddress is the longest address of a binding, in bytes of UTF-8.
	MaxAddress = 4096
	// MaxBindings is how many bindings a user may have.
	MaxBindings = 20
	// MinBindingLife and MaxBindingLife bound how long a binding lives without being
	// registered again. MaxBindingLife is also what it lives if nothing is said.
	MinBindingLife = time.Minute
	MaxBindingLife = 365 * 24 * time.Hour
	// MaxCredentialName is the longest friendly name of a credential, in characters.
	MaxCredentialName = 64
)

// PushType is the push service that a binding or a credential is for.
type PushType string

// The push services. Credentials are of any but PushWeb, whose bindings have none.
const (
	PushAPN PushType = "apn"
	PushFCM PushType = "fcm"
	PushGCM PushType = "gcm"
	PushWeb PushType = "webpush"
)

// PushTypes is every PushType.
func PushTypes() []PushType { return []PushType{PushAPN, PushFCM, PushGCM, PushWeb} }

// MessageTypes is everything that a binding can ask to be pushed.
func MessageTypes() []string {
	return []string{"new_message", "added_to_conversation", "removed_from_conversation"}
}

// Binding is a push registration of a user's device, as stored. An address is bound
// once in a service: who registers it next has it from then on.
type Binding struct {
	Key
	SID          string // BS SID; the same whenever the same user registers the same address
	Type         PushType
	Address      string
	Credential   string // CR SID; "" for none
	MessageTypes []string

	Created, Updated, Expires time.Time
}

// Registration is what a device asks for.
type Registration struct {
	Type         PushType
	Address      string        // 1 to MaxAddress bytes
	Credential   string        // CR SID of a credential of that type; "" for none
	MessageTypes []string      // of MessageTypes; empty for all
	Life         time.Duration // MinBindingLife to MaxBindingLife; 0 for MaxBindingLife
}

// Check returns nil for a registration that may be made, so far as it can be told
// without the store: else ErrPushType, ErrAddress, ErrMessageTypes, ErrBindingLife
// or ErrNoCredential.
func (r Registration) Check() error {
	switch {
	case !slices.Contains(PushTypes(), r.Type):
		return ErrPushType
	case r.Address == "" || len(r.Address) > MaxAddress || !utf8.ValidString(r.Address):
		return ErrAddress
	case r.Life != 0 && (r.Life < MinBindingLife || r.Life > MaxBindingLife):
		return ErrBindingLife
	case r.Credential != "" && !IsSID(r.Credential, "CR"):
		return ErrNoCredential
	}
	known := MessageTypes()
	for _, m := range r.MessageTypes {
		if !slices.Contains(known, m) {
			return ErrMessageTypes
		}
	}
	return nil
}

// BindingFilter says which bindings of a service to list. Of each list an empty one
// lets all pass.
type BindingFilter struct {
	Types      []PushType
	Identities []string
}

// Pass reports whether the filter lets a binding pass.
func (f BindingFilter) Pass(b Binding) bool {
	return (len(f.Types) == 0 || slices.Contains(f.Types, b.Type)) && (len(f.Identities) == 0 || slices.Contains(f.Identities, b.Identity))
}

// Credential is what lets pushes be sent through a push service. Its secrets are
// stored, and never read back.
type Credential struct {
	SID          string // CR SID
	Account      string
	Type         PushType
	FriendlyName string
	Sandbox      bool // of APN only

	Created, Updated time.Time
}

// CredentialUpdate names what to set of a credential; nil keeps what is there.
type CredentialUpdate struct {
	FriendlyName                            *string
	Sandbox                                 *bool
	Certificate, PrivateKey, APIKey, Secret *string
}

// Bindings is what registers devices for push. It is safe for concurrent use.
type Bindings interface {
	// Bind registers an address for a user, who is notifiable from then on, and takes
	// it from whoever of the service had it before. It fails as Registration.Check
	// does, and with ErrNoService, ErrNoUser, ErrNoCredential, ErrCredentialType or
	// ErrTooManyBindings. To repeat it renews the binding.
	Bind(ctx context.Context, k Key, r Registration) (Binding, error)
	// Unbind removes a binding of a user; ErrNoService, ErrNoBinding. UnbindAddress
	// does so for the one with that address.
	Unbind(ctx context.Context, k Key, sid string) error
	UnbindAddress(ctx context.Context, k Key, t PushType, address string) error
}

// Conditions of bindings and credentials that callers branch on.
var (
	ErrPushType     = &Error{Op: "no such type of push service", Kind: KindInvalid}
	ErrAddress      = &Error{Op: "address is empty, too long, or not valid UTF-8", Kind: KindInvalid}
	ErrMessageTypes = &Error{Op: "no such message type", Kind: KindInvalid}
	ErrBindingLife  = &Error{Op: "a binding lives from a minute to a year", Kind: KindInvalid}

	ErrNoBinding = &Error{Op: "no such binding", Kind: KindNotFound}
	// ErrTooManyBindings tells that the user has MaxBindings already.
	ErrTooManyBindings = &Error{Op: "the user has too many bindings", Kind: KindConflict}
	ErrNoCredential    = &Error{Op: "no such credential", Kind: KindNotFound}
	// ErrCredentialType tells that the credential is for another push service.
	ErrCredentialType = &Error{Op: "the credential is for another push service", Kind: KindInvalid}
)

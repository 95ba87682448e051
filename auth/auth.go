// Package auth decides who may come in: clients with access tokens (Verifier), and
// callers of the REST API with account credentials or API keys (Basic, Guard). Keys
// made at run time and revoked tokens are in the Keyring.
//
// Tokens are those that the official Twilio helper libraries make. Nothing in this
// package logs, and no error it returns carries any part of a token or secret.
package auth

import (
	"crypto/sha256"
	"crypto/subtle"
)

// Key is an API key: it signs access tokens and authenticates REST calls. A Key
// without a secret matches nothing.
type Key struct {
	SID     string // SK SID
	Secret  string
	Account string // AC SID of the account it belongs to
}

// Keys finds API keys. It is asked for every token and REST call, so it must
// answer from memory, and be safe for concurrent use.
type Keys interface {
	// Key is the key with that SID; ok is false for one unknown or withdrawn.
	Key(sid string) (k Key, ok bool)
}

// Revoker is what Keys may be besides.
type Revoker interface {
	// Revoked reports whether the token that claims c was revoked. It is asked as
	// Keys are.
	Revoked(c Claims) bool
}

// StaticKeys are keys fixed at start, by SID.
type StaticKeys map[string]Key

// Key implements Keys.
func (s StaticKeys) Key(sid string) (Key, bool) {
	k, ok := s[sid]
	return k, ok
}

// Basic checks the user name and password of REST calls: the account's SID with
// its auth token, or an API key's SID with its secret. It is safe for concurrent
// use; the zero value refuses everybody.
type Basic struct {
	Account string // AC SID
	Token   string // auth token of the account; empty refuses the account's own login
	Keys    Keys   // may be nil
}

// Check reports whether the password is the user's, and which account the call is
// for. It takes the same time for a wrong password as for an unknown user.
func (b Basic) Check(user, password string) (account string, ok bool) {
	var want string
	if user == b.Account {
		account, want = b.Account, b.Token
	} else if b.Keys != nil {
		if k, found := b.Keys.Key(user); found {
			account, want = k.Account, k.Secret
		}
	}
	// Sums have one length, so the comparison tells nothing of the secret's.
	got, exp := sha256.Sum256([]byte(password)), sha256.Sum256([]byte(want))
	if same := subtle.ConstantTimeCompare(got[:], exp[:]) == 1; !same || want == "" || account == "" {
		return "", false
	}
	return account, true
}

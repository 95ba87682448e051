package auth_test

import (
	"testing"

	"github.com/rollcall-presence/rollcall/auth"
)

func TestBasic(t *testing.T) {
	full := auth.Basic{Account: account, Token: "tok", Keys: keys}
	for _, tc := range []struct {
		name           string
		basic          auth.Basic
		user, password string
		want           bool
	}{
		{"account", full, account, "tok", true},
		{"key", full, key.SID, key.Secret, true},
		{"key without an account token", auth.Basic{Account: account, Keys: keys}, key.SID, key.Secret, true},

		{"wrong token", full, account, "tok2", false},
		{"prefix of the token", full, account, "to", false},
		{"no password", full, account, "", false},
		{"secret of the key for the account", full, account, key.Secret, false},
		{"wrong secret", full, key.SID, "tok", false},
		{"unknown key", full, "SK11111111111111111111111111111111", key.Secret, false},
		{"key without a secret", full, emptied.SID, "", false},
		{"nobody", full, "", "", false},
		{"no keys", auth.Basic{Account: account, Token: "tok"}, key.SID, key.Secret, false},
		{"account without a token", auth.Basic{Account: account}, account, "", false},
		{"zero value", auth.Basic{}, "", "", false},
		{"token without an account", auth.Basic{Token: "tok"}, "", "tok", false},
	} {
		acc, ok := tc.basic.Check(tc.user, tc.password)
		if ok != tc.want || ok != (acc == account) {
			t.Errorf("%s: Check = %q, %v; want %v", tc.name, acc, ok, tc.want)
		}
	}
}

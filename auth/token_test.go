package auth_test

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/twilio/twilio-go/client/jwt"

	"github.com/rollcall-presence/rollcall/auth"
	"github.com/rollcall-presence/rollcall/presence"
)

const (
	account = "AC00112233445566778899aabbccddeeff"
	service = "IS0123456789abcdef0123456789abcdef"
	other   = "ISffffffffffffffffffffffffffffffff"
)

var (
	key     = auth.Key{SID: "SKffeeddccbbaa99887766554433221100", Secret: "nodeSecret0123456789", Account: account}
	emptied = auth.Key{SID: "SK00000000000000000000000000000000", Account: account}
	keys    = auth.StaticKeys{key.SID: key, emptied.SID: emptied}
	noon    = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
)

type object = map[string]any

func header() object { return object{"alg": "HS256", "typ": "JWT", "cty": "twilio-fpa;v=1"} }

func payload() object {
	return object{
		"jti": key.SID + "-1", "iss": key.SID, "sub": account,
		"iat": noon.Unix(), "nbf": noon.Unix(), "exp": noon.Unix() + 3600,
		"grants": object{"identity": "alice", "chat": object{"service_sid": service}},
	}
}

// with is m with one member replaced, or removed if value is nil.
func with(m object, name string, value any) object {
	m = maps.Clone(m)
	m[name] = value
	if value == nil {
		delete(m, name)
	}
	return m
}

func grants(g object) object { return with(payload(), "grants", g) }

func encode(t *testing.T, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return base64.RawURLEncoding.EncodeToString(b)
}

// signed joins two encoded parts and signs them, whatever they say.
func signed(head, body, secret string) string {
	h := hmac.New(sha256.New, []byte(secret))
	h.Write([]byte(head + "." + body))
	return head + "." + body + "." + base64.RawURLEncoding.EncodeToString(h.Sum(nil))
}

func token(t *testing.T, head, body object) string {
	t.Helper()
	return signed(encode(t, head), encode(t, body), key.Secret)
}

func TestVerifyTwilioGo(t *testing.T) {
	now := time.Now()
	for name, grant := range map[string]jwt.BaseGrant{
		"chat":         &jwt.ChatGrant{ServiceSid: service, PushCredentialSid: "CR0123456789abcdef0123456789abcdef"},
		"ip_messaging": &jwt.IpMessagingGrant{ServiceSid: service},
	} {
		t.Run(name, func(t *testing.T) {
			at := jwt.CreateAccessToken(jwt.AccessTokenParams{
				AccountSid: account, SigningKeySid: key.SID, Secret: key.Secret, Identity: "zoë/1 ☎",
				ValidUntil: float64(now.Unix() + 600),
			})
			at.AddGrant(grant)
			tok, err := at.ToJwt()
			if err != nil {
				t.Fatal(err)
			}
			got, err := auth.NewVerifier(keys).Verify(tok, now)
			if err != nil {
				t.Fatalf("Verify = %v; want nil", err)
			}
			want := auth.Claims{KeySID: key.SID, Account: account, Service: service, Identity: "zoë/1 ☎", Issued: time.Unix(now.Unix(), 0), Expires: time.Unix(now.Unix()+600, 0)}
			if name == "chat" {
				want.PushCredential = "CR0123456789abcdef0123456789abcdef"
			}
			// The library takes the time itself, and may have been in the next second.
			if late := got.Issued.Sub(want.Issued); late < 0 || late > time.Minute {
				t.Errorf("Issued = %v; want %v", got.Issued, want.Issued)
			}
			got.Issued = want.Issued
			if d := cmp.Diff(want, got); d != "" {
				t.Error(d)
			}
			if k := (presence.Key{Service: service, Identity: "zoë/1 ☎"}); got.Key() != k {
				t.Errorf("Key() = %v; want %v", got.Key(), k)
			}
		})
	}
}

// Made by twilio-node 6.2.0: new AccessToken(account, key.SID, key.Secret, {identity, ttl, nbf}).toJwt().
const (
	nodeMinted    = 1795361130
	nodeAlice     = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCIsImN0eSI6InR3aWxpby1mcGE7dj0xIn0.eyJqdGkiOiJTS2ZmZWVkZGNjYmJhYTk5ODg3NzY2NTU0NDMzMjIxMTAwLTE3OTUzNjExMjkiLCJncmFudHMiOnsiaWRlbnRpdHkiOiJhbGljZSIsImNoYXQiOnsic2VydmljZV9zaWQiOiJJUzAxMjM0NTY3ODlhYmNkZWYwMTIzNDU2Nzg5YWJjZGVmIn19LCJpYXQiOjE3OTUzNjExMjksImV4cCI6MTc5NTM2NDcyOSwiaXNzIjoiU0tmZmVlZGRjY2JiYWE5OTg4Nzc2NjU1NDQzMzIyMTEwMCIsInN1YiI6IkFDMDAxMTIyMzM0NDU1NjY3Nzg4OTlhYWJiY2NkZGVlZmYifQ.CwpFLRODKFqmDJFhmXEyFdlk6IbfmTg2rSaP4owuHdA"
	nodeZoeOneDay = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCIsImN0eSI6InR3aWxpby1mcGE7dj0xIn0.eyJqdGkiOiJTS2ZmZWVkZGNjYmJhYTk5ODg3NzY2NTU0NDMzMjIxMTAwLTE3OTUzNjExMjkiLCJncmFudHMiOnsiaWRlbnRpdHkiOiJ6b8OrLzEg4piOIiwiY2hhdCI6eyJzZXJ2aWNlX3NpZCI6IklTMDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWYifX0sIm5iZiI6MTc5NTM2MTEyOSwiaWF0IjoxNzk1MzYxMTI5LCJleHAiOjE3OTU0NDc1MjksImlzcyI6IlNLZmZlZWRkY2NiYmFhOTk4ODc3NjY1NTQ0MzMyMjExMDAiLCJzdWIiOiJBQzAwMTEyMjMzNDQ1NTY2Nzc4ODk5YWFiYmNjZGRlZWZmIn0.qOy9Mcf2_SnZS1MSqH6cDpAyHgGlSChIQa0KXKCdkPg"
)

func TestVerifyTwilioNode(t *testing.T) {
	for tok, identity := range map[string]string{nodeAlice: "alice", nodeZoeOneDay: "zoë/1 ☎"} {
		got, err := auth.NewVerifier(keys).Verify(tok, time.Unix(nodeMinted, 0))
		if err != nil || got.Identity != identity || got.Service != service {
			t.Errorf("Verify = %+v, %v; want identity %q of %s", got, err, identity, service)
		}
	}
}

func TestVerifyAccepts(t *testing.T) {
	for name, body := range map[string]object{
		"no nbf":                 with(payload(), "nbf", nil),
		"no iat":                 with(payload(), "iat", nil),
		"neither":                with(with(payload(), "nbf", nil), "iat", nil),
		"a whole day":            with(payload(), "exp", noon.Unix()+86400),
		"clock ahead by leeway":  with(with(payload(), "nbf", noon.Unix()+5), "exp", noon.Unix()+5+86400),
		"backdated nbf":          with(with(payload(), "nbf", noon.Unix()-300), "exp", noon.Unix()+86400),
		"fractions":              with(payload(), "exp", float64(noon.Unix())+0.5),
		"both grants, chat wins": grants(object{"identity": "alice", "chat": object{"service_sid": service}, "ip_messaging": object{"service_sid": other}}),
		"longest identity":       grants(object{"identity": strings.Repeat("a", presence.MaxIdentity), "chat": object{"service_sid": service}}),
	} {
		if got, err := auth.NewVerifier(keys).Verify(token(t, header(), body), noon); err != nil || got.Service != service {
			t.Errorf("%s: Verify = %+v, %v; want it accepted", name, got, err)
		}
	}
	if _, err := auth.NewVerifier(keys).Verify(token(t, with(header(), "twr", "us1"), payload()), noon); err != nil {
		t.Errorf("region in the header: %v; want it accepted", err)
	}
}

func TestVerifyRefuses(t *testing.T) {
	head, body := encode(t, header()), encode(t, payload())
	good := signed(head, body, key.Secret)
	raw := func(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) }
	chat := object{"service_sid": service}
	for _, tc := range []struct {
		name  string
		code  int
		token string
	}{
		{"empty", auth.CodeInvalid, ""},
		{"no dots", auth.CodeInvalid, "token"},
		{"two parts", auth.CodeInvalid, head + "." + body},
		{"four parts", auth.CodeInvalid, good + ".x"},
		{"padding", auth.CodeInvalid, good + "="},
		{"line break", auth.CodeInvalid, good[:20] + "\n" + good[20:]},
		{"trailing bits", auth.CodeInvalid, good[:len(good)-1] + "B"},
		{"standard alphabet", auth.CodeInvalid, head + "." + body + ".++++"},
		{"too long", auth.CodeInvalid, token(t, header(), with(payload(), "x", strings.Repeat("x", 8<<10)))},
		{"payload no JSON", auth.CodeInvalid, signed(head, raw("{"), key.Secret)},
		{"payload null", auth.CodeInvalid, signed(head, raw("null"), key.Secret)},
		{"payload array", auth.CodeInvalid, signed(head, raw("[]"), key.Secret)},
		{"payload not UTF-8", auth.CodeInvalid, signed(head, raw("{\"iss\":\"\xff\"}"), key.Secret)},

		{"header no JSON", auth.CodeHeader, signed(raw("x"), body, key.Secret)},
		{"header null", auth.CodeHeader, signed(raw("null"), body, key.Secret)},
		{"no alg", auth.CodeHeader, token(t, with(header(), "alg", nil), payload())},
		{"alg none", auth.CodeHeader, token(t, with(header(), "alg", "none"), payload())},
		{"alg HS512", auth.CodeHeader, token(t, with(header(), "alg", "HS512"), payload())},
		{"alg hs256", auth.CodeHeader, token(t, with(header(), "alg", "hs256"), payload())},
		{"ALG only", auth.CodeHeader, token(t, with(with(header(), "alg", nil), "ALG", "HS256"), payload())},
		{"alg number", auth.CodeHeader, token(t, with(header(), "alg", 256), payload())},
		{"no typ", auth.CodeHeader, token(t, with(header(), "typ", nil), payload())},
		{"typ JWE", auth.CodeHeader, token(t, with(header(), "typ", "JWE"), payload())},
		{"no cty", auth.CodeHeader, token(t, with(header(), "cty", nil), payload())},
		{"cty v2", auth.CodeHeader, token(t, with(header(), "cty", "twilio-fpa;v=2"), payload())},
		{"crit", auth.CodeHeader, token(t, with(header(), "crit", []string{"exp"}), payload())},

		{"no iss", auth.CodeIssuer, token(t, header(), with(payload(), "iss", nil))},
		{"unknown iss", auth.CodeIssuer, token(t, header(), with(payload(), "iss", "SK11111111111111111111111111111111"))},
		{"iss number", auth.CodeIssuer, token(t, header(), with(payload(), "iss", 1))},
		{"no sub", auth.CodeIssuer, token(t, header(), with(payload(), "sub", nil))},
		{"another sub", auth.CodeIssuer, token(t, header(), with(payload(), "sub", "AC11111111111111111111111111111111"))},
		{"key without a secret", auth.CodeIssuer, signed(head, encode(t, with(payload(), "iss", emptied.SID)), "")},

		{"other secret", auth.CodeSignature, signed(head, body, "another")},
		{"empty secret", auth.CodeSignature, signed(head, body, "")},
		{"no signature", auth.CodeSignature, head + "." + body + "."},
		{"short signature", auth.CodeSignature, head + "." + body + ".AAAA"},
		{"payload swapped", auth.CodeSignature, head + "." + encode(t, grants(object{"identity": "eve", "chat": chat})) + good[strings.LastIndexByte(good, '.'):]},
		{"bad grants, bad signature", auth.CodeSignature, signed(head, encode(t, with(payload(), "grants", nil)), "another")},

		{"no exp", auth.CodeExpired, token(t, header(), with(payload(), "exp", nil))},
		{"exp null", auth.CodeExpired, signed(head, raw(`{"iss":"`+key.SID+`","sub":"`+account+`","exp":null}`), key.Secret)},
		{"exp text", auth.CodeExpired, token(t, header(), with(payload(), "exp", "tomorrow"))},
		{"exp negative", auth.CodeExpired, token(t, header(), with(payload(), "exp", -1))},
		{"exp huge", auth.CodeExpired, token(t, header(), with(payload(), "exp", 1e300))},
		{"exp now", auth.CodeExpired, token(t, header(), with(payload(), "exp", noon.Unix()))},
		{"exp zero", auth.CodeExpired, token(t, header(), with(payload(), "exp", 0))},
		{"over a day from now", auth.CodeExpired, token(t, header(), with(with(payload(), "iat", noon.Unix()+9), "exp", noon.Unix()+86406))},
		{"over a day from iat", auth.CodeExpired, token(t, header(), with(with(payload(), "iat", noon.Unix()-7200), "exp", noon.Unix()+86400))},
		{"over a day from nbf", auth.CodeExpired, token(t, header(), with(with(with(payload(), "iat", nil), "nbf", noon.Unix()-7200), "exp", noon.Unix()+86400))},
		{"iat text", auth.CodeExpired, token(t, header(), with(payload(), "iat", "now"))},

		{"nbf text", auth.CodeNotYetValid, token(t, header(), with(payload(), "nbf", "now"))},
		{"nbf ahead", auth.CodeNotYetValid, token(t, header(), with(payload(), "nbf", noon.Unix()+6))},

		{"no grants", auth.CodeGrants, token(t, header(), with(payload(), "grants", nil))},
		{"grants text", auth.CodeGrants, token(t, header(), with(payload(), "grants", "all"))},
		{"no identity", auth.CodeGrants, token(t, header(), grants(object{"chat": chat}))},
		{"empty identity", auth.CodeGrants, token(t, header(), grants(object{"identity": "", "chat": chat}))},
		{"identity number", auth.CodeGrants, token(t, header(), grants(object{"identity": 7, "chat": chat}))},
		{"long identity", auth.CodeGrants, token(t, header(), grants(object{"identity": strings.Repeat("a", presence.MaxIdentity+1), "chat": chat}))},
		{"identity of half a pair", auth.CodeInvalid, token(t, header(), grants(object{"identity": json.RawMessage(`"a\ud800"`), "chat": chat}))},
		{"identity like a SID", auth.CodeGrants, token(t, header(), grants(object{"identity": "US0123456789abcdef0123456789abcdef", "chat": chat}))},
		{"no chat grant", auth.CodeGrants, token(t, header(), grants(object{"identity": "alice", "video": object{}}))},
		{"chat null", auth.CodeGrants, token(t, header(), grants(object{"identity": "alice", "chat": json.RawMessage("null")}))},
		{"no service", auth.CodeGrants, token(t, header(), grants(object{"identity": "alice", "chat": object{}}))},
		{"service name", auth.CodeGrants, token(t, header(), grants(object{"identity": "alice", "chat": object{"service_sid": "default"}}))},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := auth.NewVerifier(keys).Verify(tc.token, noon)
			e, ok := errors.AsType[*auth.Error](err)
			if !ok || e.Code != tc.code {
				t.Fatalf("Verify = %+v, %v; want code %d", got, err, tc.code)
			}
			if got != (auth.Claims{}) {
				t.Errorf("refused token yields claims %+v", got)
			}
			if k := presence.KindOf(err); k != presence.KindUnauthenticated {
				t.Errorf("KindOf = %v; want KindUnauthenticated", k)
			}
		})
	}
}

func TestMint(t *testing.T) {
	v := auth.NewVerifier(keys)
	tok, err := auth.Mint(key, service, "bob \"<b>\"", noon, 90*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	got, err := v.Verify(tok, noon)
	if err != nil {
		t.Fatal(err)
	}
	want := auth.Claims{KeySID: key.SID, Account: account, Service: service, Identity: "bob \"<b>\"", Issued: noon, Expires: noon.Add(90 * time.Second)}
	if d := cmp.Diff(want, got, cmp.Comparer(time.Time.Equal)); d != "" {
		t.Error(d)
	}
	again, err := auth.Mint(key, service, "bob \"<b>\"", noon, 90*time.Second)
	if err != nil || again == tok {
		t.Errorf("a second Mint = the same token, %v; want another jti", err)
	}
	if tok, err = auth.Mint(key, service, "bob", noon, auth.MaxLifetime); err != nil {
		t.Fatal(err)
	}
	if _, err = v.Verify(tok, noon); err != nil {
		t.Errorf("Verify of a token of the longest life = %v; want nil", err)
	}

	for name, mint := range map[string]func() (string, error){
		"no key":             func() (string, error) { return auth.Mint(auth.Key{}, service, "bob", noon, time.Hour) },
		"key without secret": func() (string, error) { return auth.Mint(emptied, service, "bob", noon, time.Hour) },
		"no service":         func() (string, error) { return auth.Mint(key, "", "bob", noon, time.Hour) },
		"no identity":        func() (string, error) { return auth.Mint(key, service, "", noon, time.Hour) },
		"identity like a SID": func() (string, error) {
			return auth.Mint(key, service, "US0123456789abcdef0123456789abcdef", noon, time.Hour)
		},
		"too long":  func() (string, error) { return auth.Mint(key, service, "bob", noon, 25*time.Hour) },
		"too short": func() (string, error) { return auth.Mint(key, service, "bob", noon, 999*time.Millisecond) },
	} {
		if tok, err := mint(); err == nil {
			t.Errorf("%s: Mint = %q; want an error", name, tok)
		}
	}
}

// FuzzVerify holds that whatever arrives is answered, that a refusal is one of the
// known ones, and that nothing of the token shows in it.
func FuzzVerify(f *testing.F) {
	for _, tok := range []string{"", "..", nodeAlice, nodeZoeOneDay, nodeAlice[:100], strings.Repeat(".", 9000), "e30.e30.", "eyJhbGciOiJub25lIn0.e30."} {
		f.Add(tok)
	}
	v := auth.NewVerifier(keys)
	f.Fuzz(func(t *testing.T, tok string) {
		c, err := v.Verify(tok, time.Unix(nodeMinted, 0))
		if err == nil {
			if tok != nodeAlice && tok != nodeZoeOneDay {
				t.Fatalf("forged token accepted as %+v: %q", c, tok)
			}
			return
		}
		e, ok := errors.AsType[*auth.Error](err)
		if !ok || e.Code < auth.CodeInvalid || e.Code > auth.CodeSignature {
			t.Fatalf("Verify = %v; want an *auth.Error", err)
		}
	})
}

// FuzzClaims signs whatever payload comes: one that is accepted must name a user
// that may exist, and a time within the cap.
func FuzzClaims(f *testing.F) {
	for _, body := range []object{payload(), grants(object{"identity": "a\x00b", "ip_messaging": object{"service_sid": service}}), with(payload(), "exp", 1e18)} {
		b, err := json.Marshal(body)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Add([]byte(`{"iss":"` + key.SID + `","sub":"` + account + `","exp":1e999,"grants":[]}`))
	v := auth.NewVerifier(keys)
	head := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"HS256","typ":"JWT","cty":"twilio-fpa;v=1"}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		c, err := v.Verify(signed(head, base64.RawURLEncoding.EncodeToString(body), key.Secret), noon)
		if err != nil {
			if _, ok := errors.AsType[*auth.Error](err); !ok {
				t.Fatalf("Verify = %v; want an *auth.Error", err)
			}
			return
		}
		left := c.Expires.Sub(noon)
		if presence.CheckIdentity(c.Identity) != nil || !presence.IsSID(c.Service, "IS") || c.Account != account ||
			left <= 0 || left > auth.MaxLifetime+auth.Leeway {
			t.Fatalf("accepted %+v from %q", c, body)
		}
	})
}

// FuzzObject: an object is read as encoding/json reads it, whichever way it goes.
func FuzzObject(f *testing.F) {
	for _, seed := range []string{
		`{"a":"x","b":1795361130}`, `{"a":"x","a":null,"b":1.5}`, `{"a":"\ud800"}`, `{"\u0061":"\"","b":-0}`, "{\"a\":\"\xff\"}", `{"b":1e9}`, `{"b":10000000000}`,
		`{"A":"x","b":null}`, `{"a":{"a":["x"]},"b":"1"}`, `null`, `[]`, `{} {}`, ` {"a" : "b"} `, `{"b":9223372036854775808}`, `{"b":01}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		got, ok := auth.ReadObject(data, "a", "b")
		want, wanted := auth.ReadAny(data, "a", "b")
		if ok != wanted {
			t.Fatalf("%q: decode = %v; want %v", data, ok, wanted)
		}
		if diff := cmp.Diff(want, got); ok && diff != "" {
			t.Fatalf("%q (-want +got):\n%s", data, diff)
		}
	})
}

// TestVerifyAllocations: a token is read without reflection, whose maps and copies would be more
// than all else that letting a session in allocates.
func TestVerifyAllocations(t *testing.T) {
	v := auth.NewVerifier(keys)
	if got := testing.AllocsPerRun(100, func() {
		if _, err := v.Verify(nodeAlice, time.Unix(nodeMinted, 0)); err != nil {
			t.Fatal(err)
		}
	}); got > 30 {
		t.Errorf("Verify allocates %v times; want at most 30", got)
	}
}

func BenchmarkVerify(b *testing.B) {
	v := auth.NewVerifier(keys)
	now := time.Unix(nodeMinted, 0)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := v.Verify(nodeAlice, now); err != nil {
			b.Fatal(err)
		}
	}
}

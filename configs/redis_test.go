package configs_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/rollcall-presence/rollcall/configs"
)

func TestRedisURL(t *testing.T) {
	type result struct {
		Addrs              []string
		DB                 int
		User, Pass, Master string
		SentinelPass       string
		Cluster, TLS       bool
	}
	for in, tc := range map[string]struct {
		want  result
		shown string
	}{
		"redis://localhost":                {result{Addrs: []string{"localhost:6379"}}, "redis://localhost:6379"},
		"redis://h:1/2":                    {result{Addrs: []string{"h:1"}, DB: 2}, "redis://h:1/2"},
		"redis://h:1?db=3":                 {result{Addrs: []string{"h:1"}, DB: 3}, "redis://h:1?db=3"},
		"redis://[::1]:7/":                 {result{Addrs: []string{"[::1]:7"}}, "redis://[::1]:7"},
		"redis://[::1]":                    {result{Addrs: []string{"[::1]:6379"}}, "redis://[::1]:6379"},
		"redis://:p%2Fw@h":                 {result{Addrs: []string{"h:6379"}, Pass: "p/w"}, "redis://:********@h:6379"},
		"redis://u:p@w@h":                  {result{Addrs: []string{"h:6379"}, User: "u", Pass: "p@w"}, "redis://u:********@h:6379"},
		"rediss://h":                       {result{Addrs: []string{"h:6379"}, TLS: true}, "rediss://h:6379"},
		"redis+sentinel://a,b:5/main?db=4": {result{Addrs: []string{"a:26379", "b:5"}, Master: "main", DB: 4}, "redis+sentinel://a:26379,b:5/main?db=4"},
		"redis+cluster://u:p@a,b,c":        {result{Addrs: []string{"a:6379", "b:6379", "c:6379"}, User: "u", Pass: "p", Cluster: true}, "redis+cluster://u:********@a:6379,b:6379,c:6379"},
		"rediss+cluster://a":               {result{Addrs: []string{"a:6379"}, Cluster: true, TLS: true}, "rediss+cluster://a:6379"},
		"redis+sentinel://a/m?sentinel_password=xyz": {
			result{Addrs: []string{"a:26379"}, Master: "m", SentinelPass: "xyz"},
			"redis+sentinel://a:26379/m?sentinel_password=%2A%2A%2A%2A%2A%2A%2A%2A",
		},
	} {
		o, err := configs.RedisURL(in).Options()
		if err != nil {
			t.Errorf("Options(%s): %v", in, err)
			continue
		}
		got := result{
			Addrs: o.Addrs, DB: o.DB, User: o.Username, Pass: o.Password, Master: o.MasterName,
			SentinelPass: o.SentinelPassword, Cluster: o.IsClusterMode, TLS: o.TLSConfig != nil,
		}
		if diff := cmp.Diff(tc.want, got); diff != "" {
			t.Errorf("Options(%s) differs (-want +got):\n%s", in, diff)
		}
		if got := configs.RedisURL(in).String(); got != tc.shown {
			t.Errorf("String(%s) = %s; want %s", in, got, tc.shown)
		}
	}
}

func TestRedisURLRefuses(t *testing.T) {
	const password = "hunter2"
	for in, want := range map[string]string{
		"":                                     "is not a store",
		"localhost:6379":                       "is not a store",
		"http://localhost":                     "is not a store",
		"redis://":                             "has the host",
		"redis://h:0":                          "has the host",
		"redis://h:65536":                      "has the host",
		"redis://a,b":                          "several hosts",
		"redis://h/x":                          "names the database",
		"redis://h/-1":                         "names the database",
		"redis://h/1?db=2":                     "names its database twice",
		"redis://h?db=1&db=2":                  "more than once",
		"redis://h?ca=x":                       `the parameter "ca"`,
		"redis://h?timeout=3s":                 `the parameter "timeout"`,
		"rediss://h?cert=x":                    "only one of ?cert= and ?key=",
		"rediss://h?ca=/nonexistent":           "cannot be read",
		"rediss://h?cert=/nonexistent&key=/no": "cannot be used",
		"redis+sentinel://a,b":                 "needs the name of the master",
		"redis+cluster://a/0":                  "a cluster has only one",
		"redis+cluster://a,,b":                 "has the host",
		"redis://u:hunter2%@h":                 "stray %",
		"redis://u:hunter2/x@h":                "has an @ after the hosts",
		"redis://u:x/hunter2@h":                "has an @ after the hosts",
		"redis://u:x?hunter2@h":                "has an @ after the hosts",
		"redis://u:x@y/hunter2@h":              "has an @ after the hosts",
		"redis://u:hunter2@h:x":                "has the host",
	} {
		_, err := configs.RedisURL(in).Options()
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Options(%s) = %v; want an error with %q", in, err, want)
			continue
		}
		if shown := configs.RedisURL(in).String(); strings.Contains(err.Error()+shown, password) {
			t.Errorf("Options(%s) = %v, shown as %s: the password shows", in, err, shown)
		}
	}
}

func TestRedisURLCertificates(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	certFile, keyFile := filepath.Join(t.TempDir(), "cert.pem"), filepath.Join(t.TempDir(), "key.pem")
	for name, block := range map[string]*pem.Block{
		certFile: {Type: "CERTIFICATE", Bytes: cert},
		keyFile:  {Type: "PRIVATE KEY", Bytes: der},
	} {
		if err := os.WriteFile(name, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	o, err := configs.RedisURL("rediss://h?ca=" + certFile + "&cert=" + certFile + "&key=" + keyFile).Options()
	if err != nil {
		t.Fatal(err)
	}
	if o.TLSConfig.RootCAs == nil || len(o.TLSConfig.Certificates) != 1 {
		t.Errorf("TLSConfig has roots %v and %d certificates; want roots and 1", o.TLSConfig.RootCAs, len(o.TLSConfig.Certificates))
	}
	if _, err := configs.RedisURL("rediss://h?ca=" + keyFile).Options(); err == nil || !strings.Contains(err.Error(), "without a certificate") {
		t.Errorf("a key as ?ca= gives %v; want an error", err)
	}
}

func FuzzRedisURL(f *testing.F) {
	for _, s := range []string{
		"embedded", "redis://u:p@h:1/2", "rediss://h?db=1", "redis+sentinel://a,b:5/m?db=4&sentinel_password=s",
		"redis+cluster://a,[::1]:2", "redis://%zz@h", "redis://@@//??",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if strings.Contains(s, "ca=") || strings.Contains(s, "cert=") {
			return // names files
		}
		u := configs.RedisURL(s)
		shown := u.String()
		o, err := u.Options()
		if err != nil {
			return
		}
		if len(o.Addrs) == 0 || o.DB < 0 {
			t.Errorf("Options(%q) has addresses %q and database %d", s, o.Addrs, o.DB)
		}
		again, err := configs.RedisURL(shown).Options()
		if err != nil {
			t.Fatalf("%q is shown as %q, which does not parse: %v", s, shown, err)
		}
		if diff := cmp.Diff(o.Addrs, again.Addrs); diff != "" || again.DB != o.DB || again.MasterName != o.MasterName {
			t.Errorf("%q is shown as %q, which means something else", s, shown)
		}
	})
}

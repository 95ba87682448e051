package testkit

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

// Secured is a redis-server that speaks TLS only, asks for a client's certificate, and knows
// one user by ACL beside the default one, which has no rights.
type Secured struct {
	*Server
	CA, Cert, Key  string // PEM files: who signed all, and what a client shows
	User, Password string
}

// StartSecured starts one whose user has the rights that rules tell, such as "~rc:* +get".
func StartSecured(t testing.TB, rules string) *Secured {
	t.Helper()
	dir := t.TempDir()
	ca := newAuthority(t, dir)
	serverCert, serverKey := ca.issue(t, dir, "server")
	s := &Secured{CA: ca.file, User: "rollcall", Password: "s3cret/?@"}
	s.Cert, s.Key = ca.issue(t, dir, "client")
	acl := filepath.Join(dir, "users.acl")
	lines := "user default off\nuser admin on >admin ~* &* +@all\nuser " + s.User + " on >" + s.Password + " resetkeys resetchannels -@all " + rules + "\n"
	if err := os.WriteFile(acl, []byte(lines), 0o600); err != nil {
		t.Fatal(err)
	}
	pair, err := tls.LoadX509KeyPair(s.Cert, s.Key)
	if err != nil {
		t.Fatal(err)
	}
	opt := redis.Options{Username: "admin", Password: "admin", TLSConfig: &tls.Config{
		MinVersion: tls.VersionTLS12, RootCAs: ca.pool(), Certificates: []tls.Certificate{pair}, ServerName: "127.0.0.1",
	}}
	s.Server = launch(t, opt, func(_ testing.TB, dir, port string) []string {
		return []string{
			"--port", "0", "--tls-port", port, "--bind", "127.0.0.1", "--dir", dir, "--save", "", "--logfile", filepath.Join(dir, "redis.log"),
			"--tls-cert-file", serverCert, "--tls-key-file", serverKey, "--tls-ca-cert-file", ca.file, "--tls-auth-clients", "yes", "--aclfile", acl,
		}
	})
	return s
}

// URL is what the product is told.
func (s *Secured) URL() string {
	q := url.Values{"ca": {s.CA}, "cert": {s.Cert}, "key": {s.Key}}
	return "rediss://" + s.User + ":" + url.QueryEscape(s.Password) + "@" + s.Addr + "?" + q.Encode()
}

// authority signs the certificates of a test.
type authority struct {
	file string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	next int64
}

func newAuthority(t testing.TB, dir string) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	a := &authority{file: filepath.Join(dir, "ca.pem"), key: key, next: 2, cert: &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test authority"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}}
	der, err := x509.CreateCertificate(rand.Reader, a.cert, a.cert, &key.PublicKey, key)
	if err == nil {
		a.cert, err = x509.ParseCertificate(der)
	}
	if err != nil {
		t.Fatal(err)
	}
	writePEM(t, a.file, "CERTIFICATE", der)
	return a
}

func (a *authority) pool() *x509.CertPool {
	p := x509.NewCertPool()
	p.AddCert(a.cert)
	return p
}

// issue writes a certificate for 127.0.0.1 and its key.
func (a *authority) issue(t testing.TB, dir, name string) (certFile, keyFile string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	cert := &x509.Certificate{
		SerialNumber: big.NewInt(a.next), Subject: pkix.Name{CommonName: name}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	a.next++
	der, err := x509.CreateCertificate(rand.Reader, cert, a.cert, &key.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	certFile, keyFile = filepath.Join(dir, name+".pem"), filepath.Join(dir, name+"-key.pem")
	writePEM(t, certFile, "CERTIFICATE", der)
	writePEM(t, keyFile, "PRIVATE KEY", private)
	return certFile, keyFile
}

func writePEM(t testing.TB, file, kind string, der []byte) {
	t.Helper()
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
}

package gateway

import (
	"crypto/tls"
	"fmt"
	"os"
	"sync"
	"time"

	"go.uber.org/zap"
)

// certCheck is how often, at most, the files are looked at.
const certCheck = 2 * time.Second

// certificate is a key pair that follows its files.
type certificate struct {
	cert, key string
	log       *zap.Logger

	mu      sync.Mutex // guards the following
	pair    *tls.Certificate
	seen    [2]stamp // of the files when they were last read, well or not
	checked time.Time
}

type stamp struct {
	modified time.Time
	size     int64
}

func openCertificate(cert, key string, log *zap.Logger) (*certificate, error) {
	c := &certificate{cert: cert, key: key, log: log}
	c.seen, _ = c.stamps()
	c.checked = time.Now()
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		return nil, fmt.Errorf("TLS certificate: %w", err)
	}
	c.pair = &pair
	return c, nil
}

func (c *certificate) stamps() (s [2]stamp, err error) {
	for i, name := range [2]string{c.cert, c.key} {
		fi, err := os.Stat(name)
		if err != nil {
			return s, err
		}
		s[i] = stamp{fi.ModTime(), fi.Size()}
	}
	return s, nil
}

// get is tls.Config.GetCertificate. Changed files that do not make a pair, as while
// only one of them has been replaced, leave the pair that is in use.
func (c *certificate) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	if now.Sub(c.checked) < certCheck {
		return c.pair, nil
	}
	c.checked = now
	seen, err := c.stamps()
	if err == nil && seen == c.seen {
		return c.pair, nil
	}
	if err == nil {
		c.seen = seen
		var pair tls.Certificate
		if pair, err = tls.LoadX509KeyPair(c.cert, c.key); err == nil {
			c.pair = &pair
			c.log.Info("TLS certificate loaded", zap.String("file", c.cert))
			return c.pair, nil
		}
	}
	c.log.Warn("TLS certificate not loaded, keeping the old one", zap.String("file", c.cert), zap.Error(err))
	return c.pair, nil
}

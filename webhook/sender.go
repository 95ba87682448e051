package webhook

import (
	"context"
	"crypto/hmac"
	"crypto/sha1" //nolint:gosec // G505: what receivers of X-Twilio-Signature compute
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	// attemptTimeout is how long one request may take in all.
	attemptTimeout = 5 * time.Second
	// maxAnswer is how much of an answer is read; nothing in it matters.
	maxAnswer = 64 << 10
)

// The outcomes of an attempt: metric labels, and why a dead letter died.
const (
	outcomeOK          = "ok"
	outcomeRedirect    = "http_3xx"
	outcomeClient      = "http_4xx"
	outcomeServer      = "http_5xx"
	outcomeTimeout     = "timeout"
	outcomeBlocked     = "blocked"
	outcomeUnreachable = "unreachable"
	outcomeAborted     = "aborted" // this node is going away
)

var outcomes = []string{
	outcomeOK, outcomeRedirect, outcomeClient, outcomeServer, outcomeTimeout, outcomeBlocked, outcomeUnreachable, outcomeAborted,
}

// sender makes signed requests. It follows no redirect and uses no proxy.
type sender struct {
	client  *http.Client
	token   string
	timeout time.Duration
}

func newSender(opt Options) *sender {
	dialer := &net.Dialer{Timeout: attemptTimeout, Control: guard{opt.AllowedNetworks}.control, Resolver: opt.Resolver}
	return &sender{
		token: opt.AuthToken, timeout: attemptTimeout,
		client: &http.Client{
			Transport: &http.Transport{
				DialContext: dialer.DialContext, ForceAttemptHTTP2: true, DisableCompression: true,
				MaxIdleConns: opt.Concurrency, MaxIdleConnsPerHost: opt.TargetConcurrency, IdleConnTimeout: 30 * time.Second,
				TLSHandshakeTimeout: attemptTimeout, MaxResponseHeaderBytes: 64 << 10,
			},
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}
}

// send makes one request of a target and says what became of it.
func (s *sender) send(ctx context.Context, method, target, sid string, attempt int, params url.Values) string {
	limited, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	r, err := s.request(limited, method, target, params)
	if err != nil {
		return outcomeUnreachable
	}
	r.Header.Set("I-Twilio-Idempotency-Token", sid)
	r.Header.Set("X-Rollcall-Attempt", strconv.Itoa(attempt))
	res, err := s.client.Do(r)
	if err == nil {
		// To read on after a switch of protocols would be to wait for ever: the connection
		// is the caller's then, and knows of no deadline.
		if res.StatusCode != http.StatusSwitchingProtocols {
			_, err = io.CopyN(io.Discard, res.Body, maxAnswer)
		}
		if errors.Is(err, io.EOF) {
			err = nil
		}
		_ = res.Body.Close()
	}
	switch {
	case err == nil:
		return outcomeOf(res.StatusCode)
	case ctx.Err() != nil:
		return outcomeAborted
	case errors.Is(err, ErrBlocked):
		return outcomeBlocked
	case errors.Is(err, context.DeadlineExceeded) || limited.Err() != nil:
		return outcomeTimeout
	}
	if e, ok := errors.AsType[net.Error](err); ok && e.Timeout() {
		return outcomeTimeout
	}
	return outcomeUnreachable
}

func outcomeOf(status int) string {
	switch status / 100 {
	case 2:
		return outcomeOK
	case 4:
		return outcomeClient
	case 5:
		return outcomeServer
	}
	return outcomeRedirect
}

// request makes the signed request: a form for POST, else a query.
func (s *sender) request(ctx context.Context, method, target string, params url.Values) (*http.Request, error) {
	target = asSeen(target)
	body := ""
	if method == http.MethodGet {
		join := "?"
		if strings.Contains(target, "?") {
			join = "&"
		}
		target += join + params.Encode()
	} else {
		method, body = http.MethodPost, params.Encode()
	}
	r, err := http.NewRequestWithContext(ctx, method, target, strings.NewReader(body))
	if err != nil {
		return nil, err
	}
	r.Header.Set("User-Agent", "Rollcall")
	if method == http.MethodPost {
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded; charset=utf-8")
	} else {
		params = nil // they are in the URL
	}
	r.Header.Set("X-Twilio-Signature", twilioSignature(s.token, target, params))
	r.Header.Set("X-Rollcall-Signature", signature(s.token, time.Now().Unix(), target, body))
	return r, nil
}

// asSeen is a target's URL as its server sees it: without a fragment, and never
// without a path. Signatures are of that.
func asSeen(target string) string {
	target, _, _ = strings.Cut(target, "#")
	scheme, rest, _ := strings.Cut(target, "://")
	if i := strings.IndexAny(rest, "/?"); i < 0 {
		rest += "/"
	} else if rest[i] == '?' {
		rest = rest[:i] + "/" + rest[i:]
	}
	return scheme + "://" + rest
}

// twilioSignature is what the official helper libraries' validators compute: the
// base64 of the HMAC-SHA1 of the URL and, in the order of their names, the names and
// values of the form.
func twilioSignature(token, target string, form url.Values) string {
	mac := hmac.New(sha1.New, []byte(token))
	_, _ = io.WriteString(mac, target)
	names := make([]string, 0, len(form))
	for name := range form {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		_, _ = io.WriteString(mac, name+form.Get(name))
	}
	return base64.StdEncoding.EncodeToString(mac.Sum(nil))
}

// signature is our own: the time in seconds, and the HMAC-SHA256 of time, URL and
// body, joined by dots. A receiver that compares the time with its clock cannot be
// fooled by a request that was recorded.
func signature(token string, at int64, target, body string) string {
	mac := hmac.New(sha256.New, []byte(token))
	_, _ = fmt.Fprintf(mac, "%d.%s.%s", at, target, body)
	return fmt.Sprintf("t=%d,v1=%s", at, hex.EncodeToString(mac.Sum(nil)))
}

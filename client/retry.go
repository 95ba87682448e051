package client

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strconv"
	"time"

	"github.com/coder/websocket"
)

// CloseError is the end of a session by the server, with the WebSocket close code.
type CloseError struct {
	Code   int
	Reason string
	// Cause is the error frame that came before, if any.
	Cause *Error
}

func (e *CloseError) Error() string {
	if e.Cause != nil {
		return fmt.Sprintf("closed by the server: %s (%d): %v", e.Reason, e.Code, e.Cause)
	}
	return fmt.Sprintf("closed by the server: %s (%d)", e.Reason, e.Code)
}

// Unwrap returns the error frame.
func (e *CloseError) Unwrap() error {
	if e.Cause == nil {
		return nil
	}
	return e.Cause
}

// StatusError is an HTTP answer that did not open a WebSocket.
type StatusError struct {
	Status     int
	RetryAfter time.Duration // 0 if the server did not say
}

func (e *StatusError) Error() string {
	return fmt.Sprintf("the server answered %d %s to the WebSocket handshake", e.Status, http.StatusText(e.Status))
}

// maxHint bounds how long a server can send us away.
const maxHint = 5 * time.Minute

// retryRule says whether to come back after err, and what the server asks us to wait (0 if it does not). A hint that
// is exact was already spread over the clients by the server.
func retryRule(err error) (retry bool, hint time.Duration, exact bool) {
	if e, ok := errors.AsType[*CloseError](err); ok {
		switch code := websocket.StatusCode(e.Code); {
		case code >= 3500 && code <= 3999:
			return false, 0, false
		case code == websocket.StatusNormalClosure, code == websocket.StatusProtocolError,
			code == websocket.StatusInvalidFramePayloadData, code == websocket.StatusMessageTooBig:
			return false, 0, false // the same would happen again
		}
		var reason struct {
			RetryAfterMS int64 `json:"retry_after_ms"`
		}
		if json.Unmarshal([]byte(e.Reason), &reason) != nil || reason.RetryAfterMS <= 0 {
			return true, 0, false
		}
		return true, time.Duration(min(reason.RetryAfterMS, maxHint.Milliseconds())) * time.Millisecond, true
	}
	if e, ok := errors.AsType[*StatusError](err); ok {
		if e.Status >= 500 || e.Status == http.StatusTooManyRequests || e.Status == http.StatusRequestTimeout {
			return true, min(e.RetryAfter, maxHint), false
		}
		return false, 0, false
	}
	return true, 0, false
}

// retryAfter reads the header of that name, in seconds or as a date.
func retryAfter(header string, now time.Time) time.Duration {
	if seconds, err := strconv.ParseUint(header, 10, 31); err == nil {
		return time.Duration(seconds) * time.Second
	}
	if at, err := http.ParseTime(header); err == nil && at.After(now) {
		return at.Sub(now)
	}
	return 0
}

// backoff is the wait before attempt (0 for the first) with full jitter: anything up to base doubled attempt times,
// at most limit.
func backoff(attempt int, base, limit time.Duration) time.Duration {
	ceiling := limit
	if attempt < 32 && base<<attempt > 0 {
		ceiling = min(limit, base<<attempt)
	}
	return rand.N(ceiling + 1) //nolint:gosec // G404: jitter is no secret
}

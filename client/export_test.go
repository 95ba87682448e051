package client

import "time"

// MaxNamed and MaxIdentities bound what one request names.
const (
	MaxNamed      = maxNamed
	MaxIdentities = maxIdentities
)

// Chunk splits off as many identities as one request may name.
func Chunk(identities []string) (first, rest []string) { return chunk(identities) }

// EncodedSize is the most that identity can take in a request.
func EncodedSize(identity string) int { return encodedSize(identity) }

// Backoff is the wait before an attempt.
func Backoff(attempt int, base, limit time.Duration) time.Duration {
	return backoff(attempt, base, limit)
}

// RetryAfter reads a Retry-After header.
func RetryAfter(header string, now time.Time) time.Duration { return retryAfter(header, now) }

// Decode tells the types of the messages in frame.
func Decode(frame []byte) (types []string, err error) {
	err = decode(frame, func(m *message) error {
		types = append(types, m.Type)
		return nil
	})
	return types, err
}

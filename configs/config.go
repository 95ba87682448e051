// Package configs loads and validates a node's configuration, and holds the example files that go with it.
//
// Every setting has one name in three spellings: ping_interval in the YAML file, ROLLCALL_PING_INTERVAL in the
// environment, --ping-interval on the command line. The commented rollcall.yaml is the reference: it holds every
// setting with its default, and its comments are what --help and docs/configuration.md say.
package configs

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/rollcall-presence/rollcall/presence"
)

// Config is one node's configuration. It is plain data: copy it freely, do not change it while it is in use. The
// zero value is not valid; start from [Default] or [Load].
type Config struct {
	// Addr is where clients and the REST API are served. Load never leaves it empty.
	Addr string `key:"addr"`
	// AdminAddr is where metrics, health and profiles are served.
	AdminAddr string `key:"admin_addr"`
	// PublicURL is the scheme and host that clients see, for absolute URLs in answers; empty: taken from the request.
	PublicURL string `key:"public_url"`
	// ReadyFile is written atomically as JSON once the node serves; empty: no file.
	ReadyFile string `key:"ready_file"`
	// TLSCert and TLSKey are PEM files; both or neither.
	TLSCert string `key:"tls_cert"`
	TLSKey  string `key:"tls_key"`
	// AllowedOrigins are browser origins beyond the same host, with * as a wildcard.
	AllowedOrigins []string `key:"allowed_origins"`
	// TrustedProxies are the peers whose X-Forwarded-For is believed.
	TrustedProxies []netip.Prefix `key:"trusted_proxies"`

	AccountSID   string `key:"account_sid"`
	AuthToken    Secret `key:"auth_token"`
	APIKeySID    string `key:"api_key_sid"`
	APIKeySecret Secret `key:"api_key_secret"`

	RedisURL RedisURL `key:"redis_url"`
	// KeyPrefix starts every key and channel in Redis.
	KeyPrefix string `key:"key_prefix"`
	// Partitions is never 0 after Load.
	Partitions int `key:"partitions"`
	// NodeID is unique among the nodes that share a Redis; never empty after Load.
	NodeID string `key:"node_id"`

	LeaseTTL     time.Duration `key:"lease_ttl"`
	Heartbeat    time.Duration `key:"heartbeat"`
	Linger       time.Duration `key:"linger"`
	PingInterval time.Duration `key:"ping_interval"`
	PongTimeout  time.Duration `key:"pong_timeout"`
	HelloTimeout time.Duration `key:"hello_timeout"`
	// BatchDelay is 0 where no update waits.
	BatchDelay time.Duration `key:"batch_delay"`
	// WaitTimeout is 0 where nobody may wait.
	WaitTimeout  time.Duration `key:"wait_timeout"`
	DrainTimeout time.Duration `key:"drain_timeout"`
	// Handover is 0 for what HandoverTime computes.
	Handover time.Duration `key:"handover"`

	// Limits of one session.
	MaxFrame         Bytes `key:"max_frame"`
	MaxSubscriptions int   `key:"max_subscriptions"`
	MaxIdentities    int   `key:"max_identities"`
	RequestRate      int   `key:"request_rate"` // requests a second
	RequestBurst     int   `key:"request_burst"`
	MailboxBytes     Bytes `key:"mailbox_bytes"`

	// Limits of one node.
	MaxConnections int `key:"max_connections"`
	MaxWaiting     int `key:"max_waiting"`
	AcceptRate     int `key:"accept_rate"` // connections a second
	AcceptBurst    int `key:"accept_burst"`
	MaxStreams     int `key:"max_streams"`

	// Limits of the REST API.
	RESTRate        int           `key:"rest_rate"` // requests a second of a credential
	RESTBurst       int           `key:"rest_burst"`
	AddressRate     int           `key:"address_rate"` // requests a second of a client address
	AddressBurst    int           `key:"address_burst"`
	LockoutFailures int           `key:"lockout_failures"`
	LockoutTime     time.Duration `key:"lockout_time"`

	// Limits of a user.
	MaxIdentity   Bytes `key:"max_identity"`
	MaxAttributes Bytes `key:"max_attributes"`

	// Webhooks.
	WebhookAllowedNetworks   []netip.Prefix `key:"webhook_allowed_networks"`
	WebhookTargetConcurrency int            `key:"webhook_target_concurrency"`
	WebhookConcurrency       int            `key:"webhook_concurrency"`
	WebhookRetryFor          time.Duration  `key:"webhook_retry_for"`

	// VerifyInterval is the least time from one round of the self-check to the next; 0: there are none.
	VerifyInterval time.Duration `key:"verify_interval"`
	// VerifyRepair has the self-check repair what it finds.
	VerifyRepair bool `key:"verify_repair"`

	LogLevel  string `key:"log_level"`
	LogFormat string `key:"log_format"`
}

// Default returns the settings of rollcall.yaml, before those that depend on others (addr, partitions, node_id,
// the development credentials) are filled in.
func Default() Config {
	return Config{
		AdminAddr:        "127.0.0.1:9090",
		RedisURL:         Embedded,
		KeyPrefix:        "rc:",
		LeaseTTL:         10 * time.Second,
		Heartbeat:        3 * time.Second,
		Linger:           10 * time.Second,
		PingInterval:     25 * time.Second,
		PongTimeout:      8 * time.Second,
		HelloTimeout:     10 * time.Second,
		BatchDelay:       100 * time.Millisecond,
		WaitTimeout:      30 * time.Second,
		DrainTimeout:     25 * time.Second,
		MaxFrame:         64 << 10,
		MaxSubscriptions: 1000,
		MaxIdentities:    500,
		RequestRate:      50,
		RequestBurst:     200,
		MailboxBytes:     256 << 10,
		MaxConnections:   50000,
		MaxWaiting:       10000,
		AcceptRate:       1000,
		AcceptBurst:      2000,
		MaxStreams:       1000,
		RESTRate:         2000,
		RESTBurst:        4000,
		AddressRate:      2000,
		AddressBurst:     4000,
		LockoutFailures:  10,
		LockoutTime:      time.Minute,
		MaxIdentity:      256,
		MaxAttributes:    presence.DefaultAttributes,

		WebhookTargetConcurrency: 32,
		WebhookConcurrency:       1024,
		WebhookRetryFor:          24 * time.Hour,

		VerifyInterval: 15 * time.Minute,

		LogLevel:  "info",
		LogFormat: "json",
	}
}

// Secret is a string that prints as asterisks. Convert it with string(s) where the value itself is needed.
type Secret string

// String returns a mask, or nothing if s is empty.
func (s Secret) String() string {
	if s == "" {
		return ""
	}
	return "********"
}

// GoString masks s for %#v too.
func (s Secret) GoString() string { return strconv.Quote(s.String()) }

// Bytes is a number of bytes, written plain ("65536") or in binary units ("64KiB", "1MiB").
type Bytes int64

var byteUnits = []struct {
	suffix string
	size   Bytes
}{{"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}, {"B", 1}, {"", 1}}

// String writes b in the largest unit that divides it.
func (b Bytes) String() string {
	for _, u := range byteUnits {
		if b != 0 && b%u.size == 0 {
			return fmt.Sprintf("%d%s", b/u.size, u.suffix)
		}
	}
	return "0B"
}

func parseBytes(s string) (Bytes, error) {
	for _, u := range byteUnits {
		digits, ok := strings.CutSuffix(s, u.suffix)
		if !ok {
			continue
		}
		n, err := strconv.ParseInt(strings.TrimSpace(digits), 10, 64)
		if err != nil || n < 0 || n > int64(1<<62/u.size) {
			break
		}
		return Bytes(n) * u.size, nil
	}
	return 0, fmt.Errorf("%q is not a size: write it like 65536 or 64KiB", s)
}

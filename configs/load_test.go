package configs_test

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/rollcall-presence/rollcall/configs"
)

// compare looks into Config as it is, ignoring the random node name.
var compare = []cmp.Option{
	cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }),
	cmpopts.IgnoreFields(configs.Config{}, "NodeID"),
}

// credentials are valid ones for a real store.
var credentials = []string{
	"ROLLCALL_ACCOUNT_SID=AC00000000000000000000000000000001",
	"ROLLCALL_AUTH_TOKEN=token0001",
	"ROLLCALL_API_KEY_SID=SK00000000000000000000000000000002",
	"ROLLCALL_API_KEY_SECRET=secret0002",
}

func load(args []string, env ...string) (configs.Config, error) {
	fs := flag.NewFlagSet("rollcall", flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	return configs.Load(fs, args, env)
}

func writeFile(t *testing.T, text string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "rollcall.yaml")
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

func TestLoadNothingIsDevelopment(t *testing.T) {
	c, err := load(nil)
	if err != nil {
		t.Fatal(err)
	}
	want := configs.Default()
	want.Addr, want.Partitions = "127.0.0.1:8080", 16
	want.AccountSID, want.AuthToken = configs.DevAccountSID, configs.DevAuthToken
	want.APIKeySID, want.APIKeySecret = configs.DevAPIKeySID, configs.DevAPIKeySecret
	if diff := cmp.Diff(want, c, compare...); diff != "" {
		t.Errorf("Load() differs (-want +got):\n%s", diff)
	}
	if !c.Development() {
		t.Error("Development() = false; want true")
	}
	again, err := load(nil)
	if err != nil || again.NodeID == c.NodeID || c.NodeID == "" {
		t.Errorf("node ids %q and %q, error %v; want two different ones", c.NodeID, again.NodeID, err)
	}
}

func TestLoadRealStore(t *testing.T) {
	c, err := load(nil, append(credentials, "ROLLCALL_REDIS_URL=redis://localhost")...)
	if err != nil {
		t.Fatal(err)
	}
	if c.Addr != ":8080" || c.Partitions != 256 || c.Development() {
		t.Errorf("addr %q, partitions %d, development %v; want :8080, 256, false", c.Addr, c.Partitions, c.Development())
	}
}

func TestLoadOrder(t *testing.T) {
	file := writeFile(t, "linger: 1s\nheartbeat: 1s\nping_interval: 11s\nallowed_origins: [a.example, b.example]\n")
	c, err := load([]string{"--config", file, "--linger", "3s", "--max-frame=1MiB", "rest"},
		"ROLLCALL_LINGER=2s", "ROLLCALL_HEARTBEAT=2s", "PATH=/bin", "ROLLCALL_TRUSTED_PROXIES=10.1.2.3/8, 192.0.2.7",
		"ROLLCALL_SERVICE_HOST=10.0.0.1", "ROLLCALL_PORT_8080_TCP=tcp://10.0.0.1:8080")
	if err != nil {
		t.Fatal(err)
	}
	if c.Linger != 3*time.Second || c.Heartbeat != 2*time.Second || c.PingInterval != 11*time.Second ||
		c.PongTimeout != 8*time.Second || c.MaxFrame != 1<<20 {
		t.Errorf("linger %v (flag 3s), heartbeat %v (environment 2s), ping %v (file 11s), pong %v (default 8s), frame %v (flag 1MiB)",
			c.Linger, c.Heartbeat, c.PingInterval, c.PongTimeout, c.MaxFrame)
	}
	if diff := cmp.Diff([]string{"a.example", "b.example"}, c.AllowedOrigins); diff != "" {
		t.Errorf("allowed origins differ (-want +got):\n%s", diff)
	}
	proxies := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("192.0.2.7/32")}
	if diff := cmp.Diff(proxies, c.TrustedProxies, compare...); diff != "" {
		t.Errorf("trusted proxies differ (-want +got):\n%s", diff)
	}
}

func TestLoadFileFromEnvironment(t *testing.T) {
	c, err := load(nil, "ROLLCALL_CONFIG="+writeFile(t, "# nothing but\nlinger: 7s"))
	if err != nil || c.Linger != 7*time.Second {
		t.Errorf("linger = %v, error %v; want 7s", c.Linger, err)
	}
	for _, empty := range []string{"", "# only a comment\n", "---\n"} {
		if _, err := load(nil, "ROLLCALL_CONFIG="+writeFile(t, empty)); err != nil {
			t.Errorf("Load of the file %q: %v; want defaults", empty, err)
		}
	}
}

func TestLoadRefuses(t *testing.T) {
	for name, tc := range map[string]struct {
		args, env []string
		file      string
		want      []string // in the error
	}{
		"unknown variable":    {env: []string{"ROLLCALL_LINGERR=1s"}, want: []string{"ROLLCALL_LINGERR: no such setting: did you mean LINGER?"}},
		"far-off variable":    {env: []string{"ROLLCALL_COLOUR=red"}, want: []string{"ROLLCALL_COLOUR: no such setting: remove it"}},
		"unknown flag":        {args: []string{"--lingering=1s"}, want: []string{"-lingering"}},
		"unknown key":         {file: "linger: 1s\nping-interval: 3s\n", want: []string{"line 2, ping-interval: no such setting: did you mean ping_interval?"}},
		"key twice":           {file: "linger: 1s\nlinger: 2s\n", want: []string{"line 2, linger: is set twice"}},
		"no value":            {file: "linger:\n", want: []string{"linger: has no value"}},
		"list for a value":    {file: "linger: [1s]\n", want: []string{"linger: must be a single value"}},
		"map for a list":      {file: "allowed_origins: {a: b}\n", want: []string{"allowed_origins: must be a list"}},
		"list in a list":      {file: "allowed_origins: [[a]]\n", want: []string{"must be a list of plain values"}},
		"alias":               {file: "addr: &a ':1'\nadmin_addr: *a\n", want: []string{"admin_addr: must be a single value"}},
		"two documents":       {file: "linger: 1s\n---\nlinger: 2s\n", want: []string{"more than one document"}},
		"not a mapping":       {file: "- linger\n", want: []string{"must be lines like"}},
		"not YAML":            {file: "linger: [", want: []string{"yaml"}},
		"missing file":        {args: []string{"--config", "/nonexistent/rollcall.yaml"}, want: []string{"config: open /nonexistent/rollcall.yaml"}},
		"several at once":     {env: []string{"ROLLCALL_LINGER=ten", "ROLLCALL_MAX_FRAME=-1", "ROLLCALL_PARTITIONS=1.5", "ROLLCALL_ACCEPT_RATE=x", "ROLLCALL_VERIFY_REPAIR=perhaps"}, file: "heartbeat: 3\n", want: []string{"heartbeat: \"3\" is not a duration", "ROLLCALL_LINGER: \"ten\"", "ROLLCALL_MAX_FRAME", "ROLLCALL_PARTITIONS: \"1.5\" is not a whole number", "ROLLCALL_ACCEPT_RATE: \"x\" is not a whole number", "ROLLCALL_VERIFY_REPAIR: \"perhaps\" is not true or false"}},
		"bad network":         {env: []string{"ROLLCALL_TRUSTED_PROXIES=everyone"}, want: []string{"ROLLCALL_TRUSTED_PROXIES: \"everyone\" is not a network"}},
		"size overflow":       {env: []string{"ROLLCALL_MAX_FRAME=9999999999999GiB"}, want: []string{"is not a size"}},
		"flag value":          {args: []string{"--linger=soon"}, want: []string{"--linger: \"soon\" is not a duration"}},
		"some credentials":    {env: credentials[:1], want: []string{"auth_token: is required", "api_key_sid: is required", "api_key_secret: is required"}},
		"no credentials":      {env: []string{"ROLLCALL_REDIS_URL=redis://localhost"}, want: []string{"account_sid: is required", "api_key_secret: is required"}},
		"development, public": {env: []string{"ROLLCALL_ADDR=:8080"}, want: []string{"addr: is \":8080\" while the development credentials"}},
		"development, copied": {env: []string{"ROLLCALL_REDIS_URL=redis://localhost", "ROLLCALL_ACCOUNT_SID=" + configs.DevAccountSID, "ROLLCALL_AUTH_TOKEN=x", credentials[2], credentials[3]}, want: []string{"account_sid: one of the four credentials"}},
	} {
		t.Run(name, func(t *testing.T) {
			args := tc.args
			if tc.file != "" {
				args = append(args, "--config", writeFile(t, tc.file))
			}
			_, err := load(args, tc.env...)
			if err == nil {
				t.Fatalf("Load() succeeded; want an error with %q", tc.want)
			}
			for _, want := range tc.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("Load() = %q; want it to contain %q", err, want)
				}
			}
		})
	}
}

func TestLoadHelp(t *testing.T) {
	var out strings.Builder
	fs := flag.NewFlagSet("rollcall", flag.ContinueOnError)
	fs.SetOutput(&out)
	if _, err := configs.Load(fs, []string{"--help"}, nil); !errors.Is(err, flag.ErrHelp) {
		t.Fatalf("Load(--help) = %v; want flag.ErrHelp", err)
	}
	for _, want := range []string{"-ping-interval value\n", "How often a silent client is pinged (default 25s)", "-config file"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("--help does not say %q:\n%s", want, out.String())
		}
	}
}

func TestValidate(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(*configs.Config)
		want   string // how the error begins; "" for none
	}{
		"fast timers": {func(c *configs.Config) {
			c.LeaseTTL, c.Heartbeat, c.Linger = 500*time.Millisecond, 100*time.Millisecond, 0
		}, ""},
		"addr":                 {func(c *configs.Config) { c.Addr = "8080" }, `addr: is "8080": write host:port`},
		"addr port":            {func(c *configs.Config) { c.Addr = "127.0.0.1:99999" }, "addr: "},
		"admin_addr is addr":   {func(c *configs.Config) { c.AdminAddr = c.Addr }, "admin_addr: "},
		"tls_cert alone":       {func(c *configs.Config) { c.TLSCert = "cert.pem" }, "tls_cert: works only together"},
		"public_url":           {func(c *configs.Config) { c.PublicURL = "presence.example.com" }, "public_url: "},
		"public_url path":      {func(c *configs.Config) { c.PublicURL = "https://presence.example.com/x" }, "public_url: "},
		"public_url good":      {func(c *configs.Config) { c.PublicURL = "https://presence.example.com:8443/" }, ""},
		"allowed_origins":      {func(c *configs.Config) { c.AllowedOrigins = []string{"https://*.example.com", "[a"} }, `allowed_origins: has "[a"`},
		"allowed_origins path": {func(c *configs.Config) { c.AllowedOrigins = []string{"https://example.com/chat"} }, "allowed_origins: "},
		"account_sid":          {func(c *configs.Config) { c.AccountSID = "AC1" }, "account_sid: does not look right"},
		"auth_token":           {func(c *configs.Config) { c.AuthToken = "se-cret" }, "auth_token: does not look right"},
		"api_key_secret":       {func(c *configs.Config) { c.APIKeySecret = "pässword" }, "api_key_secret: does not look right"},
		"development on all":   {func(c *configs.Config) { c.Addr, c.AccountSID = "0.0.0.0:8080", configs.DevAccountSID }, "addr: "},
		"development on IPv6":  {func(c *configs.Config) { c.Addr, c.AuthToken = "[::1]:8080", configs.DevAuthToken }, ""},
		"development on Redis": {func(c *configs.Config) {
			c.Addr, c.RedisURL, c.APIKeySID = "127.0.0.1:1", "redis://h", configs.DevAPIKeySID
		}, "account_sid: one of"},
		"redis_url":                 {func(c *configs.Config) { c.RedisURL = "localhost:6379" }, "redis_url: is not a store"},
		"key_prefix":                {func(c *configs.Config) { c.KeyPrefix = "{rc}" }, "key_prefix: "},
		"partitions":                {func(c *configs.Config) { c.Partitions = -1 }, "partitions: is -1: set it from 1 to 4096"},
		"node_id":                   {func(c *configs.Config) { c.NodeID = "a b" }, "node_id: "},
		"lease_ttl":                 {func(c *configs.Config) { c.LeaseTTL = 6 * time.Second }, "lease_ttl: is 6s, but a node must be able to miss a heartbeat (3s) and keep its lease: raise it above 6s"},
		"verify_interval":           {func(c *configs.Config) { c.VerifyInterval = time.Millisecond }, "verify_interval: is 1ms: set it from 1s to 24h0m0s"},
		"verify_interval off":       {func(c *configs.Config) { c.VerifyInterval = 0 }, ""},
		"verify_repair":             {func(c *configs.Config) { c.VerifyInterval, c.VerifyRepair = 0, true }, "verify_repair: is true, but nothing looks"},
		"lease_ttl long":            {func(c *configs.Config) { c.LeaseTTL = time.Hour }, "lease_ttl: "},
		"linger":                    {func(c *configs.Config) { c.Linger = 61 * time.Second }, "linger: is 1m1s: set it from 0s to 1m0s"},
		"linger negative":           {func(c *configs.Config) { c.Linger = -1 }, "linger: "},
		"ping_interval":             {func(c *configs.Config) { c.PingInterval = 50 * time.Second }, "ping_interval: and pong_timeout are 58s together"},
		"pong_timeout":              {func(c *configs.Config) { c.PingInterval = 5 * time.Second }, "pong_timeout: is 8s, so the next ping"},
		"batch_delay":               {func(c *configs.Config) { c.BatchDelay = 2 * time.Second }, "batch_delay: "},
		"hello_timeout":             {func(c *configs.Config) { c.HelloTimeout = 0 }, "hello_timeout: "},
		"drain_timeout":             {func(c *configs.Config) { c.DrainTimeout = time.Hour }, "drain_timeout: "},
		"request_rate":              {func(c *configs.Config) { c.RequestRate = 0 }, "request_rate: is 0: set it from 1"},
		"accept_rate":               {func(c *configs.Config) { c.AcceptRate = 0 }, "accept_rate: is 0: set it from 1"},
		"ping_interval short":       {func(c *configs.Config) { c.PingInterval, c.PongTimeout = 900*time.Millisecond, 100*time.Millisecond }, "ping_interval: is 900ms: set it from 1s"},
		"pong_timeout as long":      {func(c *configs.Config) { c.PingInterval = c.PongTimeout }, "pong_timeout: is 8s, so the next ping"},
		"mailbox_bytes":             {func(c *configs.Config) { c.MailboxBytes = 31 << 10 }, "mailbox_bytes: is 31KiB, too little"},
		"log_level":                 {func(c *configs.Config) { c.LogLevel = "loud" }, `log_level: is "loud": set it to debug`},
		"log_format":                {func(c *configs.Config) { c.LogFormat = "" }, "log_format: "},
		"max_subscriptions":         {func(c *configs.Config) { c.MaxSubscriptions = 0 }, "max_subscriptions: "},
		"accept_burst":              {func(c *configs.Config) { c.AcceptBurst = 0 }, "accept_burst: "},
		"rest_rate":                 {func(c *configs.Config) { c.RESTRate = 0 }, "rest_rate: is 0: set it from 1"},
		"rest_burst":                {func(c *configs.Config) { c.RESTBurst = -1 }, "rest_burst: is -1: set it from 1"},
		"address_rate":              {func(c *configs.Config) { c.AddressRate = 0 }, "address_rate: is 0: set it from 1"},
		"address_burst":             {func(c *configs.Config) { c.AddressBurst = 0 }, "address_burst: is 0: set it from 1"},
		"lockout_failures":          {func(c *configs.Config) { c.LockoutFailures = 0 }, "lockout_failures: is 0: set it from 1"},
		"lockout_time":              {func(c *configs.Config) { c.LockoutTime = time.Millisecond }, "lockout_time: is 1ms: set it from 1s to 24h0m0s"},
		"max_identity":              {func(c *configs.Config) { c.MaxIdentity = 1 << 20 }, "max_identity: is 1MiB: set it from 1B to 256B"},
		"certificate of redis_url":  {func(c *configs.Config) { c.RedisURL = "rediss://h?ca=/nonexistent.pem" }, "redis_url: names a ?ca= that cannot be read"},
		"no redis_url":              {func(c *configs.Config) { c.RedisURL = "" }, "redis_url: is not a store"},
		"max_frame, max_identities": {func(c *configs.Config) { c.MaxFrame, c.MaxIdentities = 1<<10, 1 }, ""},
	} {
		t.Run(name, func(t *testing.T) {
			c, err := load(nil, credentials...)
			if err != nil {
				t.Fatal(err)
			}
			tc.change(&c)
			err = c.Validate()
			if tc.want == "" {
				if err != nil {
					t.Errorf("Validate() = %v; want none", err)
				}
				return
			}
			if err == nil || !strings.HasPrefix(err.Error(), tc.want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("Validate() = %v; want one error that begins with %q", err, tc.want)
			}
		})
	}
}

func TestValidateJoinsAll(t *testing.T) {
	var c configs.Config
	err := c.Validate()
	if err == nil {
		t.Fatal("Validate of the zero Config = nil; want errors")
	}
	lines := strings.Split(err.Error(), "\n")
	for _, key := range []string{"addr", "account_sid", "redis_url", "partitions", "heartbeat", "max_frame", "log_level"} {
		found := false
		for _, line := range lines {
			found = found || strings.HasPrefix(line, key+": ")
		}
		if !found {
			t.Errorf("Validate() says nothing of %s:\n%v", key, err)
		}
	}
}

func TestSecretsDoNotPrint(t *testing.T) {
	env := append(credentials, "ROLLCALL_REDIS_URL=redis://user:hunter2@localhost/1")
	c, err := load(nil, env...)
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	if err := c.Print(&out); err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(&out, "%v %+v %#v %s", c, c, c, c.AuthToken)
	for _, secret := range []string{"token0001", "secret0002", "hunter2"} {
		if strings.Contains(out.String(), secret) {
			t.Errorf("the secret %q shows in:\n%s", secret, out.String())
		}
	}
	if want := "redis_url: redis://user:********@localhost:6379/1\n"; !strings.Contains(out.String(), want) {
		t.Errorf("Print lacks %q:\n%s", want, out.String())
	}
}

func TestPrintLoadsAgain(t *testing.T) {
	args := []string{"--allowed-origins=a.example,b.example", "--trusted-proxies=10.0.0.0/8", "--linger=1m", "--max-identity=200", "--request-rate=7"}
	c, err := load(args, credentials...)
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	if err := c.Print(&out); err != nil {
		t.Fatal(err)
	}
	again, err := load([]string{"--config", writeFile(t, out.String())}, credentials...)
	if err != nil {
		t.Fatalf("Load of\n%s: %v", out.String(), err)
	}
	if diff := cmp.Diff(c, again, compare...); diff != "" {
		t.Errorf("what Print wrote loads differently (-want +got):\n%s", diff)
	}
}

func FuzzLoad(f *testing.F) {
	reference, err := os.ReadFile("rollcall.yaml")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(string(reference), "10s", "64KiB", "a.example,b.example", "10.0.0.0/8")
	f.Add("linger: 1s\nlinger: 2s\n", "", "-1", ",", "::ffff:1.2.3.4")
	f.Add("a: &a [*a]\n", "1h1ns", "1GiB", "[", "fe80::1%eth0")
	f.Add("!!binary aGk=: x\n? [a]\n: b\n", "NaN", "9223372036854775807", "*", "0.0.0.0/33")
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, file, duration, size, origins, proxies string) {
		name := filepath.Join(dir, "fuzz.yaml")
		if err := os.WriteFile(name, []byte(file), 0o600); err != nil {
			t.Fatal(err)
		}
		c, err := load([]string{"--config", name, "--linger", duration}, "ROLLCALL_MAX_FRAME="+size,
			"ROLLCALL_ALLOWED_ORIGINS="+origins, "ROLLCALL_TRUSTED_PROXIES="+proxies)
		if err != nil {
			return
		}
		if c.Linger < 0 || c.Linger > time.Minute || c.MaxFrame < 1<<10 || c.NodeID == "" || c.Addr == "" {
			t.Errorf("Load accepted %+v", c)
		}
		if err := c.Print(io.Discard); err != nil {
			t.Errorf("Print: %v", err)
		}
	})
}

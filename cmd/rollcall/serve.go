package main

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/redis/go-redis/v9"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/rollcall-presence/rollcall/auth"
	"github.com/rollcall-presence/rollcall/configs"
	"github.com/rollcall-presence/rollcall/fanout"
	"github.com/rollcall-presence/rollcall/fanout/redisbus"
	"github.com/rollcall-presence/rollcall/gateway"
	"github.com/rollcall-presence/rollcall/gateway/console"
	"github.com/rollcall-presence/rollcall/gateway/native"
	"github.com/rollcall-presence/rollcall/gateway/rest"
	"github.com/rollcall-presence/rollcall/gateway/twilsock"
	"github.com/rollcall-presence/rollcall/internal/rate"
	"github.com/rollcall-presence/rollcall/presence"
	"github.com/rollcall-presence/rollcall/presence/redisstore"
	"github.com/rollcall-presence/rollcall/webhook"
)

const (
	// startTimeout bounds the first exchange with Redis; without it a node does not start.
	startTimeout = 15 * time.Second
	// redisLogLines is how many lines a minute of the Redis client are logged.
	redisLogLines = 20
	// leaveTimeout bounds the last words to Redis after the drain.
	leaveTimeout = 3 * time.Second
)

// serve runs a node until ctx ends, and then drains it. When it returns nothing of
// it is left running.
func serve(ctx context.Context, cfg configs.Config, stdout, stderr io.Writer) error {
	log, err := newLogger(cfg, stderr)
	if err != nil {
		return err
	}
	defer func() { _ = log.Sync() }()

	// A restarted process is another node: the sessions of its predecessor are not its own.
	node := presence.NodeID(cfg.NodeID + "-" + strings.ToLower(rand.Text()[:8]))
	log = log.With(zap.String("node", string(node)))

	redis.SetLogger(newRedisLog(log))
	client, closeRedis, err := openRedis(ctx, cfg)
	if err != nil {
		return err
	}
	defer closeRedis()

	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	client.AddHook(redisstore.NewLatency(registry))

	store := newStore(client, cfg)
	startCtx, cancel := context.WithTimeout(ctx, startTimeout)
	err = store.Init(startCtx, cfg.AccountSID)
	cancel()
	if err != nil {
		return fmt.Errorf("the store at %s: %w (is Redis running there? ROLLCALL_REDIS_URL names it)", cfg.RedisURL, err)
	}

	n := newNode(node, cfg, client, store, registry, log)
	startCtx, cancel = context.WithTimeout(ctx, startTimeout)
	err = n.keyring.Refresh(startCtx) // a node that lets nobody in is of no use, and one that lets in who was turned out is worse
	cancel()
	if err != nil {
		return fmt.Errorf("API keys in the store at %s: %w", cfg.RedisURL, err)
	}
	server, err := gateway.New(n.gatewayOptions(cfg, registry, log))
	if err != nil {
		return err
	}
	n.server = server

	public, admin, err := listen(ctx, cfg)
	if err != nil {
		return err
	}
	return n.run(ctx, cfg, public, admin, stdout, log)
}

// node is the parts of one node, wired.
type node struct {
	store   *redisstore.Store
	dir     *presence.Directory
	tracker *presence.Tracker
	hub     *fanout.Hub
	bus     *redisbus.Bus
	hooks   *webhook.Deliverer
	check   *redisstore.SelfCheck // nil if there is none
	server  *gateway.Server       // set before anything runs
	tokens  *auth.Verifier
	keyring *auth.Keyring
	guard   *auth.Guard
	key     auth.Key
	// published is fed by the heartbeats.
	published published
	// draining is closed when the drain begins.
	draining chan struct{}
}

func newNode(id presence.NodeID, cfg configs.Config, client redis.UniversalClient, store *redisstore.Store, reg prometheus.Registerer, log *zap.Logger) *node {
	n := &node{
		store: store, draining: make(chan struct{}),
		key: auth.Key{SID: cfg.APIKeySID, Secret: string(cfg.APIKeySecret), Account: cfg.AccountSID},
	}
	n.keyring = auth.NewKeyring(auth.StaticKeys{cfg.APIKeySID: n.key}, store, auth.KeyringOptions{
		Every: cfg.Heartbeat, Metrics: reg, Withdrawn: func() {
			if n.server != nil { // else nobody is connected yet
				n.server.Recheck()
			}
		},
	})
	n.tokens = auth.NewVerifier(n.keyring)
	n.guard = auth.NewGuard(auth.Basic{Account: cfg.AccountSID, Token: string(cfg.AuthToken), Keys: n.keyring}, auth.GuardOptions{
		Credential: rate.Limit{PerSecond: cfg.RESTRate, Burst: cfg.RESTBurst}, Address: rate.Limit{PerSecond: cfg.AddressRate, Burst: cfg.AddressBurst},
		Failures: cfg.LockoutFailures, Lockout: cfg.LockoutTime, Metrics: reg,
		LockedOut: func(from netip.Addr) {
			log.Warn("address locked out after wrong passwords", zap.Stringer("address", from), zap.Duration("for", cfg.LockoutTime))
		},
	})
	n.dir = presence.NewDirectory(store, cfg.Heartbeat)
	n.bus = redisbus.New(client, store.Keys(), id, redisbus.Options{Metrics: reg})
	n.hub = fanout.NewHub(n.bus, store, n.dir, fanout.Options{MaxSubscriptions: cfg.MaxSubscriptions})
	n.dir.Watch(n.hub.ServiceChanged)
	n.hooks = webhook.New(store, n.dir, webhook.Options{
		AuthToken: string(cfg.AuthToken), AllowedNetworks: cfg.WebhookAllowedNetworks, TargetConcurrency: cfg.WebhookTargetConcurrency,
		Concurrency: cfg.WebhookConcurrency, RetryFor: cfg.WebhookRetryFor, Metrics: reg,
	})
	n.tracker = presence.NewTracker(store, n.dir, presence.TrackerOptions{
		Node: id, Heartbeat: cfg.Heartbeat, Linger: cfg.Linger, Handover: cfg.HandoverTime(), Renew: store.OnlineTTL() / 2,
		Ended: func(s presence.SessionID) { n.server.End(s) },
		Beat: func(p presence.Partition, run string, seq uint64) {
			n.published.beat(p, run, seq)
			n.hub.Beat(p, run, seq)
		},
		Departed: newDepartures(reg, cfg.Bounds()),
		Webhooks: n.hooks.Beat,
	})
	reg.MustRegister(newCollector(n))
	if cfg.VerifyInterval > 0 {
		n.check = redisstore.NewSelfCheck(store, redisstore.SelfCheckOptions{
			Node: id, Every: cfg.VerifyInterval, Confirm: confirm(cfg), Linger: cfg.HandoverTime(), Repair: cfg.VerifyRepair, Compare: n.compare, Metrics: reg,
			Found: func(v redisstore.Verified) { logDisagreements(log, v) },
		})
	}
	return n
}

// deliver hands what the bus brings to whom it concerns.
type deliver struct{ *node }

func (d deliver) Event(p presence.Partition, run string, seq uint64, e presence.Event) {
	d.hub.Event(p, run, seq, e)
}

func (d deliver) ServiceEvent(_ string, _ uint64, sid string) {
	if sid == presence.Access {
		d.keyring.Changed()
		return
	}
	d.dir.Changed(sid)
}

func (d deliver) Resync(p presence.Partition) {
	if p == presence.Services {
		d.dir.Resync()
		d.keyring.Changed()
		return
	}
	d.hub.Resync(p)
}

func (d deliver) Woken(kind byte, p presence.Partition) {
	switch kind {
	case redisbus.WakeEnd:
		d.tracker.Wake(p)
	case redisbus.WakeWebhooks:
		d.hooks.Wake(p)
	}
}

func (n *node) gatewayOptions(cfg configs.Config, reg *prometheus.Registry, log *zap.Logger) gateway.Options {
	proxies := gateway.Proxies(cfg.TrustedProxies)
	origin := proxies.Origin
	if cfg.PublicURL != "" {
		origin = func(*http.Request) string { return strings.TrimSuffix(cfg.PublicURL, "/") }
	}
	page := console.Handler(console.Options{
		Authenticate: func(r *http.Request) error {
			user, password, _ := r.BasicAuth()
			_, err := n.guard.Admit(proxies.Household(r), user, password)
			return err
		},
		Mint: func(service, identity string, ttl time.Duration) (string, time.Time, error) {
			now := time.Now()
			token, err := auth.Mint(n.key, service, identity, now, ttl)
			return token, now.Add(ttl), err
		},
		Sessions: n.countSessions,
		Linger: func(ctx context.Context, service string) (time.Duration, error) {
			s, err := n.dir.Service(ctx, service)
			return s.LingerOr(cfg.Linger), err
		},
		Log: log,
	})
	return gateway.Options{
		Presence: n.tracker, Services: n.dir, Hub: n.hub, Tokens: n.tokens, Push: n.store,
		Users: n.store, BeforeUserUpdate: n.hooks.BeforeUserUpdate,
		Sockets: map[string]gateway.Protocol{
			"/v1/connect":   native.Protocol{},
			"/v3/wsconnect": twilsock.New(twilsock.Options{Origin: origin, Users: max(1, min(twilsock.DefaultUsers, (cfg.MaxSubscriptions-1)/2))}),
		},
		Routes: map[string]http.Handler{
			"/v1": rest.New(n.store, n.guard, rest.Options{
				Origin: origin, Client: proxies.Household, MaxIdentity: int(cfg.MaxIdentity), MaxAttributes: int(cfg.MaxAttributes),
				MaxStreams: cfg.MaxStreams, Draining: n.draining, Hooks: n.hooks, Log: log, Metrics: reg,
			}),
			"/console": page,
		},
		Origins: cfg.AllowedOrigins, Proxies: proxies, TLSCert: cfg.TLSCert, TLSKey: cfg.TLSKey,
		Limits: gateway.Limits{
			Connections: cfg.MaxConnections, Waiting: cfg.MaxWaiting, AcceptRate: cfg.AcceptRate, AcceptBurst: cfg.AcceptBurst,
			Frame: int(cfg.MaxFrame), Identities: cfg.MaxIdentities, Identity: int(cfg.MaxIdentity), Attributes: int(cfg.MaxAttributes), Subscriptions: cfg.MaxSubscriptions,
			RequestRate: cfg.RequestRate, RequestBurst: cfg.RequestBurst, Mailbox: int(cfg.MailboxBytes),
		},
		Timers: gateway.Timers{
			Hello: cfg.HelloTimeout, Ping: cfg.PingInterval, Pong: cfg.PongTimeout, Request: min(5*time.Second, cfg.PongTimeout*3/4), Drain: cfg.DrainWindow(),
			Wait: cmp.Or(cfg.WaitTimeout, -1), Batch: cmp.Or(cfg.BatchDelay, -1),
		},
		Ready: map[string]func(context.Context) error{
			"bus": func(context.Context) error {
				if !n.bus.Healthy() {
					return errors.New("its round-trip probe fails")
				}
				return nil
			},
			"heartbeat": func(context.Context) error {
				if time.Since(n.tracker.Stats().LastBeat) > cfg.LeaseTTL {
					return errors.New("none has been answered for a lease")
				}
				return nil
			},
		},
		Metrics: reg, Log: log,
	}
}

func (n *node) countSessions(ctx context.Context, service string, identities []string) (map[string]int, error) {
	if _, err := n.dir.Service(ctx, service); err != nil {
		return nil, err
	}
	users := make([]presence.Key, len(identities))
	for i, identity := range identities {
		users[i] = presence.Key{Service: service, Identity: identity}
	}
	counts, err := n.store.CountSessions(ctx, users)
	if err != nil {
		return nil, err
	}
	m := make(map[string]int, len(identities))
	for i, identity := range identities {
		m[identity] = counts[i]
	}
	return m, nil
}

// compare compares the sessions of a partition with the sockets that are open.
func (n *node) compare(ctx context.Context, p presence.Partition, while time.Duration) (presence.Compared, error) {
	return n.tracker.Compare(ctx, p, while, n.server.Serves)
}

// run serves until ctx ends and then leaves: sessions first, told to come back
// elsewhere, then the lease, then Redis.
func (n *node) run(ctx context.Context, cfg configs.Config, public, admin net.Listener, stdout io.Writer, log *zap.Logger) error {
	// The parts outlive ctx, for the drain.
	parts, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	var wg sync.WaitGroup
	serve := []func(context.Context) error{
		n.dir.Serve, n.hub.Serve, n.tracker.Serve, n.keyring.Serve, n.hooks.Serve,
		func(ctx context.Context) error { return n.bus.Serve(ctx, deliver{n}) },
	}
	if n.check != nil {
		serve = append(serve, n.check.Serve)
	}
	for _, part := range serve {
		wg.Go(func() {
			if err := part(parts); err != nil {
				log.Error("part of the node ended", zap.Error(err))
			}
		})
	}

	serving, stopServing := context.WithCancel(context.WithoutCancel(ctx))
	defer stopServing()
	served := make(chan error, 1)
	go func() { served <- n.server.Serve(serving, public, admin) }()
	log.Info("serving", zap.String("addr", public.Addr().String()), zap.String("admin_addr", admin.Addr().String()), zap.Stringer("redis", cfg.RedisURL))
	bounds := cfg.Bounds()
	fields := []zap.Field{zap.Duration("repair", bounds.Repair)}
	for _, d := range bounds.Departures {
		fields = append(fields, zap.Duration(d.Departure.String(), d.Max))
	}
	log.Info("staleness bounds", fields...)
	err := announce(cfg, public.Addr().String(), admin.Addr().String(), stdout)

	if err == nil {
		select {
		case err = <-served:
			served <- err
		case <-ctx.Done():
			log.Info("draining", zap.Int("sessions", n.server.Sessions()), zap.Duration("within", cfg.DrainTimeout))
			close(n.draining)
			drain, cancel := context.WithTimeout(parts, cfg.DrainTimeout)
			n.server.Shutdown(drain)
			cancel()
		}
	}
	stopServing()
	if e := <-served; err == nil {
		err = e
	}
	stop()
	wg.Wait()
	leave, cancel := context.WithTimeout(context.WithoutCancel(ctx), leaveTimeout)
	defer cancel()
	if e := n.tracker.Leave(leave); e != nil {
		log.Warn("the lease was not given up; it lapses by itself", zap.Error(e))
	}
	log.Info("stopped")
	return err
}

func newLogger(cfg configs.Config, w io.Writer) (*zap.Logger, error) {
	level, err := zapcore.ParseLevel(cfg.LogLevel)
	if err != nil {
		return nil, err
	}
	ec := zap.NewProductionEncoderConfig()
	ec.EncodeTime = zapcore.RFC3339NanoTimeEncoder
	ec.EncodeDuration = zapcore.StringDurationEncoder
	encoder := zapcore.NewJSONEncoder(ec)
	if cfg.LogFormat == "console" {
		encoder = zapcore.NewConsoleEncoder(ec)
	}
	return zap.New(zapcore.NewCore(encoder, zapcore.Lock(zapcore.AddSync(w)), level)), nil
}

// redisLog takes what the Redis client has to say, which would else go to stderr in a format of its own.
type redisLog struct{ log *zap.Logger }

// newRedisLog lets through so many lines a minute: while Redis is away each failed dial is one.
func newRedisLog(log *zap.Logger) redisLog {
	return redisLog{log.WithOptions(zap.WrapCore(func(c zapcore.Core) zapcore.Core {
		return zapcore.NewSamplerWithOptions(c, time.Minute, redisLogLines, 0)
	}))}
}

// Printf implements the client's logger.
func (l redisLog) Printf(_ context.Context, format string, v ...any) {
	l.log.Warn("redis client", zap.String("detail", fmt.Sprintf(format, v...)))
}

// newStore makes the store as the configuration says, the same for whoever uses it.
func newStore(client redis.UniversalClient, cfg configs.Config) *redisstore.Store {
	return redisstore.New(client, redisstore.Options{
		Prefix: cfg.KeyPrefix, Partitions: cfg.Partitions, Lease: cfg.LeaseTTL, Stall: cfg.Bounds().Silence,
	})
}

// openRedis makes the client, and the embedded server where the configuration says so.
func openRedis(ctx context.Context, cfg configs.Config) (redis.UniversalClient, func(), error) {
	if cfg.RedisURL != configs.Embedded {
		opt, err := cfg.RedisURL.Options()
		if err != nil {
			return nil, nil, err
		}
		opt.DialTimeout, opt.ReadTimeout, opt.WriteTimeout = configs.StoreTimeout, configs.StoreTimeout, configs.StoreTimeout
		client := redisstore.Connect(opt)
		return client, func() { _ = client.Close() }, nil
	}
	m := miniredis.NewMiniRedis()
	if err := m.StartAddr("127.0.0.1:0"); err != nil {
		return nil, nil, fmt.Errorf("embedded store: %w", err)
	}
	ctx, stop := context.WithCancel(context.WithoutCancel(ctx)) // the store outlives the drain
	var aging sync.WaitGroup
	aging.Go(func() { age(ctx, m) })
	client := redis.NewClient(&redis.Options{
		Addr: m.Addr(), Protocol: 2, DisableIdentity: true, MaxRetries: -1, ContextTimeoutEnabled: true,
	})
	return client, func() { _ = client.Close(); stop(); aging.Wait(); m.Close() }, nil
}

// agingInterval is how late the embedded store's keys may expire. None lives less
// than minutes, and each look at them takes time in the number of all keys.
const agingInterval = 5 * time.Second

// age lets the keys of m expire, until ctx ends. Miniredis can do so by itself, but
// then looks at every key at every command, those in scripts too: with a few
// thousand users it does nothing else.
func age(ctx context.Context, m *miniredis.Miniredis) {
	tick := time.NewTicker(agingInterval)
	defer tick.Stop()
	last := time.Now()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		now := time.Now()
		m.FastForward(now.Sub(last))
		last = now
	}
}

func listen(ctx context.Context, cfg configs.Config) (public, admin net.Listener, err error) {
	// Without TCP's keep-alive, which costs four system calls a connection: sessions are pinged, and
	// whatever else is idle has its deadline.
	lc := net.ListenConfig{KeepAlive: -1}
	if public, err = lc.Listen(ctx, "tcp", cfg.Addr); err != nil {
		return nil, nil, fmt.Errorf("listen for clients on %s: %w (set ROLLCALL_ADDR to a free address)", cfg.Addr, err)
	}
	if admin, err = lc.Listen(ctx, "tcp", cfg.AdminAddr); err != nil {
		_ = public.Close()
		return nil, nil, fmt.Errorf("listen for operators on %s: %w (set ROLLCALL_ADMIN_ADDR to a free address)", cfg.AdminAddr, err)
	}
	return public, admin, nil
}

// announce says that the node is ready: to people, and to whoever waits for the file.
func announce(cfg configs.Config, addr, admin string, stdout io.Writer) error {
	scheme := "http"
	if cfg.TLSCert != "" {
		scheme = "https"
	}
	_, _ = fmt.Fprintf(stdout, "\n  Rollcall is up.\n\n    live page   %s://%s/console\n    operators   http://%s/metrics\n", scheme, addr, admin)
	if cfg.Development() {
		_, _ = fmt.Fprintf(stdout, "\n  Development credentials, known to everybody:\n\n    account SID     %s\n    auth token      %s\n    API key SID     %s\n    API key secret  %s\n",
			configs.DevAccountSID, configs.DevAuthToken, configs.DevAPIKeySID, configs.DevAPIKeySecret)
	}
	if cfg.RedisURL == configs.Embedded {
		_, _ = fmt.Fprint(stdout, "\n  The store is embedded: one node, and all is forgotten when it ends.\n")
	}
	_, _ = fmt.Fprintln(stdout)
	if err := cfg.Bounds().Write(stdout); err != nil {
		return err
	}
	_, _ = fmt.Fprintln(stdout)
	if cfg.ReadyFile == "" {
		return nil
	}
	data, err := json.Marshal(map[string]any{"addr": addr, "admin_addr": admin, "pid": os.Getpid()})
	if err != nil {
		return err
	}
	tmp, err := os.CreateTemp(filepath.Dir(cfg.ReadyFile), ".ready-*")
	if err != nil {
		return fmt.Errorf("ready file: %w", err)
	}
	_, err = tmp.Write(data)
	if err = errors.Join(err, tmp.Close()); err == nil {
		err = os.Rename(tmp.Name(), cfg.ReadyFile)
	}
	if err != nil {
		_ = os.Remove(tmp.Name())
		return fmt.Errorf("ready file: %w", err)
	}
	return nil
}

// Package redisstore keeps presence state in Redis (or Valkey): one Lua script per
// operation, each atomic in one hash slot, each publishing what it changed. What
// the keys hold is written at the head of lib.lua.
package redisstore

import (
	"context"
	"crypto/rand"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/rollcall-presence/rollcall/internal/keys"
	"github.com/rollcall-presence/rollcall/presence"
)

//go:embed *.lua
var sources embed.FS

// script joins clock.lua, lib.lua and the named files.
func script(names ...string) *redis.Script {
	return joined(append([]string{"clock", "lib"}, names...)...)
}

func joined(names ...string) *redis.Script {
	var text strings.Builder
	for _, name := range names {
		b, err := sources.ReadFile(name + ".lua")
		if err != nil {
			panic(err) // a misspelt name
		}
		text.Write(b)
	}
	return redis.NewScript(text.String())
}

var (
	accessReadScript         = script("access", "access_read")
	accessRestoreScript      = script("access", "access_restore")
	accountWriteScript       = script("hooks", "account_write")
	addressScript            = script("address")
	beatScript               = joined("clock", "beat_idle", "beat_one", "lib", "lib_reap", "beat")
	beatManyScript           = joined("clock", "beat_idle", "beat_many")
	bindScript               = script("lib_bind", "bind")
	bindingsDueScript        = script("bindings_due")
	credentialDeleteScript   = script("credential_delete")
	credentialWriteScript    = script("credential_write")
	endScript                = script("end")
	hookClaimScript          = script("lib_reap", "hook_claim")
	hookReplayScript         = script("hook_replay")
	hookSetScript            = script("hook_set")
	hookSettleScript         = script("hook_settle")
	keyDeleteScript          = script("access", "key_delete")
	keyWriteScript           = script("access", "key_write")
	leaveScript              = script("lib_reap", "leave")
	notificationsWriteScript = script("notifications_write")
	purgeScript              = script("lib_delete", "lib_bind", "purge")
	registerScript           = script("register")
	revokeScript             = script("access", "revoke")
	roleDeleteScript         = script("role_delete")
	roleStockScript          = script("role_stock")
	roleWriteScript          = script("role_write")
	serviceBeatScript        = script("service_beat")
	serviceDeleteScript      = script("service_delete")
	serviceRestoreScript     = script("service_restore")
	serviceWriteScript       = script("hooks", "service_write")
	unbindScript             = script("lib_bind", "unbind")
	userDeleteScript         = script("lib_delete", "lib_bind", "user_delete")
	userWriteScript          = script("user_write")
	userBySIDScript          = script("user_by_sid")
	sessionEndScript         = script("lib_delete", "session_end")
	sessionsScript           = script("sessions")
	userSessionsScript       = script("user_sessions")
	changesScript            = script("changes")
	verifyScript             = script("lib_reap", "lib_delete", "lib_bind", "verify_check", "verify")
)

// Options tunes a Store. The zero value is ready for use.
type Options struct {
	// Prefix of every key and channel, without braces. Default "rc:".
	Prefix string
	// Partitions is how many there are; all nodes must agree. Default 256, at most
	// keys.MaxPartitions.
	Partitions int
	// Lease is how long a node's sessions outlive its last heartbeat. Default 10s.
	Lease time.Duration
	// OnlineTTL is the lifetime of a user's online state without renewal, the last
	// resort when every node has vanished. Default 10m; it is to be renewed at half.
	OnlineTTL time.Duration
	// Stall is the silence after which a heartbeat does not count the time against
	// leases and lingers. Default half of Lease.
	Stall time.Duration
	// Offset, if set, is added to the clock of Redis. For tests.
	Offset *atomic.Int64
	// Rand is where new SIDs come from. Default crypto/rand; another source is for
	// tests, whose runs then can be repeated.
	Rand io.Reader
}

// Store is the presence store on Redis. It is safe for concurrent use. It holds the
// client, which its maker closes, and what it takes to make the default service
// again should Redis lose its data. Every method makes one round
// trip unless it says otherwise, and fails with KindUnavailable if Redis cannot
// answer; what was asked may then have happened or not.
type Store struct {
	client  redis.UniversalClient
	joint   joint
	keys    keys.Keys
	opt     Options
	sharded bool // on a Cluster

	account     atomic.Pointer[string] // nil before Init
	defaultedTo atomic.Pointer[string] // SID of the default service as last heard
}

// New returns a Store on client. It does no I/O; see Init.
func New(client redis.UniversalClient, opt Options) *Store {
	if opt.Prefix == "" {
		opt.Prefix = "rc:"
	}
	if opt.Partitions == 0 {
		opt.Partitions = 256
	}
	if opt.Lease == 0 {
		opt.Lease = 10 * time.Second
	}
	if opt.OnlineTTL == 0 {
		opt.OnlineTTL = 10 * time.Minute
	}
	if opt.Stall == 0 {
		opt.Stall = opt.Lease / 2
	}
	if opt.Rand == nil {
		opt.Rand = rand.Reader
	}
	_, sharded := client.(*redis.ClusterClient)
	return &Store{client: client, joint: joint{client: client, alone: sharded}, keys: keys.Keys{Prefix: opt.Prefix, Partitions: opt.Partitions}, opt: opt, sharded: sharded}
}

// Keys spells the store's keys and channels.
func (s *Store) Keys() keys.Keys { return s.keys }

// Partition is where a user lives.
func (s *Store) Partition(k presence.Key) presence.Partition { return s.keys.Of(k) }

// Partitions is how many partitions there are.
func (s *Store) Partitions() int { return s.keys.Partitions }

// OnlineTTL is the lifetime of the online state of a session that is not
// registered again.
func (s *Store) OnlineTTL() time.Duration { return s.opt.OnlineTTL }

// Init prepares an empty Redis for account: it records the number of partitions
// and makes the default service. On a Redis in use it only checks; another number
// of partitions is an error. Several nodes may call it at once.
func (s *Store) Init(ctx context.Context, account string) error {
	if err := s.client.SetNX(ctx, s.keys.PartitionCount(), s.keys.Partitions, 0).Err(); err != nil {
		return unavailable("init", err)
	}
	if err := s.Check(ctx); err != nil {
		return err
	}
	s.account.Store(&account)
	_, err := s.ensureDefault(ctx)
	return err
}

// Check reports whether Redis is in use as this Store would use it, and changes nothing.
// It fails with KindNotFound if no node has used it, with this prefix, and with
// KindInvalid if it has another number of partitions.
func (s *Store) Check(ctx context.Context) error {
	have, err := s.client.Get(ctx, s.keys.PartitionCount()).Int()
	switch {
	case errors.Is(err, redis.Nil):
		return &presence.Error{Op: "init", Kind: presence.KindNotFound, Err: fmt.Errorf("no node has used this Redis with the key prefix %q", s.keys.Prefix)}
	case err != nil:
		return unavailable("init", err)
	case have != s.keys.Partitions:
		return &presence.Error{Op: "init", Kind: presence.KindInvalid, Err: fmt.Errorf(
			"this Redis holds %d partitions, the configuration says %d: set partitions to %d, or use another key prefix", have, s.keys.Partitions, have)}
	}
	return nil
}

// ensureDefault returns the SID of the default service, made if there is none.
func (s *Store) ensureDefault(ctx context.Context) (string, error) {
	v, err := s.writeService(ctx, "default", presence.Service{Account: *s.account.Load(), FriendlyName: "Default service", Linger: -1})
	if err == nil {
		s.defaultedTo.Store(&v.SID)
	}
	return v.SID, err
}

// run runs a script on a partition. The clock offset is its first argument.
func (s *Store) run(ctx context.Context, op string, script *redis.Script, p presence.Partition, args ...any) (any, error) {
	reply, err := script.Run(ctx, s.client, s.declared(p), append([]any{s.offset()}, args...)...).Result()
	if err != nil {
		return nil, unavailable(op, err)
	}
	return reply, nil
}

// declared are the keys by which a script of a partition is sent to where that is. Scripts
// spell the others themselves.
//
// A Cluster is told of two that never exist. While it moves a slot, a command whose
// keys are not all there is sent on to the slot's next owner, and that refuses one of several
// keys of which any is missing. So a script runs only where all of its partition is.
func (s *Store) declared(p presence.Partition) []string {
	base := s.keys.Base(p)
	if s.sharded {
		return []string{base, base + ":"}
	}
	return []string{base}
}

func (s *Store) offset() int64 {
	if s.opt.Offset == nil {
		return 0
	}
	return s.opt.Offset.Load()
}

// unavailable classes an error of the client: what Redis itself refuses (a script
// error, OOM) is internal, all else means that it could not be reached.
func unavailable(op string, err error) error {
	kind := presence.KindUnavailable
	if _, ok := errors.AsType[redis.Error](err); ok && !transient(err) {
		kind = presence.KindInternal
	}
	return &presence.Error{Op: op, Kind: kind, Err: err}
}

// transient reports whether Redis answered that it cannot serve just now.
func transient(err error) bool {
	for _, p := range away {
		if redis.HasErrorPrefix(err, p) {
			return true
		}
	}
	return false
}

// away is how answers begin by which Redis says that it cannot serve just now: it starts, it is
// no primary (any more), its Cluster is not whole, the slot is on its way to another server, it
// cannot write to disk or to enough replicas, it is full, or busy.
var away = []string{
	"LOADING", "READONLY", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "ASK ", "MOVED ", "MISCONF", "NOREPLICAS", "OOM", "BUSY", "UNKILLABLE",
	"max number of clients reached",
}

func malformed(op string, reply any) error {
	return &presence.Error{Op: op, Kind: presence.KindInternal, Err: fmt.Errorf("unexpected reply %T", reply)}
}

func ms(d time.Duration) int64 { return d.Milliseconds() }

func flag(b bool) string {
	if b {
		return "1"
	}
	return "0"
}

// newSID returns prefix and as many random hex digits as make 34 characters.
func (s *Store) newSID(prefix string) string {
	var b [16]byte
	if _, err := io.ReadFull(s.opt.Rand, b[:]); err != nil {
		panic(err) // crypto/rand does not fail
	}
	return prefix + hex.EncodeToString(b[:])[:34-len(prefix)]
}

// optional is a field of a hash with the value to set, nil to keep what is there.
type optional struct {
	name  string
	value *string
}

// given appends the fields that are to be set to a script's arguments.
func given(args []any, list []optional) []any {
	for _, f := range list {
		if f.value != nil {
			args = append(args, f.name, *f.value)
		}
	}
	return args
}

// fields reads a hash as HGETALL or HMGET left it.
type fields map[string]string

func (f fields) int(name string) int64 {
	n, _ := strconv.ParseInt(f[name], 10, 64)
	return n
}

func (f fields) tri(name string) presence.Tri { return triOf(f[name]) }

func triOf(field string) presence.Tri {
	switch field {
	case "1":
		return presence.True
	case "0":
		return presence.False
	}
	return presence.Null
}

func (f fields) millis(name string) time.Time { return timeOf(f.int(name)) }

// timeOf is a time in ms, zero if there is none.
func timeOf(n int64) time.Time {
	if n != 0 {
		return time.UnixMilli(n).UTC()
	}
	return time.Time{}
}

// hash makes fields of a script's HGETALL reply.
func hash(reply any) (fields, bool) {
	list, ok := reply.([]any)
	if !ok || len(list)%2 != 0 {
		return nil, false
	}
	f := make(fields, len(list)/2)
	for i := 0; i < len(list); i += 2 {
		name, ok1 := list[i].(string)
		value, ok2 := list[i+1].(string)
		if !ok1 || !ok2 {
			return nil, false
		}
		f[name] = value
	}
	return f, true
}

// written makes fields of the reply of a script that writes a record and returns it, or
// "missing" if there is nothing to write to.
func written(op string, reply any, err, missing error) (fields, error) {
	if err != nil {
		return nil, err
	}
	if reply == "missing" {
		return nil, missing
	}
	f, ok := hash(reply)
	if !ok {
		return nil, malformed(op, reply)
	}
	return f, nil
}

// texts are the strings of a reply.
func texts(reply any) ([]string, bool) {
	list, ok := reply.([]any)
	all := make([]string, len(list))
	for i, v := range list {
		if all[i], ok = v.(string); !ok {
			return nil, false
		}
	}
	return all, ok
}

package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rollcall-presence/rollcall/client"
	"github.com/rollcall-presence/rollcall/internal/keys"
	"github.com/rollcall-presence/rollcall/internal/testkit"
	"github.com/rollcall-presence/rollcall/internal/testkit/rig"
	"github.com/rollcall-presence/rollcall/presence"
)

// verified is what rollcall verify --json prints.
type verified struct {
	Partitions, Services, Unexamined int
	Disagreements                    []struct {
		Kind, Service, Identity, Says, Cause, Repair string
		Partition                                    int
		Repaired                                     bool
	}
}

// verify runs rollcall verify and returns what it says and its exit code.
func verify(t *testing.T, redisURL string, env []string, args ...string) (v verified, code int, stderr string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), rig.Binary(t), append([]string{"verify", "--json"}, args...)...)
	cmd.Env = append([]string{
		"ROLLCALL_REDIS_URL=" + redisURL, "ROLLCALL_ACCOUNT_SID=" + rig.Account, "ROLLCALL_AUTH_TOKEN=" + rig.AuthToken,
		"ROLLCALL_API_KEY_SID=" + rig.KeySID, "ROLLCALL_API_KEY_SECRET=" + rig.KeySecret, "HOME=" + os.Getenv("HOME"),
	}, env...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	_ = cmd.Run()
	code = cmd.ProcessState.ExitCode()
	if out.Len() > 0 {
		if err := json.Unmarshal(out.Bytes(), &v); err != nil {
			t.Fatalf("verify printed %q: %v", out.String(), err)
		}
	}
	return v, code, errs.String()
}

var errNoRound = errors.New("no round of the self-check has shown it")

// While users come and go on three nodes verify finds nothing, however often; of a ghost
// among them it finds just that, and once it is repaired watchers see the truth.
func TestVerify(t *testing.T) {
	t.Parallel() // most of it is waiting
	redis := testkit.Redis(t)
	redisURL := "redis://" + redis.Addr
	env := []string{
		"ROLLCALL_HEARTBEAT=300ms", "ROLLCALL_LEASE_TTL=3s", "ROLLCALL_LINGER=400ms", "ROLLCALL_PARTITIONS=3", "ROLLCALL_VERIFY_INTERVAL=1s",
	}
	nodes := []*rig.Node{rig.Start(t, redisURL, env...), rig.Start(t, redisURL, env...), rig.Start(t, redisURL, env...)}
	sid := nodes[0].NewService()
	watcher := rig.Watch(t, nodes[1].WS(), sid, "watcher", "ghost")
	ghost := rig.Connect(t, nodes[0].WS(), sid, "ghost", client.Options{})

	stop := make(chan struct{})
	var churn sync.WaitGroup
	for i := range 60 {
		churn.Go(func() { comeAndGo(t, nodes, sid, fmt.Sprint("user", i), rand.New(rand.NewPCG(4, uint64(i))), stop) })
	}
	t.Cleanup(churn.Wait)
	stopChurn := sync.OnceFunc(func() { close(stop) })
	t.Cleanup(stopChurn)

	for range 20 {
		rig.Elapse(t, 250*time.Millisecond)
		if v, code, said := verify(t, redisURL, env); code != 0 || v.Partitions != 3 || len(v.Disagreements) > 0 {
			t.Fatalf("under churn: exit code %d, %s: %+v", code, said, v)
		}
	}

	c := redis.Client()
	defer func() { _ = c.Close() }()
	k := keys.Keys{Prefix: "rc:", Partitions: 3}
	p := k.Of(presence.Key{Service: sid, Identity: "ghost"})
	record, err := c.HGet(t.Context(), k.State(p, sid), "ghost").Result()
	if err != nil {
		t.Fatal(err)
	}
	block := k.OnBlock(p, sid, 9999)
	if err := c.HSet(t.Context(), block, "", "a-node-that-died", "ghost", strings.Repeat("9", presence.SessionIDLen)).Err(); err != nil {
		t.Fatal(err)
	}
	if err := c.Expire(t.Context(), block, time.Hour).Err(); err != nil {
		t.Fatal(err)
	}
	if err := c.HSet(t.Context(), k.State(p, sid), "ghost", record+",9999").Err(); err != nil {
		t.Fatal(err)
	}
	if err := ghost.Close(); err != nil {
		t.Fatal(err)
	}
	wantGhost := func(repaired bool, args ...string) {
		t.Helper()
		v, code, said := verify(t, redisURL, env, args...)
		if code != 1 || len(v.Disagreements) != 1 {
			t.Fatalf("with a ghost: exit code %d, %s: %+v; want 1 and one disagreement", code, said, v)
		}
		if d := v.Disagreements[0]; d.Kind != "session_without_lease" || d.Service != sid || d.Identity != "ghost" ||
			d.Partition != int(k.Of(presence.Key{Service: sid, Identity: "ghost"})) || d.Repaired != repaired || !strings.Contains(d.Says, "a-node-that-died") {
			t.Errorf("with a ghost: %+v", d)
		}
	}
	wantGhost(false)
	metric := `rollcall_drift_users{kind="session_without_lease"}`
	rig.Within(t, time.Minute, "some node's own check finds it", func() error {
		for _, n := range nodes {
			if n.Metrics()[metric] == 1 {
				return nil
			}
		}
		return errNoRound
	})
	if got := watcher.History("ghost"); got != "true" {
		t.Errorf("watcher saw %q of the ghost; want true", got)
	}
	wantGhost(false, "--service", sid)
	wantGhost(true, "--repair")
	rig.Eventually(t, "the watcher sees the ghost leave", func() error {
		if got := watcher.History("ghost"); got != "true false" {
			return fmt.Errorf("saw %q", got)
		}
		return nil
	})
	if got := rig.State(nodes[2].Online(sid, "ghost")); got != "false" {
		t.Errorf("REST: the ghost is online: %s; want false", got)
	}
	stopChurn()
	churn.Wait()
	if v, code, said := verify(t, redisURL, env); code != 0 {
		t.Errorf("after the repair: exit code %d, %s: %+v", code, said, v)
	}
	rig.Within(t, time.Minute, "every node's own check finds nothing", func() error {
		for _, n := range nodes {
			if m := n.Metrics(); m[metric] != 0 || m[`rollcall_verify_rounds_total{outcome="ok"}`] == 0 || m["rollcall_verify_last_round_timestamp_seconds"] == 0 {
				return errNoRound
			}
		}
		return nil
	})
	for _, n := range nodes {
		for name, v := range n.Metrics() {
			if strings.HasPrefix(name, "rollcall_drift_sessions_total") && v != 0 {
				t.Errorf("%s = %v under churn; want 0", name, v)
			}
		}
	}
}

// comeAndGo has a user connect to some node, stay a moment and leave in some way, until
// stop is closed.
func comeAndGo(t *testing.T, nodes []*rig.Node, sid, identity string, r *rand.Rand, stop <-chan struct{}) {
	for {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		c, err := client.Dial(ctx, nodes[r.IntN(len(nodes))].WS(), client.Options{Token: rig.Mint(sid, identity)})
		cancel()
		if err != nil {
			t.Errorf("connecting %s: %v", identity, err)
			return
		}
		select {
		case <-stop:
			c.Drop()
			return
		case <-time.After(time.Duration(r.IntN(700)) * time.Millisecond):
		}
		if r.IntN(2) == 0 {
			_ = c.Close()
		} else {
			c.Drop()
		}
		select {
		case <-stop:
			return
		case <-time.After(time.Duration(r.IntN(700)) * time.Millisecond):
		}
	}
}

// Where verify cannot look it says so, with an exit code of its own.
func TestVerifyCannotLook(t *testing.T) {
	redis := testkit.Redis(t)
	empty := "redis://" + redis.Addr
	for _, c := range []struct {
		what, url, want string
		args            []string
	}{
		{"nothing there", empty, "no node has used this Redis", nil},
		{"no Redis", "redis://" + testkit.FreeAddr(t), "connect", nil},
		{"embedded", "embedded", "rollcall_drift_users", nil},
		{"no such SID", empty, "not the SID of a service", []string{"--service", "nonsense"}},
	} {
		if v, code, said := verify(t, c.url, nil, c.args...); code != 2 || !strings.Contains(said, c.want) {
			t.Errorf("%s: exit code %d, %q, %+v; want 2 and %q", c.what, code, said, v, c.want)
		}
	}
	rig.Start(t, empty)
	if _, code, said := verify(t, empty, []string{"ROLLCALL_PARTITIONS=4"}); code != 2 || !strings.Contains(said, "256 partitions") {
		t.Errorf("another number of partitions: exit code %d, %q; want 2", code, said)
	}
	if _, code, said := verify(t, empty, nil, "--service", "IS0123456789abcdef0123456789abcdef"); code != 2 || !strings.Contains(said, "no such service") {
		t.Errorf("a service that there is not: exit code %d, %q; want 2", code, said)
	}
	if v, code, said := verify(t, empty, nil); code != 0 || v.Services != 1 || v.Partitions != 256 {
		t.Errorf("a fresh store: exit code %d, %q, %+v; want 0", code, said, v)
	}
}

package load

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"github.com/rollcall-presence/rollcall/internal/load/report"
)

// Options are what a run needs beside its Settings.
type Options struct {
	Settings
	// AuthToken is the account's, for REST.
	AuthToken string
	// Admins are the base addresses of the nodes' admin servers, in the order of URLs, to read
	// metrics from. Without them a report has only the clients' side.
	Admins []string
	// Redis is the address of Redis, to read its figures; of a run that starts nodes, what they use.
	Redis string
	// Nodes is how many nodes the run starts for itself on loopback; 0 if URLs are there already.
	Nodes int
	// Binary is the program that Nodes are, and Env their further environment.
	Binary string
	Env    []string
	// Restart is a command that restarts a node, whose number from 0 is in NODE. A run that starts nodes needs none.
	Restart string
	// Processes is how many processes the clients are; 0 for as few as the limit on files allows.
	Processes int
	// From are local addresses to connect from; by default, to nodes on loopback, 127.1.x.y.
	From []string
	// Bare has a bare loop of the WebSocket library tell the same clients of as many events, for comparison.
	Bare bool
	// AtRest measures the nodes' memory after they have collected their garbage, which takes a while.
	AtRest bool
	// Profiles is a directory for CPU profiles of the ramp and of the acts, and for heap
	// profiles, of each node; none if empty.
	Profiles string
	// Progress is told what goes on; may be nil.
	Progress *Progress

	settle time.Duration // how long watchers may be behind once there are no more acts
}

// Run plays a scenario and tells what it found. The error tells why it could not, or not to
// its end: then what there is of a report is returned with it, and that has not passed.
// That something did not hold is in the report's checks. Run leaves nothing behind.
func Run(ctx context.Context, opt Options) (*report.Report, error) {
	if err := opt.Validate(); err != nil {
		return nil, err
	}
	r := &run{opt: opt, began: time.Now(), totals: newTotals()}
	defer r.close(ctx)
	playing, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	err := r.prepare(playing, fail)
	prepared := err == nil
	if prepared {
		if err = r.play(playing); err != nil {
			err = cmp.Or(context.Cause(playing), err) // what else went wrong then is of no interest
		}
	}
	if ctx.Err() != nil {
		err = fmt.Errorf("interrupted: %w", context.Cause(ctx))
	}
	if !prepared {
		return nil, err
	}
	if r.stopped = err; err != nil {
		r.atEnd = r.totals.counts()
	}
	return r.report(), err
}

// run is one call of Run.
type run struct {
	opt     Options
	began   time.Time
	cluster *cluster // nil if the nodes are others'
	scraper *scraper
	crew    *crew
	board   *board
	file    string // the board's
	bare    *child
	totals  *totals

	// What was seen at the borders of the phases.
	before, ramped, rested, acting, acted sample
	ramp, acts                            time.Duration
	atRamped, atEnd                       counts
	behind                                int64
	restarts                              int
	clients                               int   // processes
	stopped                               error // why it was not played to its end
}

// close ends and removes what the run made, whether ctx has ended or not.
func (r *run) close(ctx context.Context) {
	if r.crew != nil {
		r.crew.close()
	}
	if r.bare != nil {
		closeAll([]*child{r.bare}, func() { _ = r.bare.ended() })
	}
	if r.cluster == nil && r.opt.Service != "" {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
		defer cancel()
		_ = r.rest(ctx, http.MethodDelete, "/v1/Services/"+r.opt.Service, nil, nil)
	}
	if r.scraper != nil {
		r.scraper.close()
	}
	if r.cluster != nil {
		r.cluster.stop()
	}
	if r.board != nil {
		r.board.close()
		_ = os.Remove(r.file)
	}
}

// prepare starts and makes all that the run needs, and finds out whether it can succeed.
// fail is told if something of that ends later.
func (r *run) prepare(ctx context.Context, fail func(error)) (err error) {
	opt := &r.opt
	limits, err := readLimits()
	if err != nil {
		return err
	}
	if r.clients, err = opt.processes(limits); err != nil {
		return err
	}
	if opt.Profiles != "" {
		if err := os.MkdirAll(opt.Profiles, 0o750); err != nil {
			return fmt.Errorf("profiles: %w", err)
		}
	}
	if opt.Nodes > 0 {
		opt.Progress.phase("starting nodes")
		if r.cluster, err = startCluster(ctx, opt.Binary, opt.Redis, opt.Nodes, opt.Env, fail); err != nil {
			return err
		}
		for _, n := range r.cluster.nodes {
			opt.URLs = append(opt.URLs, "ws://"+n.Addr+"/v1/connect")
			opt.Admins = append(opt.Admins, "http://"+n.AdminAddr)
		}
		opt.Account, opt.AuthToken, opt.KeySID, opt.KeySecret = clusterAccount, clusterAuthToken, clusterKeySID, clusterKeySecret
		if opt.Redis == "" {
			opt.Redis = "redis://" + r.cluster.redisAddr
		}
	}
	if r.scraper, err = newScraper(opt.Admins, opt.Redis); err != nil {
		return err
	}
	if err := r.scraper.check(ctx); err != nil {
		return err
	}
	if err := r.makeService(ctx); err != nil {
		return err
	}
	if r.board, r.file, err = newBoard(opt.users()); err != nil {
		return err
	}
	if err := r.reach(ctx); err != nil {
		return err
	}
	if opt.Bare {
		if r.bare, err = startChild("bare"); err != nil {
			return err
		}
		if opt.BareURL, err = r.bare.line(); err != nil {
			return fmt.Errorf("the bare loop: %w", err)
		}
	}
	opt.Progress.phase(fmt.Sprintf("%s from %s (%d files each at most)", many(opt.connections(), "connection"), many(r.clients, "process"), limits.files))
	r.crew, err = startCrew(r.clients, func(i int) part {
		return part{Settings: opt.Settings, Index: i, Of: r.clients, Board: r.file, From: opt.from(i, r.clients, limits)}
	}, r.totals)
	return err
}

// reach tries a session at each node.
func (r *run) reach(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, 20*time.Second, errors.New("no answer within 20s"))
	defer cancel()
	settings := r.opt.Settings
	for _, u := range r.opt.URLs {
		settings.URLs = []string{u}
		w, err := newWorker(part{Settings: settings, Of: settings.users() + 1, Board: r.file, From: r.opt.From}) // it has no sessions
		if err != nil {
			return err
		}
		conn, err := newSession(w, r.opt.cast().bare(), nil).join(ctx, time.Now())
		w.board.close()
		if err != nil {
			return fmt.Errorf("a session at %s: %w", u, cmp.Or(explain(err), err))
		}
		err = conn.Send([]byte(`{"type":"bye"}`))
		_ = conn.Close()
		if err != nil {
			return err
		}
	}
	return nil
}

// rest makes a REST request of the first node.
func (r *run) rest(ctx context.Context, method, path string, form url.Values, into any) error {
	u, err := parse(r.opt.URLs[0])
	if err != nil {
		return err
	}
	scheme := map[string]string{"ws": "http", "wss": "https"}[u.Scheme]
	req, err := http.NewRequestWithContext(ctx, method, scheme+"://"+u.Host+path, strings.NewReader(form.Encode()))
	if err != nil {
		return err
	}
	req.SetBasicAuth(r.opt.Account, r.opt.AuthToken)
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = res.Body.Close() }()
	switch {
	case res.StatusCode == http.StatusUnauthorized:
		return fmt.Errorf("%s %s answers %s: look at --account-sid and ROLLCALL_AUTH_TOKEN", method, path, res.Status)
	case res.StatusCode > 299:
		return fmt.Errorf("%s %s answers %s", method, path, res.Status)
	}
	if into == nil {
		return nil
	}
	return json.NewDecoder(res.Body).Decode(into)
}

// makeService makes the service of the run, with the switch on.
func (r *run) makeService(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	var made struct {
		SID string `json:"sid"`
	}
	if err := r.rest(ctx, http.MethodPost, "/v1/Services", url.Values{"FriendlyName": {"rollcall-load " + r.opt.Scenario}}, &made); err != nil {
		return fmt.Errorf("making a service for the run: %w", err)
	}
	r.opt.Service = made.SID
	path := "/v1/Services/" + made.SID + "/Configuration"
	if err := r.rest(ctx, http.MethodPost, path, url.Values{"ReachabilityEnabled": {"true"}}, nil); err != nil {
		return err
	}
	return r.rest(ctx, http.MethodPost, path+"/Presence", url.Values{"Linger": {strconv.Itoa(int(r.opt.Linger.Seconds()))}}, nil)
}

// play goes through the phases.
func (r *run) play(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	watching := make(chan struct{})
	go func() { defer close(watching); r.watch(ctx) }()
	defer func() { cancel(); <-watching }()

	var err error
	if r.opt.AtRest {
		r.opt.Progress.phase("nodes come to rest")
		if r.before, err = r.scraper.rest(ctx); err != nil {
			return err
		}
	}
	r.before = r.scraper.sample(ctx)
	total := r.opt.Sessions
	if r.opt.Bare {
		total *= 2
	}
	r.opt.Progress.target("connecting", total)
	stop := r.profile(ctx, "ramp", time.Duration(float64(total)/r.opt.Rate*float64(time.Second)))
	began := time.Now()
	if err := r.crew.order(ctx, order{Do: "ramp", At: began.Add(100 * time.Millisecond)}); err != nil {
		return err
	}
	r.ramp = time.Since(began)
	if err := stop(); err != nil {
		return err
	}
	if err := r.settle(ctx); err != nil {
		return err
	}
	r.ramped, r.atRamped = r.scraper.sample(ctx), r.totals.counts()
	if r.opt.AtRest {
		r.opt.Progress.phase("nodes come to rest")
		if r.rested, err = r.scraper.rest(ctx); err != nil {
			return err
		}
	}
	if r.opt.Profiles != "" {
		if err := r.scraper.profile(ctx, r.opt.Profiles, "heap", "/debug/pprof/heap"); err != nil {
			return err
		}
	}
	if err := r.act(ctx); err != nil {
		return err
	}
	r.acted, r.atEnd = r.scraper.sample(ctx), r.totals.counts()
	r.opt.Progress.phase("saying bye")
	return r.crew.order(ctx, order{Do: "end"})
}

// act has the acts done and waits until all have been seen.
func (r *run) act(ctx context.Context) error {
	r.opt.Progress.phase(r.opt.Scenario)
	stop := r.profile(ctx, "act", r.opt.For)
	r.acting = r.scraper.sample(ctx)
	began := time.Now()
	if r.opt.Scenario == "rolling" {
		if err := r.restartAll(ctx); err != nil {
			return err
		}
	}
	beating, done := context.WithCancel(ctx)
	beats := make(chan error, 1)
	go func() { beats <- r.beatBare(beating) }()
	err := r.crew.order(ctx, order{Do: "act", At: time.Now().Add(100 * time.Millisecond), In: r.opt.For})
	done()
	r.acts = time.Since(began)
	if err := errors.Join(err, <-beats); err != nil {
		return err // the profile ends with ctx
	}
	if err := stop(); err != nil {
		return err
	}
	return r.settle(ctx)
}

// beatBare has the bare loop act as often as all actors do, in the middle between them.
func (r *run) beatBare(ctx context.Context) error {
	if r.bare == nil {
		return nil
	}
	at := time.Now().Add(100*time.Millisecond + time.Duration(float64(time.Second)/r.opt.Acts/2))
	err := pace(ctx, at, at.Add(r.opt.For-time.Duration(float64(time.Second)/r.opt.Acts)), r.opt.Acts, func(_ int, due time.Time) bool {
		_, err := fmt.Fprintln(r.bare.in, r.opt.cast().bare(), r.file, r.opt.users(), due.UnixNano())
		return err == nil
	})
	if ctx.Err() == nil {
		return err
	}
	return nil
}

// profile begins a CPU profile, and returns what waits for its end.
func (r *run) profile(ctx context.Context, name string, d time.Duration) func() error {
	if r.opt.Profiles == "" {
		return func() error { return nil }
	}
	seconds := max(int(d.Seconds()), 1)
	done := make(chan error, 1)
	go func() {
		done <- r.scraper.profile(ctx, r.opt.Profiles, name, "/debug/pprof/profile?seconds="+strconv.Itoa(seconds))
	}()
	return func() error { return <-done }
}

// settle waits until every watcher has seen all acts, or for so long that they never will.
func (r *run) settle(ctx context.Context) error {
	for deadline := time.Now().Add(cmp.Or(r.opt.settle, 30*time.Second)); ; {
		var err error
		if r.behind, err = r.crew.settle(ctx); err != nil || r.behind == 0 || time.Now().After(deadline) {
			return err
		}
		if err := sleep(ctx, 100*time.Millisecond); err != nil {
			return err
		}
	}
}

// restartAll restarts all nodes one after the other.
func (r *run) restartAll(ctx context.Context) error {
	for i := range r.opt.URLs {
		r.opt.Progress.phase(fmt.Sprintf("restarting node %d", i+1))
		if r.cluster != nil {
			if err := r.cluster.restart(ctx, i); err != nil {
				return err
			}
			r.scraper.move(i, "http://"+r.cluster.nodes[i].AdminAddr)
		} else {
			if err := restart(ctx, r.opt.Restart, i); err != nil {
				return err
			}
		}
		r.restarts++
	}
	return nil
}

// restart runs the user's command. What that leaves running may keep its output.
func restart(ctx context.Context, command string, node int) error {
	out, err := os.CreateTemp("", "rollcall-load-")
	if err != nil {
		return err
	}
	defer func() { _ = out.Close() }()
	if err := os.Remove(out.Name()); err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, "sh", "-c", command) //nolint:gosec // the user's command
	cmd.Env = append(cmd.Environ(), "NODE="+strconv.Itoa(node))
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Run(); err != nil {
		said, _ := io.ReadAll(io.NewSectionReader(out, 0, 4<<10))
		return fmt.Errorf("restart of node %d: %w: %s", node, err, said)
	}
	return nil
}

// watch looks at everything once a second until ctx ends.
func (r *run) watch(ctx context.Context) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			now := r.scraper.sample(ctx)
			if ctx.Err() == nil {
				r.opt.Progress.live(r.totals.second(time.Since(r.began), now))
			}
		}
	}
}

// Validate joins all that is wrong with the options, and fills in the linger.
func (o *Options) Validate() error {
	if o.Linger == 0 {
		o.Linger = 10 * time.Second
	}
	errs := []error{o.Settings.Validate()}
	wrong := func(is bool, message string) {
		if is {
			errs = append(errs, errors.New(message))
		}
	}
	wrong(o.Nodes == 0 && len(o.URLs) == 0, "url: say where the nodes are, or --nodes to start some")
	wrong(o.Nodes > 0 && len(o.URLs) > 0, "nodes: nodes are started, or are at --url, not both")
	wrong(o.Nodes < 0 || o.Nodes > 64, "nodes: must be from 0 to 64")
	wrong(o.Processes < 0 || o.Processes > 256, "processes: must be from 0 to 256")
	wrong(len(o.Admins) > 0 && len(o.Admins) != len(o.URLs), "admin: name one for each --url, or none")
	wrong(o.Scenario == "rolling" && o.Nodes == 0 && o.Restart == "", "restart: say how to restart a node")
	wrong(o.Scenario == "rolling" && o.Nodes == 1, "nodes: a rolling restart needs two")
	wrong(o.Bare && o.Scenario != "celebrity", "bare: only celebrity is compared with a bare loop")
	wrong(o.AtRest && o.Nodes == 0 && len(o.Admins) == 0, "at-rest: needs --admin")
	wrong(o.Profiles != "" && o.Nodes == 0 && len(o.Admins) == 0, "profiles: needs --admin")
	wrong(o.Linger%time.Second != 0, "linger: must be whole seconds")
	for _, from := range o.From {
		wrong(net.ParseIP(from) == nil, fmt.Sprintf("from: %q is no IP address", from))
	}
	for _, admin := range o.Admins {
		u, err := url.Parse(admin)
		wrong(err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https", fmt.Sprintf("admin: %q is no http:// or https:// address", admin))
	}
	return errors.Join(errs...)
}

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/rollcall-presence/rollcall/auth"
	"github.com/rollcall-presence/rollcall/client"
	"github.com/rollcall-presence/rollcall/configs"
	"github.com/rollcall-presence/rollcall/gateway"
	"github.com/rollcall-presence/rollcall/presence"
)

func runWatch(ctx context.Context, in *invocation) error {
	service := in.flags.String("service", "", "`SID` of the service that the users are in (IS...)")
	as := in.flags.String("as", "rollcall-watch", "`name` to connect with; it is not shown as online, unless with --online")
	online := in.flags.Bool("online", false, "be online while watching")
	server := in.flags.String("url", "", "`address` of the gateway, like wss://presence.example.com (default: where the settings say it is)")
	events := in.flags.Int("events", -1, "end after so many events of users; -1: when stopped")
	raw := in.flags.Bool("json", false, "print a JSON object a line")
	cfg, err := in.load()
	if err != nil {
		return err
	}
	identities := in.flags.Args()
	switch {
	case *service == "":
		return usagef("--service is required: give the SID of a service (IS...)")
	case len(identities) == 0:
		return usagef("nobody to watch: name users after the flags")
	}
	for _, identity := range identities {
		if strings.HasPrefix(identity, "--") {
			return usagef("%s comes too late: write flags before the users", identity)
		}
		if err := presence.CheckIdentity(identity); err != nil {
			return usagef("cannot watch %q: %w", identity, err)
		}
	}
	target, err := connectURL(*server, cfg)
	if err != nil {
		return err
	}
	mint := func(context.Context) (string, error) {
		return auth.Mint(signingKey(cfg), *service, *as, time.Now(), time.Hour)
	}
	if _, err := mint(ctx); err != nil {
		return usageError{err}
	}

	s := &screen{
		out: in.stdout, notes: in.stderr, raw: *raw, colour: colourful(in.stdout, in.env),
		end: make(chan error, 1), left: *events, seen: make(map[string]int64),
	}
	for _, identity := range identities {
		s.width = max(s.width, len(printable(identity)))
	}
	c, err := client.Dial(ctx, target, client.Options{
		Token: mint, Invisible: !*online, Batch: true,
		OnEvent:   s.event,
		OnConnect: func(w client.Welcome) { s.connected(target, w) },
		OnDisconnect: func(err error, wait time.Duration) {
			s.note("%v; trying again in %v", err, wait.Round(100*time.Millisecond))
		},
	})
	if err != nil {
		return watchEnd(ctx, refusal(err, target, *service))
	}
	users, err := c.Subscribe(ctx, identities...)
	for _, u := range users {
		s.snapshot(u)
	}
	if err == nil && *events != 0 {
		select {
		case <-ctx.Done():
		case <-c.Done():
			err = c.Err()
		case err = <-s.end:
		}
	}
	return errors.Join(watchEnd(ctx, refusal(err, target, *service)), c.Close()) //nolint:contextcheck // bye is said after ctx has ended
}

// refusal says what to do about err, where that is known.
func refusal(err error, target, service string) error {
	if e, ok := errors.AsType[*client.StatusError](err); ok && e.Status < 500 {
		return fmt.Errorf("%s is no Rollcall gateway, or refuses this connection: it answers %d; check --url", target, e.Status)
	}
	e, ok := errors.AsType[*client.Error](err)
	switch {
	case !ok:
		return err
	case e.Code == int(gateway.ErrorNoService):
		return fmt.Errorf("there is no service %s at %s: GET /v1/Services lists those there are", service, target)
	case e.Code >= auth.CodeInvalid && e.Code <= auth.CodeSignature:
		return fmt.Errorf("%s refuses the access token: %w; give watch the account and API key of that gateway", target, e)
	}
	return err
}

// watchEnd is nil if err came of ctx ending, which is how a watch is stopped.
func watchEnd(ctx context.Context, err error) error {
	if ctx.Err() == nil {
		return err
	}
	return nil
}

// connectURL is the address of the native protocol on server, or where cfg says that the gateway is.
func connectURL(server string, cfg configs.Config) (string, error) {
	if server == "" {
		server = cfg.PublicURL
	}
	if server == "" {
		server = "ws://" + reachable(cfg.Addr)
		if cfg.TLSCert != "" {
			server = "wss://" + reachable(cfg.Addr)
		}
	}
	u, err := url.Parse(server)
	if err != nil || u.Host == "" || !slices.Contains([]string{"ws", "wss", "http", "https"}, u.Scheme) {
		return "", usagef("--url is %q: write it like ws://127.0.0.1:8080 or wss://presence.example.com", server)
	}
	u.Scheme = strings.Replace(u.Scheme, "http", "ws", 1)
	if strings.Trim(u.Path, "/") == "" {
		u.Path = "/v1/connect"
	}
	return u.String(), nil
}

// colourful tells whether out is a terminal whose user has nothing against colours (https://no-color.org).
func colourful(out io.Writer, env []string) bool {
	f, ok := out.(*os.File)
	if !ok || slices.ContainsFunc(env, func(kv string) bool { return strings.HasPrefix(kv, "NO_COLOR=") && kv != "NO_COLOR=" }) {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

// screen prints what a watch sees: users on out, the state of the connection on notes.
type screen struct {
	out, notes  io.Writer
	raw, colour bool
	width       int // of the longest identity

	end chan error // holds the first error of out, or nil once enough was seen; never closed

	mu   sync.Mutex       // guards the following, and keeps lines whole
	seen map[string]int64 // revision last printed, by identity
	left int              // events to be printed yet; negative: no end
}

func (s *screen) print(line string) {
	if _, err := io.WriteString(s.out, line+"\n"); err != nil {
		s.stop(err)
	}
}

func (s *screen) stop(err error) {
	select {
	case s.end <- err:
	default: // the first is enough
	}
}

func (s *screen) note(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	fmt.Fprintf(s.notes, "%s "+format+"\n", append([]any{clock()}, args...)...)
}

func (s *screen) connected(target string, w client.Welcome) {
	state := ""
	if !w.ReachabilityEnabled {
		state = "; reachability is off in this service, so everybody is unknown"
	}
	s.note("connected to %s as %s%s", target, printable(w.Identity), state)
}

func (s *screen) event(e client.Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case e.Kind == client.UserUpdated:
		if s.left == 0 {
			return
		}
		s.user("user.updated", e.User, e.Reasons)
		if s.left--; s.left == 0 {
			s.stop(nil)
		}
	case s.raw:
		line := map[string]any{"type": e.Kind}
		if e.Err != nil {
			line["code"], line["message"] = e.Err.Code, e.Err.Message
		} else {
			line["reachability_enabled"] = e.ReachabilityEnabled
		}
		s.printJSON(line)
	case e.Kind == client.ServiceUpdated && e.ReachabilityEnabled:
		s.print(clock() + " reachability is on")
	case e.Kind == client.ServiceUpdated:
		s.print(clock() + " reachability is off")
	default:
		s.print(clock() + " " + printable(e.Err.Error()))
	}
}

func (s *screen) snapshot(u client.User) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.user("snapshot", u, nil)
}

// user prints the state of a user unless a newer one was printed already.
func (s *screen) user(typ string, u client.User, reasons []string) {
	if last, ok := s.seen[u.Identity]; ok && u.Rev <= last {
		return
	}
	s.seen[u.Identity] = u.Rev
	if s.raw {
		line := map[string]any{"type": typ, "user": u}
		if reasons != nil {
			line["update_reasons"] = reasons
		}
		s.printJSON(line)
		return
	}
	state := map[string]string{"yes": "online ", "no": "offline", "?": "unknown"}[tri(u.IsOnline)]
	if s.colour {
		state = map[string]string{"yes": "\x1b[32m", "no": "\x1b[31m", "?": "\x1b[2m"}[tri(u.IsOnline)] + state + "\x1b[0m"
	}
	line := fmt.Sprintf("%s %-*s %s  push: %-3s  rev %d", clock(), s.width, printable(u.Identity), state, tri(u.IsNotifiable), u.Rev)
	if len(reasons) > 0 {
		line += "  " + printable(strings.Join(reasons, " "))
	}
	s.print(line)
}

func (s *screen) printJSON(v any) {
	line, err := json.Marshal(v)
	if err != nil {
		line = []byte(strconv.Quote(err.Error()))
	}
	s.print(string(line))
}

func clock() string { return time.Now().Format("15:04:05.000") }

func tri(b *bool) string {
	switch {
	case b == nil:
		return "?"
	case *b:
		return "yes"
	default:
		return "no"
	}
}

// printable quotes s if it could do anything to a terminal but be read.
func printable(s string) string {
	if quoted := strconv.QuoteToGraphic(s); quoted != `"`+s+`"` {
		return quoted
	}
	return s
}

package load

import (
	"context"
	"fmt"
	"io"
	"math"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
)

// sample is what nodes and Redis say of themselves at a time. What nobody could be asked for is zero.
type sample struct {
	at    time.Time
	nodes []nodeSample
	redis redisSample
}

type nodeSample struct {
	ok                                     bool
	cpu, resident, goroutines, commands    float64 // s, B, number, number
	connections, delivered, conflated, out float64 // numbers, B
}

type redisSample struct {
	ok               bool
	cpu, used, calls float64 // s, B, number
}

// cpu is the CPU time of all nodes, in seconds.
func (s *sample) cpu() float64 {
	return s.sum(func(n nodeSample) float64 { return n.cpu })
}

// told tells whether there are nodes and each was asked.
func (s *sample) told() bool {
	return len(s.nodes) > 0 && !slices.ContainsFunc(s.nodes, func(n nodeSample) bool { return !n.ok })
}

func (s *sample) sum(of func(nodeSample) float64) (v float64) {
	for _, n := range s.nodes {
		v += of(n)
	}
	return v
}

// scraper asks the nodes' admin servers and Redis.
type scraper struct {
	mu     sync.Mutex // guards admins
	admins []string   // base addresses
	redis  *redis.Client
}

func newScraper(admins []string, redisURL string) (*scraper, error) {
	s := &scraper{admins: admins}
	if redisURL != "" {
		opt, err := redis.ParseURL(redisURL)
		if err != nil {
			return nil, fmt.Errorf("redis: %w", err)
		}
		s.redis = redis.NewClient(opt)
	}
	return s, nil
}

func (s *scraper) close() {
	if s.redis != nil {
		_ = s.redis.Close()
	}
}

// admin is the admin server of a node; move says that it has another.
func (s *scraper) admin(i int) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.admins[i]
}

func (s *scraper) move(i int, admin string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.admins[i] = admin
}

func (s *scraper) sample(ctx context.Context) sample {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	out := sample{at: time.Now(), nodes: make([]nodeSample, len(s.admins))}
	for i := range s.admins {
		m, err := metrics(ctx, s.admin(i))
		if err != nil {
			continue
		}
		out.nodes[i] = nodeSample{
			ok: true, cpu: m["process_cpu_seconds_total"], resident: m["process_resident_memory_bytes"], goroutines: m["go_goroutines"],
			commands: m["rollcall_redis_commands_total"], connections: m["rollcall_connections"], delivered: m["rollcall_events_delivered_total"],
			conflated: m["rollcall_events_conflated_total"], out: m["rollcall_bytes_out_total"],
		}
	}
	if s.redis != nil {
		if info, err := s.redis.Info(ctx).Result(); err == nil {
			m := fields(info)
			out.redis = redisSample{ok: true, cpu: m["used_cpu_sys"] + m["used_cpu_user"], used: m["used_memory"], calls: m["total_commands_processed"]}
		}
	}
	return out
}

// check tells whether the nodes and Redis can be asked.
func (s *scraper) check(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	for i := range s.admins {
		if _, err := metrics(ctx, s.admin(i)); err != nil {
			return fmt.Errorf("admin: %w", err)
		}
	}
	if s.redis != nil {
		if err := s.redis.Info(ctx).Err(); err != nil {
			return fmt.Errorf("redis: %w", err)
		}
	}
	return nil
}

func get(ctx context.Context, url string) (io.ReadCloser, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept-Encoding", "identity") // to compress would cost what is to be measured
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	if res.StatusCode != http.StatusOK {
		_ = res.Body.Close()
		return nil, fmt.Errorf("%s answers %s", url, res.Status)
	}
	return res.Body, nil
}

// metrics are a node's, those of one name with different labels added.
func metrics(ctx context.Context, admin string) (map[string]float64, error) {
	body, err := get(ctx, admin+"/metrics")
	if err != nil {
		return nil, err
	}
	defer func() { _ = body.Close() }()
	text, err := io.ReadAll(io.LimitReader(body, 16<<20))
	if err != nil {
		return nil, err
	}
	m := map[string]float64{}
	for line := range strings.Lines(string(text)) {
		name, rest, labels := strings.Cut(line, "{")
		if labels { // their values may hold anything
			rest = rest[strings.LastIndexByte(rest, '}')+1:]
		} else {
			name, rest, _ = strings.Cut(line, " ")
		}
		if value := strings.Fields(rest); len(value) > 0 { // a timestamp may follow
			add(m, name, value[0])
		}
	}
	return m, nil
}

// fields are the numbers of Redis' INFO.
func fields(info string) map[string]float64 {
	m := map[string]float64{}
	for line := range strings.Lines(info) {
		name, value, _ := strings.Cut(line, ":")
		add(m, name, strings.TrimSpace(value))
	}
	return m
}

// add adds to a number of m what is one and finite.
func add(m map[string]float64, name, value string) {
	if v, err := strconv.ParseFloat(value, 64); err == nil && !math.IsNaN(v) && !math.IsInf(v, 0) {
		m[name] += v
	}
}

// rest has the nodes collect their garbage until that frees nothing more, and is what they
// say then: the runtime does the same of itself within a few minutes.
func (s *scraper) rest(ctx context.Context) (sample, error) {
	last := 0.
	for range 12 {
		for i := range s.admins {
			body, err := get(ctx, s.admin(i)+"/debug/pprof/heap?gc=1")
			if err != nil {
				return sample{}, err
			}
			_, _ = io.Copy(io.Discard, body)
			_ = body.Close()
		}
		if err := sleep(ctx, 2*time.Second); err != nil {
			return sample{}, err
		}
		now := s.sample(ctx)
		resident := now.sum(func(n nodeSample) float64 { return n.resident })
		if last != 0 && resident > last*0.99 {
			return now, nil
		}
		last = resident
	}
	return s.sample(ctx), nil
}

// profile keeps a profile of each node in a directory.
func (s *scraper) profile(ctx context.Context, dir, name, path string) error {
	var wg sync.WaitGroup
	errs := make([]error, len(s.admins))
	for i := range s.admins {
		wg.Go(func() {
			errs[i] = func() error {
				body, err := get(ctx, s.admin(i)+path)
				if err != nil {
					return err
				}
				defer func() { _ = body.Close() }()
				f, err := os.Create(filepath.Join(dir, fmt.Sprintf("%s-node%d.pprof", name, i+1))) //nolint:gosec // the user's
				if err != nil {
					return err
				}
				_, err = io.Copy(f, body)
				if e := f.Close(); err == nil {
					err = e
				}
				return err
			}()
		})
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

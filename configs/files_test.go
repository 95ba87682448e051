package configs_test

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/rollcall-presence/rollcall/configs"
)

func decodeYAML(t *testing.T, name string, v any) {
	t.Helper()
	data, err := os.ReadFile(name)
	if err == nil {
		err = yaml.Unmarshal(data, v)
	}
	if err != nil {
		t.Fatal(err)
	}
}

type composeService struct {
	Environment map[string]string
	StopGrace   string   `yaml:"stop_grace_period"`
	Volumes     []string `yaml:"volumes"`
}

func compose(t *testing.T) map[string]composeService {
	t.Helper()
	var file struct {
		Services map[string]composeService
	}
	decodeYAML(t, "../docker-compose.yml", &file)
	return file.Services
}

// TestCompose starts from what docker-compose.yml says of the gateways and holds the files beside it to that.
func TestCompose(t *testing.T) {
	services := compose(t)
	var gateways []string
	for name, s := range services {
		if !strings.HasPrefix(name, "gateway") {
			continue
		}
		gateways = append(gateways, name)
		var env []string
		for k, v := range s.Environment {
			for _, credential := range credentials { // stands in for .env
				if strings.HasPrefix(v, "${"+k) && strings.HasPrefix(credential, k+"=") {
					v = strings.TrimPrefix(credential, k+"=")
				}
			}
			env = append(env, k+"="+v)
		}
		c, err := load(nil, env...)
		if err != nil {
			t.Errorf("%s is not configured right: %v", name, err)
			continue
		}
		if c.Addr != ":8080" || c.AdminAddr != ":9090" || c.RedisURL != "redis://redis:6379" || len(c.TrustedProxies) != 1 {
			t.Errorf("%s serves on %s and %s from %s behind %v", name, c.Addr, c.AdminAddr, c.RedisURL, c.TrustedProxies)
		}
		if grace, err := time.ParseDuration(s.StopGrace); err != nil || grace <= c.DrainTimeout+5*time.Second {
			t.Errorf("%s is killed after %s, error %v; its drain takes %v", name, s.StopGrace, err, c.DrainTimeout)
		}
	}
	slices.Sort(gateways)
	if len(gateways) != 3 {
		t.Errorf("gateways are %q; want three", gateways)
	}
	for name, s := range services {
		for _, volume := range s.Volumes {
			if source, _, _ := strings.Cut(volume, ":"); strings.HasPrefix(source, "./") {
				if _, err := os.Stat("../" + source); err != nil {
					t.Errorf("%s mounts what is not there: %v", name, err)
				}
			}
		}
	}

	t.Run("haproxy.cfg", func(t *testing.T) {
		data, err := os.ReadFile("haproxy.cfg")
		if err != nil {
			t.Fatal(err)
		}
		var servers []string
		for _, m := range regexp.MustCompile(`(?m)^    server (\S+) (\S+):8080$`).FindAllStringSubmatch(string(data), -1) {
			if m[1] != m[2] {
				t.Errorf("server %s is at %s", m[1], m[2])
			}
			servers = append(servers, m[1])
		}
		if !slices.Equal(servers, gateways) {
			t.Errorf("servers are %q; want %q", servers, gateways)
		}
		m := regexp.MustCompile(`(?m)^    timeout tunnel (\S+)$`).FindStringSubmatch(string(data))
		if m == nil {
			t.Fatal("there is no timeout tunnel")
		}
		c := configs.Default()
		if tunnel, err := time.ParseDuration(m[1]); err != nil || tunnel <= 2*(c.PingInterval+c.PongTimeout) {
			t.Errorf("timeout tunnel is %s, error %v; pings come every %v", m[1], err, c.PingInterval)
		}
		if !strings.Contains(string(data), "check port 9090 ") || !strings.Contains(string(data), "GET /readyz") {
			t.Error("readiness is not asked for on the admin port")
		}
	})

	t.Run("prometheus.yml", func(t *testing.T) {
		var file struct {
			ScrapeConfigs []struct {
				Job     string `yaml:"job_name"`
				Targets []struct {
					Targets []string
				} `yaml:"static_configs"`
			} `yaml:"scrape_configs"`
		}
		decodeYAML(t, "prometheus.yml", &file)
		want := map[string][]string{"rollcall": {}, "haproxy": {"haproxy:8404"}}
		for _, name := range gateways {
			want["rollcall"] = append(want["rollcall"], name+":9090")
		}
		for _, job := range file.ScrapeConfigs {
			if len(job.Targets) != 1 || !slices.Equal(job.Targets[0].Targets, want[job.Job]) {
				t.Errorf("%s scrapes %v; want %q", job.Job, job.Targets, want[job.Job])
			}
			delete(want, job.Job)
		}
		if len(want) > 0 {
			t.Errorf("jobs are missing: %v", want)
		}
	})
}

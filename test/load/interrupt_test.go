package load

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rollcall-presence/rollcall/internal/testkit"
	"github.com/rollcall-presence/rollcall/internal/testkit/rig"
)

// TestInterrupt ends a run in the midst of it, by a signal to the program alone and, as Ctrl-C does, to all of its
// processes: it ends soon, says so by its status, and nothing of it is left.
func TestInterrupt(t *testing.T) {
	testkit.NeedRedis(t)
	t.Parallel()
	for _, how := range []struct {
		name   string
		signal syscall.Signal
		group  bool
	}{{"SIGINT", syscall.SIGINT, false}, {"Ctrl-C", syscall.SIGINT, true}, {"SIGTERM", syscall.SIGTERM, false}} {
		t.Run(how.name, func(t *testing.T) {
			t.Parallel()
			file := filepath.Join(t.TempDir(), "report.json")
			c := prepare(t, "celebrity", "--bare", "--nodes", "2", "--processes", "2", "--sessions", "40", "--acts", "4", "--for", "1m", "--binary", rig.Binary(t), "--json", file)
			c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // a terminal gives it one
			if err := c.Start(); err != nil {
				t.Fatal(err)
			}
			pid := c.Process.Pid
			rig.Eventually(t, "it is in the midst of it", func() error {
				if !strings.Contains(c.stderr.String(), "\ncelebrity\n") {
					return fmt.Errorf("it says %q", c.stderr.String())
				}
				return nil
			})
			// two nodes, Redis, two workers and the bare loop
			all := descendants(t, pid)
			t.Cleanup(func() {
				for _, p := range all {
					if p.alive() {
						_ = syscall.Kill(p.pid, syscall.SIGKILL)
					}
				}
			})
			if len(all) != 6 {
				t.Errorf("it has the processes %v; want 6", all)
			}
			shared := boards(t, all)
			if len(shared) != 1 {
				t.Errorf("its processes share the files %q; want one", shared)
			}
			to := pid
			if how.group {
				to = -pid
			}
			began := time.Now()
			if err := syscall.Kill(to, how.signal); err != nil {
				t.Fatal(err)
			}
			status := c.ended(t, c.Wait())
			if took := time.Since(began); status != 1 || took > 8*time.Second {
				t.Errorf("it ended with %d after %v; want 1 within seconds", status, took)
			}
			for _, p := range all {
				if p.alive() {
					t.Errorf("%v is left", p)
				}
			}
			for _, name := range shared {
				if _, err := os.Stat(name); !errors.Is(err, os.ErrNotExist) {
					t.Errorf("%s is left: %v", name, err)
				}
			}
			if _, err := os.Stat(file); err == nil && read(t, file).Passed() {
				t.Error("the report of a run that was not played to its end says that it passed")
			}
			if said := c.stderr.String(); !strings.Contains(said, "rollcall-load: interrupted") || strings.Contains(said, "goroutine ") {
				t.Errorf("it said %q", said)
			}
		})
	}
}

// process is one of the system's, which its number and the time of its start tell from all others.
type process struct {
	pid     int
	parent  string
	started string
	line    string
}

func (p process) String() string { return fmt.Sprintf("%d %s", p.pid, p.line) }

// alive reports whether it has not ended.
func (p process) alive() bool {
	now, ok := processOf(p.pid)
	return ok && now.started == p.started
}

// processOf is the process of a number; false if it has ended.
func processOf(pid int) (process, bool) {
	dir := filepath.Join("/proc", strconv.Itoa(pid))
	stat, err := os.ReadFile(filepath.Join(dir, "stat"))
	if err != nil {
		return process{}, false
	}
	// pid (name) state parent ...; the 22nd is the start
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	line, _ := os.ReadFile(filepath.Join(dir, "cmdline"))
	return process{pid, fields[1], fields[19], string(bytes.ReplaceAll(line, []byte{0}, []byte{' '}))}, fields[0] != "Z"
}

// descendants are the processes that a process has started, and those that these have.
func descendants(t *testing.T, pid int) (list []process) {
	t.Helper()
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil || len(dirs) == 0 {
		t.Skipf("there is no /proc: %v", err)
	}
	for _, dir := range dirs {
		n, _ := strconv.Atoi(filepath.Base(dir))
		if p, ok := processOf(n); ok && p.parent == strconv.Itoa(pid) {
			list = append(append(list, p), descendants(t, n)...)
		}
	}
	return list
}

var shared = regexp.MustCompile(`(?m)/\S*rollcall-load-\d+$`)

// boards are the files that processes share in memory.
func boards(t *testing.T, all []process) (names []string) {
	t.Helper()
	for _, p := range all {
		maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", p.pid))
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, shared.FindAllString(string(maps), -1)...)
	}
	slices.Sort(names)
	return slices.Compact(names)
}

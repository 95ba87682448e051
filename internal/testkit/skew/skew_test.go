package skew_test

import (
	"encoding/json"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/rollcall-presence/rollcall/internal/testkit/skew"
)

// TestTheClockIsOff asks a gateway what time it is: the Date of its answers says.
func TestTheClockIsOff(t *testing.T) {
	t.Parallel()
	program := skew.Build(t, "github.com/rollcall-presence/rollcall/cmd/rollcall")
	for _, off := range []time.Duration{-10 * time.Minute, 10 * time.Minute, 0} {
		ready := filepath.Join(t.TempDir(), "ready.json")
		cmd := exec.CommandContext(t.Context(), program, "serve")
		cmd.Env = []string{"ROLLCALL_ADDR=127.0.0.1:0", "ROLLCALL_ADMIN_ADDR=127.0.0.1:0", "ROLLCALL_READY_FILE=" + ready, skew.Env(off)}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		var serves struct {
			AdminAddr string `json:"admin_addr"`
		}
		for deadline := time.After(30 * time.Second); serves.AdminAddr == ""; {
			if data, err := os.ReadFile(ready); err == nil {
				if err := json.Unmarshal(data, &serves); err != nil {
					t.Fatal(err)
				}
				break
			}
			select {
			case <-deadline:
				t.Fatal("the gateway does not serve")
			case <-time.After(10 * time.Millisecond):
			}
		}
		res, err := http.Get("http://" + serves.AdminAddr + "/healthz")
		if err != nil {
			t.Fatal(err)
		}
		_ = res.Body.Close()
		says, err := http.ParseTime(res.Header.Get("Date"))
		if err != nil {
			t.Fatal(err)
		}
		if miss := says.Sub(time.Now().Add(off)).Abs(); miss > 20*time.Second {
			t.Errorf("with a clock off by %v the Date is %v, at %v", off, says, time.Now())
		}
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}
}

package e2e

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/rollcall-presence/rollcall/internal/testkit/rig"
)

// The README's transcript is what really happens: each command is run, in one shell,
// against a gateway as make run starts it, and prints what the README says.
func TestREADME(t *testing.T) {
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	block := regexp.MustCompile("(?s)```console\n(.*?)```").FindSubmatch(readme)
	if block == nil {
		t.Fatal("the README has no transcript")
	}
	n := rig.Start(t, "embedded", "ROLLCALL_ACCOUNT_SID=", "ROLLCALL_AUTH_TOKEN=", "ROLLCALL_API_KEY_SID=", "ROLLCALL_API_KEY_SECRET=")
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "bin"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(rig.Binary(t), filepath.Join(dir, "bin", "rollcall")); err != nil {
		t.Fatal(err)
	}
	transcript := strings.ReplaceAll(string(block[1]), "127.0.0.1:8080", n.Addr)
	const mark = "### "
	var script, want strings.Builder
	commands := 0
	for line := range strings.Lines(transcript) {
		if command, ok := strings.CutPrefix(line, "$ "); ok {
			commands++
			script.WriteString("printf '\\n" + mark + "\\n'\n" + command)
			want.WriteString(`\n*` + mark + `\n`)
			continue
		}
		// … stands for anything on the line
		want.WriteString(strings.ReplaceAll(regexp.QuoteMeta(strings.TrimSuffix(line, "\n")), "…", ".*") + `\n*`)
	}
	if commands < 5 {
		t.Fatalf("the transcript has %d commands; the test looks at nothing", commands)
	}
	sh := exec.CommandContext(t.Context(), "bash", "-c", script.String())
	sh.Dir = dir
	sh.Env = append(os.Environ(), "ROLLCALL_ADDR="+n.Addr)
	var out, stderr bytes.Buffer
	sh.Stdout, sh.Stderr = &out, &stderr
	if err := sh.Run(); err != nil {
		t.Errorf("the transcript fails: %v\n%s", err, &stderr)
	}
	if !regexp.MustCompile(`^` + want.String() + `$`).Match(out.Bytes()) {
		t.Errorf("the transcript printed\n%s\nwant\n%s", &out, transcript)
	}
}

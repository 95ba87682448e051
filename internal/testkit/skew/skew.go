// Package skew builds programs that take the wall clock to be another than it is,
// without a hook for that in the program: the toolchain is given another time package.
package skew

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const variable = "CLOCK_SKEW_SECONDS"

// Env is what to put into the environment of a program that Build built so that its
// clock is off by d, in whole seconds: ahead if d is positive. Only the wall clock is
// off; timers, and times between two readings, are right.
func Env(d time.Duration) string { return fmt.Sprintf("%s=%d", variable, int64(d/time.Second)) }

// reads is where time.Now reads the clock, and skewed what is put there.
const (
	reads  = "func Now() Time {\n\tsec, nsec, mono := runtimeNow()\n"
	skewed = reads + "\tsec += skew\n"
)

// declared is the file that is added to package time. Of what that package imports
// already, only syscall can read the environment.
const declared = `package time

import "syscall"

var skew = func() (n int64) {
	text, _ := syscall.Getenv("` + variable + `")
	sign := int64(1)
	for i, c := range text {
		if i == 0 && c == '-' {
			sign = -1
		} else {
			n = n*10 + int64(c-'0')
		}
	}
	return n * sign
}()
`

// Build builds a command and returns the path of the program, which is removed when
// the test ends. Without Env its clock is right. The first build compiles most of the
// standard library and takes a minute or more; later ones find that in the cache.
func Build(t testing.TB, command string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "go", "env", "GOROOT").Output()
	if err != nil {
		t.Fatal(err)
	}
	pkg := filepath.Join(strings.TrimSpace(string(out)), "src", "time")
	original, err := os.ReadFile(filepath.Join(pkg, "time.go")) //nolint:gosec // G304: of the installed Go
	if err != nil {
		t.Fatal(err)
	}
	if strings.Count(string(original), reads) != 1 {
		t.Fatal("this release of Go reads the clock in another way: time.Now is to be changed in another way too")
	}

	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil { //nolint:gosec // G703: in a directory of the test
			t.Fatal(err)
		}
		return path
	}
	overlay, err := json.Marshal(map[string]any{"Replace": map[string]string{
		filepath.Join(pkg, "time.go"): write("time.go", strings.Replace(string(original), reads, skewed, 1)),
		filepath.Join(pkg, "skew.go"): write("skew.go", declared),
	}})
	if err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(dir, filepath.Base(command))
	build := exec.CommandContext(t.Context(), "go", "build", "-overlay", write("overlay.json", string(overlay)), "-o", program, command) //nolint:gosec // G204: a test says what it builds
	build.Env = append(os.Environ(), "CGO_ENABLED=0")                                                                                    //nolint:forbidigo // the go command needs it
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building %s: %v\n%s", command, err, out)
	}
	return program
}

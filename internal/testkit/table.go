package testkit

import (
	"os"
	"strings"
	"testing"
)

// Block holds a block of code in a document, which a marker follows, against the text wanted; with update it writes it.
func Block(t testing.TB, file, marker, want string, update bool) {
	t.Helper()
	b, err := os.ReadFile(file) //nolint:gosec // G304: a test names its own document
	if err != nil {
		t.Fatal(err)
	}
	const fence = "```\n"
	before, after, ok := strings.Cut(string(b), fence+marker)
	start := strings.LastIndex(before, "\n```")
	if !ok || start < 0 {
		t.Fatalf("%s has no block of code before %s", file, marker)
	}
	start += 1 + strings.Index(before[start+1:], "\n") + 1
	if before[start:] == want {
		return
	}
	if !update {
		t.Fatalf("the block before %s in %s differs; run this test with -update\ngot:\n%s\nwant:\n%s", marker, file, before[start:], want)
	}
	if err := os.WriteFile(file, []byte(before[:start]+want+fence+marker+after), 0o600); err != nil { //nolint:gosec // G703: as above
		t.Fatal(err)
	}
}

// Table holds the rows of a table of a document, which a marker follows, against those wanted; with update it writes
// them. The table's head stays as it is.
func Table(t testing.TB, file, marker string, want []string, update bool) {
	t.Helper()
	b, err := os.ReadFile(file) //nolint:gosec // G304: a test names its own document
	if err != nil {
		t.Fatal(err)
	}
	before, after, ok := strings.Cut(string(b), marker)
	if !ok {
		t.Fatalf("%s has no %s", file, marker)
	}
	head := strings.LastIndex(before, "|---|") // the last line of the table's head
	if head < 0 {
		t.Fatalf("%s has no table before %s", file, marker)
	}
	head += strings.Index(before[head:], "\n") + 1
	table := strings.Join(want, "\n") + "\n"
	if before[head:] == table {
		return
	}
	if !update {
		t.Fatalf("the table before %s in %s is not that of the code; run this test with -update\ngot:\n%s\nwant:\n%s", marker, file, before[head:], table)
	}
	if err := os.WriteFile(file, []byte(before[:head]+table+marker+after), 0o600); err != nil { //nolint:gosec // G703: as above
		t.Fatal(err)
	}
}

package configs

import (
	_ "embed"
	"fmt"
	"io"
	"net/netip"
	"strings"
	"sync"

	"go.yaml.in/yaml/v3"
)

// reference is the commented file that documents every setting.
//
//go:embed rollcall.yaml
var reference []byte

// description is what rollcall.yaml says of a setting.
type description string

// short is its first sentence, for --help.
func (d description) short() string {
	s, _, _ := strings.Cut(string(d), ". ")
	return strings.TrimSuffix(s, ".")
}

// descriptions reads the comment above each key of the reference. The file is part of the program, so a mistake in it
// is a programmer's.
var descriptions = sync.OnceValue(func() map[string]description {
	var doc yaml.Node
	if err := yaml.Unmarshal(reference, &doc); err != nil {
		panic(fmt.Sprintf("configs: rollcall.yaml: %v", err))
	}
	out := make(map[string]description)
	root := doc.Content[0]
	for i := 0; i < len(root.Content); i += 2 {
		comment := root.Content[i].HeadComment
		if end := strings.LastIndex(comment, "\n\n"); end >= 0 {
			comment = comment[end+2:] // what stands before a blank line belongs to the section
		}
		var lines []string
		for line := range strings.SplitSeq(comment, "\n") {
			lines = append(lines, strings.TrimSpace(strings.TrimPrefix(line, "#")))
		}
		out[root.Content[i].Value] = description(strings.Join(lines, " "))
	}
	return out
})

// Print writes c as YAML, secrets and passwords masked.
func (c *Config) Print(w io.Writer) error {
	for _, f := range fields(c) {
		var value any
		switch p := f.ptr.(type) {
		case *int, *[]string, *[]netip.Prefix:
			value = p
		default:
			value = f.String()
		}
		line, err := yaml.Marshal(map[string]any{f.key: value})
		if err != nil {
			return err
		}
		if _, err := w.Write(line); err != nil {
			return err
		}
	}
	return nil
}

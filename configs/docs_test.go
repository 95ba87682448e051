package configs_test

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/google/go-cmp/cmp"

	"github.com/rollcall-presence/rollcall/configs"
)

var update = flag.Bool("update", false, "rewrite docs/configuration.md")

// TestReference holds rollcall.yaml to the struct: every setting, in order, explained, with its default.
func TestReference(t *testing.T) {
	data, err := os.ReadFile("rollcall.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var doc yaml.Node
	if err := yaml.Unmarshal(data, &doc); err != nil {
		t.Fatal(err)
	}
	var inFile, inStruct []string
	for i := 0; i < len(doc.Content[0].Content); i += 2 {
		inFile = append(inFile, doc.Content[0].Content[i].Value)
	}
	for _, s := range configs.Settings() {
		inStruct = append(inStruct, s.Key)
		if s.Doc == "" {
			t.Errorf("%s has no comment in rollcall.yaml", s.Key)
		}
	}
	if diff := cmp.Diff(inStruct, inFile); diff != "" {
		t.Errorf("rollcall.yaml has other settings than Config (-Config +file):\n%s", diff)
	}

	c := configs.Config{}
	if err := configs.DecodeFile(data, &c); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(configs.Default(), c, append(compare, cmp.Transformer("nil", nilIfEmpty[[]string]))...); diff != "" {
		t.Errorf("rollcall.yaml has other values than Default (-Default +file):\n%s", diff)
	}
}

func nilIfEmpty[S ~[]E, E any](s S) []E {
	if len(s) == 0 {
		return nil
	}
	return s
}

// TestDocs keeps docs/configuration.md in step: go test ./configs -run TestDocs -update rewrites it.
func TestDocs(t *testing.T) {
	const name = "../docs/configuration.md"
	want := markdown()
	if *update {
		if err := os.WriteFile(name, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, string(got)); diff != "" {
		t.Errorf("docs/configuration.md is out of step; go test ./configs -run TestDocs -update rewrites it (-want +got):\n%s", diff)
	}
}

func markdown() string {
	var b strings.Builder
	b.WriteString(`# Configuration

<!-- Written by go test ./configs -run TestDocs -update from configs/rollcall.yaml. Do not edit. -->

Settings come from defaults, then the YAML file that ` + "`--config` or `ROLLCALL_CONFIG`" + ` names, then the environment,
then flags; the later wins. ` + "`ping_interval`" + ` in the file is ` + "`ROLLCALL_PING_INTERVAL`" + ` in the environment and
` + "`--ping-interval`" + ` as a flag. Durations are written ` + "`25s` or `1m30s`, sizes `65536` or `64KiB`" + `, lists with commas (in the file also
as YAML lists). An unknown name, a value that cannot be read or settings that contradict each other stop the start with
a line each. ` + "`rollcall config check`" + ` checks without starting, ` + "`rollcall config print`" + ` shows what is in force.

| setting | environment | default | |
|---|---|---|---|
`)
	for _, s := range configs.Settings() {
		value := ""
		if s.Default != "" {
			value = "`" + s.Default + "`"
		}
		fmt.Fprintf(&b, "| `%s` | `%s` | %s | %s |\n", s.Key, s.Env, value, strings.ReplaceAll(s.Doc, "|", `\|`))
	}
	c := configs.Default()
	bounds := c.Bounds()
	b.WriteString(`
## Bounds that follow

How long a user who left may still be shown online, by how it left. A node prints these at start, and exports them as
` + "`rollcall_staleness_bound_seconds`" + `; what is measured is in ` + "`rollcall_departure_seconds`" + `. What Redis takes to answer comes on
top, milliseconds as a rule. Where a service has its own linger, that counts.

| departure | what happened | longest time | with the defaults |
|---|---|---|---|
`)
	for _, d := range bounds.Departures {
		fmt.Fprintf(&b, "| `%s` | %s | %s | %v |\n", d.Departure, d.What, d.Formula, d.Max)
	}
	fmt.Fprintf(&b, "\nA time in which no node's heartbeat came through, longer than the smaller of half of lease_ttl and two heartbeats (%v), is counted for nobody, "+
		"whether Redis or all nodes were away or the machine was too busy: what was due is put off by as long as it lasted.\n", bounds.Silence)
	fmt.Fprintf(&b, "\nAfter Redis was away every subscriber's view is true again within a heartbeat (%v).\n", bounds.Repair)
	return b.String()
}

package configs

import (
	"bytes"
	"cmp"
	"crypto/rand"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// EnvPrefix starts the name of every environment variable that is a setting.
const EnvPrefix = "ROLLCALL_"

// FileEnv names the YAML file when --config does not.
const FileEnv = EnvPrefix + "CONFIG"

// The development credentials, used with the embedded store when none are set. They are public knowledge, so Validate
// refuses to serve with them beyond this machine.
const (
	DevAccountSID   = "ACdec0de00000000000000000000000001"
	DevAuthToken    = "dec0de00000000000000000000000002"
	DevAPIKeySID    = "SKdec0de00000000000000000000000003"
	DevAPIKeySecret = "dec0de00000000000000000000000004"
)

// Load merges, each over the one before, the defaults, the YAML file named by --config or ROLLCALL_CONFIG, the
// environment (env holds "KEY=value", as os.Environ gives it) and args, which fs parses: Load adds a flag for every
// setting to fs, and the caller may have added flags of its own; what is left is in fs.Args.
//
// The error joins everything that is wrong: unknown keys, values that cannot be read, and what Validate finds, one
// line each. A request for help is returned as flag.ErrHelp, alone.
func Load(fs *flag.FlagSet, args, env []string) (Config, error) {
	c := Default()
	all := fields(&c)

	file := fs.String("config", "", "read settings from this YAML `file`")
	type setting struct {
		field
		value string
	}
	var flags []setting
	help := descriptions()
	for _, f := range all {
		fs.Func(f.flag(), help[f.key].short()+defaultText(f), func(v string) error {
			flags = append(flags, setting{f, v})
			return nil
		})
	}
	if err := fs.Parse(args); errors.Is(err, flag.ErrHelp) {
		return Config{}, err
	} else if err != nil {
		return Config{}, fmt.Errorf("%w; --help lists what there is", err)
	}

	var errs []error
	vars, err := environ(env)
	errs = append(errs, err)
	if name := cmp.Or(*file, vars[FileEnv]); name != "" {
		data, err := os.ReadFile(name) //nolint:gosec // G304: the operator names the file
		if err != nil {
			errs = append(errs, fmt.Errorf("config: %w", err))
		} else if err := decodeFile(data, all); err != nil {
			errs = append(errs, fmt.Errorf("in %s: %w", name, err))
		}
	}
	for _, f := range all {
		if v, ok := vars[f.env()]; ok {
			if err := f.set(v); err != nil {
				errs = append(errs, fmt.Errorf("%s: %w", f.env(), err))
			}
		}
	}
	for _, s := range flags {
		if err := s.set(s.value); err != nil {
			errs = append(errs, fmt.Errorf("--%s: %w", s.flag(), err))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return Config{}, err // values are missing, so more complaints could mislead
	}
	c.resolve()
	return c, c.Validate()
}

func defaultText(f field) string {
	if v := f.String(); v != "" {
		return " (default " + v + ")"
	}
	return ""
}

// environ picks our variables from env and refuses those that nothing reads.
func environ(env []string) (map[string]string, error) {
	known := []string{strings.TrimPrefix(FileEnv, EnvPrefix)}
	for _, f := range fields(new(Config)) {
		known = append(known, strings.ToUpper(f.key))
	}
	vars := make(map[string]string)
	var errs []error
	for _, kv := range env {
		k, v, _ := strings.Cut(kv, "=")
		switch {
		case !strings.HasPrefix(k, EnvPrefix) || foreign(k):
		case slices.Contains(known, strings.TrimPrefix(k, EnvPrefix)):
			vars[k] = v
		default:
			hint := suggest(strings.TrimPrefix(k, EnvPrefix), known)
			errs = append(errs, fmt.Errorf("%s: no such setting%s", k, hint))
		}
	}
	return vars, errors.Join(errs...)
}

// foreign tells variables that begin like ours and are not meant for us: Kubernetes sets ROLLCALL_SERVICE_HOST and
// ROLLCALL_PORT for a service named rollcall, and the tests around the binary have two of their own.
func foreign(k string) bool {
	return k == EnvPrefix+"BIN" || k == EnvPrefix+"URL" || k == EnvPrefix+"PORT" ||
		strings.HasPrefix(k, EnvPrefix+"PORT_") || strings.HasPrefix(k, EnvPrefix+"SERVICE_")
}

// decodeFile sets what the YAML document data says. Values are read exactly as in the environment.
func decodeFile(data []byte, all []field) error {
	var doc yaml.Node
	dec := yaml.NewDecoder(bytes.NewReader(data))
	if err := dec.Decode(&doc); errors.Is(err, io.EOF) {
		return nil // empty
	} else if err != nil {
		return err
	}
	if err := dec.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return errors.New("there is more than one document: keep the first")
	}
	root := doc.Content[0]
	if root.Kind == yaml.ScalarNode && root.Tag == "!!null" {
		return nil // nothing but comments
	}
	if root.Kind != yaml.MappingNode {
		return errors.New(`must be lines like "linger: 10s"`)
	}

	known := make([]string, len(all))
	byKey := make(map[string]field, len(all))
	for i, f := range all {
		known[i], byKey[f.key] = f.key, f
	}
	var errs []error
	seen := make(map[string]bool)
	for i := 0; i+1 < len(root.Content); i += 2 {
		key, value := root.Content[i], root.Content[i+1]
		f, ok := byKey[key.Value]
		var err error
		switch {
		case !ok:
			err = errors.New("no such setting" + suggest(key.Value, known))
		case seen[key.Value]:
			err = errors.New("is set twice: keep one")
		default:
			seen[key.Value] = true
			err = setNode(f, value)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("line %d, %s: %w", key.Line, key.Value, err))
		}
	}
	return errors.Join(errs...)
}

func setNode(f field, n *yaml.Node) error {
	switch {
	case n.Kind == yaml.ScalarNode && n.Tag == "!!null":
		return errors.New(`has no value: give one (nothing is "") or remove the line`)
	case n.Kind == yaml.ScalarNode:
		return f.set(n.Value)
	case n.Kind == yaml.SequenceNode && f.list():
		items := make([]string, len(n.Content))
		for i, item := range n.Content {
			if item.Kind != yaml.ScalarNode {
				return errors.New("must be a list of plain values")
			}
			items[i] = item.Value
		}
		return f.setList(items)
	case f.list():
		return errors.New("must be a list")
	default:
		return errors.New("must be a single value")
	}
}

// resolve fills in the settings whose default depends on others.
func (c *Config) resolve() {
	if c.RedisURL == Embedded && c.AccountSID == "" && c.AuthToken == "" && c.APIKeySID == "" && c.APIKeySecret == "" {
		c.AccountSID, c.AuthToken = DevAccountSID, DevAuthToken
		c.APIKeySID, c.APIKeySecret = DevAPIKeySID, DevAPIKeySecret
	}
	if c.Addr == "" {
		c.Addr = ":8080"
		if c.Development() {
			c.Addr = "127.0.0.1:8080"
		}
	}
	if c.Partitions == 0 {
		c.Partitions = 256
		if c.RedisURL == Embedded {
			c.Partitions = 16
		}
	}
	if c.NodeID == "" {
		c.NodeID = strings.ToLower(rand.Text()[:12])
	}
}

// Development tells whether any of the development credentials is in use.
func (c *Config) Development() bool {
	return c.AccountSID == DevAccountSID || c.AuthToken == DevAuthToken ||
		c.APIKeySID == DevAPIKeySID || c.APIKeySecret == DevAPIKeySecret
}

// suggest names the known key nearest to an unknown one, if one is near enough to be a slip.
func suggest(unknown string, known []string) string {
	if len(unknown) > 64 {
		return ": remove it" // no slip, and the comparison below takes time
	}
	best, least := "", 1+len(unknown)/4
	for _, k := range known {
		if d := editDistance(strings.ToLower(unknown), strings.ToLower(k)); d <= least {
			best, least = k, d-1
		}
	}
	if best == "" {
		return ": remove it"
	}
	return ": did you mean " + best + "?"
}

func editDistance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			next := min(row[j+1], row[j]) + 1
			if a[i] == b[j] {
				next = min(next, diagonal)
			} else {
				next = min(next, diagonal+1)
			}
			diagonal, row[j+1] = row[j+1], next
		}
	}
	return row[len(b)]
}

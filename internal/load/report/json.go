package report

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
)

// MaxSize is the size in bytes of the largest report that Read takes.
const MaxSize = 64 << 20

// Read reads one report in JSON, as Write writes it, to the end of rd. It refuses what
// is larger than MaxSize, is of another Version, or has something after the report. All
// figures that it returns are finite.
func Read(rd io.Reader) (*Report, error) {
	b, err := io.ReadAll(io.LimitReader(rd, MaxSize+1))
	if err != nil {
		return nil, fmt.Errorf("read report: %w", err)
	}
	if len(b) > MaxSize {
		return nil, fmt.Errorf("read report: it is larger than %d MiB", MaxSize>>20)
	}
	// The version comes first: another one may not fit the types of this one.
	var v struct {
		Version *int `json:"version"`
	}
	if err := json.Unmarshal(b, &v); err != nil {
		return nil, fmt.Errorf("read report: %w", err)
	}
	switch {
	case v.Version == nil:
		return nil, errors.New("read report: it has no version, so this is no report of a load test")
	case *v.Version != Version:
		return nil, fmt.Errorf("read report: it is of version %d, this program reads version %d", *v.Version, Version)
	}
	r := new(Report)
	if err := json.Unmarshal(b, r); err != nil {
		return nil, fmt.Errorf("read report: %w", err)
	}
	return r, nil
}

// Write writes r as indented JSON, whatever r.Version says as Version. A figure that is
// not finite has no form in JSON: Write then names it and writes nothing.
func (r *Report) Write(w io.Writer) error {
	if err := r.finite(); err != nil {
		return fmt.Errorf("write report: %w", err)
	}
	out := *r
	out.Version = Version
	b, err := json.MarshalIndent(&out, "", "  ")
	if err != nil {
		return fmt.Errorf("write report: %w", err)
	}
	_, err = w.Write(append(point.ReplaceAll(b, []byte("[$1, $2]")), '\n'))
	return err
}

// point is a pair of numbers, which indenting spreads over four lines; there are
// thousands. No string matches, as a line break in one is escaped.
var point = regexp.MustCompile(`\[\n\s*([-+.0-9eE]+),\n\s*([-+.0-9eE]+)\n\s*\]`)

// finite names the first figure that is NaN or infinite.
func (r *Report) finite() error {
	bad := func(vs ...float64) bool {
		return slices.ContainsFunc(vs, func(v float64) bool { return !finite(v) })
	}
	if bad(r.Seconds) {
		return fmt.Errorf("the run took %v seconds", r.Seconds)
	}
	for _, x := range r.Results {
		if bad(x.Value) {
			return fmt.Errorf("result %q is %v", x.Name, x.Value)
		}
	}
	for _, l := range r.Latencies {
		if bad(l.Mean, l.Min, l.Max) {
			return fmt.Errorf("latency %q has mean %v, min %v, max %v", l.Name, l.Mean, l.Min, l.Max)
		}
		for _, p := range l.Percentiles {
			if bad(p.Percent, p.MS) {
				return fmt.Errorf("latency %q has percentile %v at %v", l.Name, p.Percent, p.MS)
			}
		}
	}
	for _, c := range r.Charts {
		for _, l := range c.Lines {
			for _, p := range l.Points {
				if bad(p[0], p[1]) {
					return fmt.Errorf("chart %q has in %q the point %v", c.Title, l.Name, p)
				}
			}
		}
	}
	return nil
}

package report_test

import (
	"bytes"
	"errors"
	"io"
	"math"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/rollcall-presence/rollcall/internal/load/report"
)

func TestRoundTrip(t *testing.T) {
	for name, want := range map[string]*report.Report{"storm": storm(1), "empty": {Version: report.Version}} {
		var b bytes.Buffer
		if err := want.Write(&b); err != nil {
			t.Fatalf("%s: Write: %v", name, err)
		}
		got, err := report.Read(&b)
		if err != nil {
			t.Fatalf("%s: Read: %v", name, err)
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("%s: read something else than was written (-want +got):\n%s", name, d)
		}
	}
}

func TestWriteSaysItsVersion(t *testing.T) {
	r := &report.Report{Version: 7, Charts: []report.Chart{{Lines: []report.Line{{
		Name:   "[\n1,\n2\n]",
		Points: [][2]float64{{1, -2.5e-7}, {2, 3}},
	}}}}}
	var b bytes.Buffer
	if err := r.Write(&b); err != nil {
		t.Fatal(err)
	}
	if r.Version != 7 {
		t.Errorf("Write changed the version of its report to %d", r.Version)
	}
	for _, want := range []string{"{\n  \"version\": 1,\n", `"[\n1,\n2\n]"`, "            [1, -2.5e-7],\n            [2, 3]\n"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("Write wrote %s; want %q in it", b.String(), want)
		}
	}
}

func TestWriteNamesWhatIsNotFinite(t *testing.T) {
	nan, inf := math.NaN(), math.Inf(1)
	for want, r := range map[string]report.Report{
		`+Inf seconds`:                        {Seconds: inf},
		`"rate" is NaN`:                       {Results: []report.Result{{Name: "rate", Value: nan}}},
		`latency "connect" has mean NaN`:      {Latencies: []report.Latency{{Name: "connect", Mean: nan}}},
		`latency "connect" has percentile 99`: {Latencies: []report.Latency{{Name: "connect", Percentiles: []report.Percentile{{Percent: 99, MS: inf}}}}},
		`chart "CPU" has in "node 1" the point [2 -Inf]`: {Charts: []report.Chart{{Title: "CPU", Lines: []report.Line{
			{Name: "node 1", Points: [][2]float64{{1, 1}, {2, -inf}}},
		}}}},
	} {
		var b bytes.Buffer
		if err := r.Write(&b); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Write: %v; want an error with %q", err, want)
		}
		if b.Len() > 0 {
			t.Errorf("Write wrote %d bytes before it failed with %q", b.Len(), want)
		}
	}
}

type endless struct{}

func (endless) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = ' '
	}
	return len(p), nil
}

func TestReadRefuses(t *testing.T) {
	for in, want := range map[string]string{
		``:                                    "unexpected end",
		`[]`:                                  "cannot unmarshal",
		`{"scenario":"idle"}`:                 "no version",
		`{"version":null}`:                    "no version",
		`{"version":2,"results":"of then"}`:   "it is of version 2, this program reads version 1",
		`{"version":1}{}`:                     "after top-level value",
		`{"version":1,"results":{}}`:          "results",
		`{"version":1,"seconds":1e999}`:       "1e999",
		`{"version":1,"seconds":NaN}`:         "invalid character 'N'",
		`{"version":1,"charts":[{"lines":[`:   "unexpected end",
		`{"version":1,"checks":[{"ok":"1"}]}`: "ok",
	} {
		if r, err := report.Read(strings.NewReader(in)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Read(%s) = %v, %v; want an error with %q", in, r, err, want)
		}
	}
	if _, err := report.Read(endless{}); err == nil || !strings.Contains(err.Error(), "larger than 64 MiB") {
		t.Errorf("Read without an end: %v; want that it is too large", err)
	}
	if _, err := report.Read(io.MultiReader(strings.NewReader(`{"version":1`), errReader{})); err == nil || !strings.Contains(err.Error(), "read report: disk on fire") {
		t.Errorf("Read of a broken file: %v", err)
	}
}

var errFire = errors.New("disk on fire")

type errReader struct{}

func (errReader) Read([]byte) (int, error) { return 0, errFire }

// broken is a number in a drawing that is none.
var broken = regexp.MustCompile(`( (d|x|y|x1|x2|y1|y2)="[^"]*|"points":[-+0-9e.,\[\]]*)(NaN|Inf)`)

func FuzzRead(f *testing.F) {
	var b bytes.Buffer
	if err := small().Write(&b); err != nil {
		f.Fatal(err)
	}
	f.Add(b.Bytes())
	f.Add([]byte(`{"version":1,"seconds":9,"charts":[{"title":"t","unit":"ms","lines":[{"name":"a","points":[[1,2],[3,400]]}]}]}`))
	f.Add([]byte(`{"version":1,"seconds":1e308,"charts":[{"unit":"ms","lines":[{"points":[[-1e308,5e-324],[1e308,1e308]]}]}]}`))
	f.Add([]byte(`{"version":1,"latencies":[{"count":9,"percentiles":[{"percent":-1,"ms":-1e300},{"percent":99.99999999999999,"ms":1},{"percent":1e9}]}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := report.Read(bytes.NewReader(b))
		if err != nil {
			return
		}
		var again bytes.Buffer
		if err := r.Write(&again); err != nil {
			t.Fatalf("Write of what was read: %v", err)
		}
		if s, err := report.Read(&again); err != nil || !cmp.Equal(r, s) {
			t.Fatalf("read, written and read: %v\n%s", err, cmp.Diff(r, s))
		}
		var page bytes.Buffer
		for _, err := range []error{
			r.Text(io.Discard), report.CompareText(io.Discard, r, small()),
			report.HTML(&page, r), report.CompareHTML(&page, small(), r),
		} {
			if err != nil {
				t.Fatal(err)
			}
		}
		if m := broken.Find(page.Bytes()); m != nil {
			t.Fatalf("the page draws %.200s", m)
		}
	})
}

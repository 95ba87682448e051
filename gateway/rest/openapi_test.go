package rest_test

import (
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/rollcall-presence/rollcall/gateway/rest"
)

// TestOpenAPI holds openapi.yaml against what is served: the same operations under
// the same names, and what the published document does not have marked as ours.
func TestOpenAPI(t *testing.T) {
	docs, err := documents()
	if err != nil {
		t.Fatal(err)
	}
	published, own := docs[0], docs[1]
	if err := own.Validate(t.Context()); err != nil {
		t.Error(err)
	}
	served := rest.Operations()
	for _, op := range own.Operations {
		route := op.Method + " " + op.Path
		o, ok := served[route]
		if !ok || o.Name != op.OperationID {
			t.Errorf("openapi.yaml has %s as %s; served is %q", route, op.OperationID, o.Name)
		}
		delete(served, route)
		if op.Responses.Status(o.Status) == nil || op.Responses.Default() == nil {
			t.Errorf("%s: openapi.yaml describes no %d, or no error", o.Name, o.Status)
		}
		if standard := published.Find(op.Method, example(op.Path)); (standard == nil) != op.Extension {
			t.Errorf("%s: marked as an extension: %v; in the published document: %v", o.Name, op.Extension, standard != nil)
		} else if standard != nil && standard.Responses.Status(o.Status) == nil {
			t.Errorf("%s: succeeds with %d; the published document has no such answer", o.Name, o.Status)
		}
	}
	for route := range served {
		t.Errorf("%s is served; openapi.yaml does not have it", route)
	}
}

// example is a path of a pattern: a SID for each of its names.
func example(pattern string) string {
	return pathName.ReplaceAllString(pattern, noSID)
}

var pathName = regexp.MustCompile(`\{\w+\}`)

// TestMethods sends every method to every path: what is not in the table is
// refused with the table's methods.
func TestMethods(t *testing.T) {
	f := newMini(t)
	allowed := make(map[string][]string)
	for route := range rest.Operations() {
		method, path, _ := strings.Cut(route, " ")
		path = example(path)
		allowed[path] = append(allowed[path], method)
	}
	for path, methods := range allowed {
		slices.Sort(methods)
		for _, method := range []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"} {
			if slices.Contains(methods, method) {
				continue
			}
			a := f.do(t, method, path, "")
			if a.status != http.StatusMethodNotAllowed || a.header.Get("Allow") != strings.Join(methods, ", ") {
				t.Errorf("%s %s = %d, Allow %q; want 405, %v", method, path, a.status, a.header.Get("Allow"), methods)
			}
			if a.header.Get("Access-Control-Allow-Origin") != "" {
				t.Errorf("%s %s lets browsers in", method, path)
			}
			if method != "HEAD" && a.body["code"] != 20004.0 {
				t.Errorf("%s %s: code %v; want 20004", method, path, a.body["code"])
			}
		}
	}
}

// TestMetrics holds that each label value is there from the start, and that none
// comes later, whatever is asked.
func TestMetrics(t *testing.T) {
	f := newMini(t)
	before := f.series(t)
	for route, op := range rest.Operations() {
		if _, ok := before[op.Name+" "+strconv.Itoa(op.Status)]; !ok {
			t.Errorf("%s: no series of its success at the start", route)
		}
	}
	f.do(t, "GET", "/v1/Services", "")
	f.do(t, "GET", "/v1/Services/"+noSID, "")
	f.do(t, "GET", "/v1/Nothing", "")
	f.do(t, "PUT", "/v1/Services", "")
	f.do(t, "POST", "/v1/Services", "")
	f.do(t, "POST", "/v1/Services", "FriendlyName="+strings.Repeat("x", 1<<17))
	f.do(t, "DELETE", "/v1/Services/"+f.service, "")
	f.do(t, "GET", "/v1/Users/alice", "", func(r *http.Request) { r.Header.Del("Authorization") })
	f.mini.Close()
	f.do(t, "GET", "/v1/Services", "")
	after := f.series(t)
	for name := range after {
		if _, ok := before[name]; !ok {
			t.Errorf("series %q came late", name)
		}
	}
	for _, name := range []string{
		"ListService 200", "FetchService 404", "none 404", "none 405", "CreateService 400", "CreateService 413",
		"DeleteService 409", "FetchUser 401", "ListService 503",
	} {
		if after[name] != 1 {
			t.Errorf("%s = %v; want 1", name, after[name])
		}
	}
}

// series is the count of requests by "operation status".
func (f *fixture) series(t *testing.T) map[string]float64 {
	t.Helper()
	families, err := f.metrics.Gather()
	if err != nil {
		t.Fatal(err)
	}
	all := make(map[string]float64)
	for _, family := range families {
		if family.GetName() != "rollcall_rest_requests_total" {
			continue
		}
		for _, m := range family.GetMetric() {
			all[m.GetLabel()[0].GetValue()+" "+m.GetLabel()[1].GetValue()] = m.GetCounter().GetValue()
		}
	}
	return all
}

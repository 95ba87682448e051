package testkit

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strings"

	"github.com/getkin/kin-openapi/openapi3"
)

// Documents are OpenAPI documents that answers of the REST API are held against. The
// last is our own, whose Error schema every refusal follows.
type Documents []Document

// Own is our own document.
func (all Documents) Own() Document { return all[len(all)-1] }

// Document is one of them, with its operations.
type Document struct {
	*openapi3.T
	Operations []Operation
}

// Operation is one method on one path of a document.
type Operation struct {
	*openapi3.Operation
	Method, Path string // as written, with {names}
	Extension    bool   // marked as ours
	// Parameters are the names of all that it takes in the query, in headers and in
	// the form, and Required those it must have; a path's own are not among them.
	Parameters, Required []string
}

// asServed lets a published document pass what it means, or what is marked as ours:
// settings that were never made are null, of whatever type, as its own examples show;
// and browsers have bindings, too.
func asServed(doc *openapi3.T) {
	for name, schema := range doc.Components.Schemas {
		if s := schema.Value; len(s.Enum) > 0 {
			s.Nullable = true
			s.Enum = append(s.Enum, nil)
			if name == "service_binding_enum_binding_type" {
				s.Enum = append(s.Enum, "webpush")
			}
		}
	}
}

// ReadDocuments reads and checks OpenAPI documents.
func ReadDocuments(files ...string) (Documents, error) {
	var all Documents
	for i, file := range files {
		data, err := os.ReadFile(file) //nolint:gosec // a test names it
		if err != nil {
			return nil, err
		}
		doc, err := openapi3.NewLoader().LoadFromData(data)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		if i < len(files)-1 {
			asServed(doc)
		}
		d := Document{T: doc}
		for _, path := range doc.Paths.InMatchingOrder() {
			item := doc.Paths.Value(path)
			for _, method := range []string{http.MethodPost, http.MethodGet, http.MethodDelete} {
				if op := item.GetOperation(method); op != nil {
					o := Operation{Operation: op, Method: method, Path: path, Extension: item.Extensions["x-rollcall-extension"] == true}
					o.parameters(item.Parameters)
					d.Operations = append(d.Operations, o)
				}
			}
		}
		all = append(all, d)
	}
	return all, nil
}

// parameters collects the names, those of the whole path among them.
func (o *Operation) parameters(shared openapi3.Parameters) {
	for _, p := range slices.Concat(shared, o.Operation.Parameters) {
		if p.Value.In == openapi3.ParameterInPath {
			continue
		}
		o.Parameters = append(o.Parameters, p.Value.Name)
		if p.Value.Required {
			o.Required = append(o.Required, p.Value.Name)
		}
	}
	if o.RequestBody == nil {
		return
	}
	for _, media := range o.RequestBody.Value.Content {
		for _, schema := range append(openapi3.SchemaRefs{media.Schema}, media.Schema.Value.AllOf...) {
			o.Parameters = slices.AppendSeq(o.Parameters, maps.Keys(schema.Value.Properties))
			o.Required = append(o.Required, schema.Value.Required...)
		}
	}
}

// Find is what the document says of a request; nil if nothing. A path that is
// spelt out goes before one with a name in that place.
func (d Document) Find(method, escapedPath string) *Operation {
	for i := range d.Operations {
		if op := &d.Operations[i]; op.Method == method && matches(op.Path, escapedPath) {
			return op
		}
	}
	return nil
}

func matches(pattern, escapedPath string) bool {
	want, have := strings.Split(pattern, "/"), strings.Split(escapedPath, "/")
	if len(want) != len(have) {
		return false
	}
	for i, segment := range have {
		segment, err := url.PathUnescape(segment)
		if err != nil || segment == "" && i > 0 || want[i] != segment && !strings.HasPrefix(want[i], "{") {
			return false
		}
	}
	return true
}

var requestID = regexp.MustCompile(`^RQ[0-9a-f]{32}$`)

// Check holds an answer of the API against each document that knows the operation:
// its status, its type, its schema, and that no member which the schema names is
// missing. A stream of events has its own format and is not looked into.
func (all Documents) Check(method, escapedPath string, resp *http.Response, body []byte) error {
	if id := resp.Header.Get("Twilio-Request-Id"); !requestID.MatchString(id) {
		return fmt.Errorf("Twilio-Request-Id %q", id)
	}
	content := resp.Header.Get("Content-Type")
	var value any
	switch {
	case resp.StatusCode == http.StatusNoContent:
		if len(body) > 0 {
			return fmt.Errorf("a 204 with a body")
		}
	case content == "application/json; charset=utf-8":
		if err := json.Unmarshal(body, &value); err != nil {
			return err
		}
	case content != "text/event-stream" || resp.StatusCode != http.StatusOK:
		return fmt.Errorf("Content-Type %q", content)
	}
	if resp.StatusCode >= http.StatusBadRequest {
		return all.checkError(resp.StatusCode, value)
	}
	known := false
	for _, doc := range all {
		op := doc.Find(method, escapedPath)
		if op == nil {
			continue
		}
		known = true
		described := op.Responses.Status(resp.StatusCode)
		if described == nil {
			return fmt.Errorf("%s: no status %d", doc.Info.Title, resp.StatusCode)
		}
		if resp.StatusCode == http.StatusNoContent {
			continue
		}
		kind, _, _ := strings.Cut(content, ";")
		media := described.Value.Content.Get(kind)
		if media == nil {
			return fmt.Errorf("%s: no content of type %s", doc.Info.Title, kind)
		}
		if kind != "application/json" {
			continue
		}
		schema := media.Schema.Value
		if err := schema.VisitJSON(value, openapi3.VisitAsResponse()); err != nil {
			return fmt.Errorf("%s: %w", doc.Info.Title, err)
		}
		if err := complete(schema, value, "answer"); err != nil {
			return fmt.Errorf("%s: %w", doc.Info.Title, err)
		}
	}
	if !known {
		return fmt.Errorf("a success of an operation that no document has")
	}
	return nil
}

func (all Documents) checkError(status int, value any) error {
	if err := all.Own().Components.Schemas["Error"].Value.VisitJSON(value); err != nil {
		return err
	}
	e := value.(map[string]any)
	if e["status"] != float64(status) {
		return fmt.Errorf("status %v in the body of a %d", e["status"], status)
	}
	if want := fmt.Sprintf("https://www.twilio.com/docs/errors/%v", e["code"]); e["more_info"] != want {
		return fmt.Errorf("more_info %v; want %s", e["more_info"], want)
	}
	return nil
}

// complete reports a member that a schema names and the value lacks.
func complete(schema *openapi3.Schema, value any, at string) error {
	switch v := value.(type) {
	case map[string]any:
		for name, property := range schema.Properties {
			member, ok := v[name]
			if !ok {
				return fmt.Errorf("%s lacks %s", at, name)
			}
			if err := complete(property.Value, member, at+"."+name); err != nil {
				return err
			}
		}
	case []any:
		if schema.Items == nil {
			return nil
		}
		for _, item := range v {
			if err := complete(schema.Items.Value, item, at+"[]"); err != nil {
				return err
			}
		}
	}
	return nil
}

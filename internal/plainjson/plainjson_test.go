package plainjson_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/rollcall-presence/rollcall/internal/plainjson"
)

// read is what Object finds, the last of duplicates.
func read(data []byte) (map[string]string, bool) {
	found := map[string]string{}
	ok := plainjson.Object(data, func(name, value []byte) bool {
		found[string(name)] = string(value)
		return true
	})
	return found, ok
}

func TestObject(t *testing.T) {
	for _, data := range []string{
		`{}`, " {\t} \n", `{"a":1}`, `{ "a" : "b" , "c" : [ ] }`, `{"a":{"b":[1,{"c":null}]},"d":-1.5e+9,"e":0,"f":-0,"g":0.5E3}`,
		`{"":"","é😀":"\u007f","a":true,"a":false}`, `{"a":` + strings.Repeat("[", 16) + strings.Repeat("]", 16) + `}`,
	} {
		data = strings.ReplaceAll(data, `\u007f`, "\x7f")
		got, ok := read([]byte(data))
		var want map[string]json.RawMessage
		if err := json.Unmarshal([]byte(data), &want); err != nil || !ok {
			t.Errorf("%s: Object = %v; want true", data, ok)
			continue
		}
		if diff := cmp.Diff(texts(want), got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", data, diff)
		}
	}
	for _, data := range []string{
		``, ` `, `[]`, `null`, `1`, `"a"`, `{`, `{}}`, `{} {}`, `{,}`, `{"a"}`, `{"a":}`, `{"a":1,}`, `{"a":1 "b":2}`, `{a:1}`, `{"a":01}`, `{"a":-}`,
		`{"a":1.}`, `{"a":.5}`, `{"a":1e}`, `{"a":+1}`, `{"a":tru}`, `{"a":nul`, `{"a":[1,]}`, `{"a":[1 2]}`, `{"a":[`, `{"a":"b`, `{"a":"\n"}`, "{\"a\":\"\n\"}",
		"{\"a\":\"\xff\"}", `{"a":NaN}`, "{\"a\":1}\x00", "\ufeff{}", `{"a":` + strings.Repeat("[", 17) + strings.Repeat("]", 17) + `}`,
		`{"a":` + strings.Repeat("[", 1<<20),
	} {
		if _, ok := read([]byte(data)); ok {
			t.Errorf("%.60s: Object = true; want false", data)
		}
	}
	if plainjson.Object([]byte(`{"a":1}`), func(_, _ []byte) bool { return false }) {
		t.Error("Object = true though its member was not taken; want false")
	}
}

func texts(m map[string]json.RawMessage) map[string]string {
	list := make(map[string]string, len(m))
	for name, value := range m {
		list[name] = string(value)
	}
	return list
}

// FuzzObject: what Object takes, encoding/json takes, and finds the same in it, down to each
// string, integer and element.
func FuzzObject(f *testing.F) {
	for _, seed := range []string{
		`{"type":"hello","token":"x.y.z","known":{"bob":1790000000000},"invisible":true}`, ` {"a" : [ 1 , "b" , {} ] } `, `{"a":1,"a":[-0.5e-7]}`,
		`{"a":9223372036854775808,"b":-1}`, "{\"a\":\"\x00\"}", `{"a":tru}`, "{\"\xff\":1}", `{"a":"\ud800"}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		got, ok := read(data)
		if !ok {
			return
		}
		var want map[string]json.RawMessage
		if err := json.Unmarshal(data, &want); err != nil || len(got) != len(want) {
			t.Fatalf("%q is %v; Object found %q", data, err, got)
		}
		for name, value := range want {
			if got[name] != string(value) {
				t.Fatalf("%q: member %q is %q; Object found %q", data, name, value, got[name])
			}
			same(t, []byte(got[name]))
		}
	})
}

func same(t *testing.T, value []byte) {
	var text *string
	err := json.Unmarshal(value, &text)
	if got, ok := plainjson.String(value); ok != (err == nil && text != nil) || ok && string(got) != *text {
		t.Fatalf("String(%s) = %q, %v; want %v, %v", value, got, ok, text, err)
	}
	var n *int64
	err = json.Unmarshal(value, &n)
	if got, ok := plainjson.Int(value); ok != (err == nil && n != nil) || ok && got != *n {
		t.Fatalf("Int(%s) = %d, %v; want %v, %v", value, got, ok, n, err)
	}
	var list, got []json.RawMessage
	err = json.Unmarshal(value, &list)
	if ok := plainjson.Array(value, func(v []byte) bool { got = append(got, v); return true }); ok != (err == nil && list != nil) || ok && len(got) != len(list) {
		t.Fatalf("Array(%s) = %q, %v; want %q, %v", value, got, ok, list, err)
	}
	for i := range list {
		if string(list[i]) != string(got[i]) {
			t.Fatalf("Array(%s)[%d] = %s; want %s", value, i, got[i], list[i])
		}
		same(t, list[i])
	}
}

// TestAllocations: to read allocates nothing.
func TestAllocations(t *testing.T) {
	data := []byte(`{"iss":"SK1","exp":1790000000,"grants":{"identity":"alice","list":[1,2,3]}}`)
	n := 0
	if got := testing.AllocsPerRun(100, func() {
		plainjson.Object(data, func(_, value []byte) bool {
			if _, ok := plainjson.Int(value); ok {
				n++
			}
			return true
		})
	}); got != 0 {
		t.Errorf("Object allocates %v times; want 0", got)
	}
}

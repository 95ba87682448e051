package presence_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/rollcall-presence/rollcall/presence"
)

func TestCheckFriendlyName(t *testing.T) {
	for name, want := range map[string]error{
		"":    nil,
		"Ann": nil,
		strings.Repeat("x", presence.MaxFriendlyName):          nil,
		strings.Repeat("\U0001F600", presence.MaxFriendlyName): nil, // characters are counted, not bytes
		strings.Repeat("x", presence.MaxFriendlyName+1):        presence.ErrFriendlyName,
		strings.Repeat("é", presence.MaxFriendlyName+1):        presence.ErrFriendlyName,
	} {
		if err := presence.CheckFriendlyName(name); !errors.Is(err, want) || (err == nil) != (want == nil) {
			t.Errorf("CheckFriendlyName of %d bytes, %.10q... = %v; want %v", len(name), name, err, want)
		}
	}
}

func TestCheckAttributes(t *testing.T) {
	for text, want := range map[string]error{
		"{}":                                nil,
		"7":                                 nil,
		"null":                              nil,
		` {"a":["\u00e9",1]} `:              nil,
		`"` + strings.Repeat("x", 18) + `"`: nil,
		`"` + strings.Repeat("x", 19) + `"`: presence.ErrAttributesTooLong,
		`"` + strings.Repeat("é", 10) + `"`: presence.ErrAttributesTooLong, // bytes are counted
		strings.Repeat("{", 21):             presence.ErrAttributesTooLong,
		strings.Repeat("[", 20):             presence.ErrAttributes,
		"":                                  presence.ErrAttributes,
		"{":                                 presence.ErrAttributes,
		"{} {}":                             presence.ErrAttributes,
		"{a:1}":                             presence.ErrAttributes,
		"\x00":                              presence.ErrAttributes,
	} {
		if err := presence.CheckAttributes(text, 20); !errors.Is(err, want) || (err == nil) != (want == nil) {
			t.Errorf("CheckAttributes(%q, 20) = %v; want %v", text, err, want)
		}
	}
	nested := func(n int) string { return strings.Repeat(`[{"a":`, n/2) + `"[[{{\\\"[{"` + strings.Repeat(`}]`, n/2) }
	if err := presence.CheckAttributes(nested(presence.MaxAttributesDepth), 1000); err != nil {
		t.Errorf("CheckAttributes of as many levels as may be = %v", err)
	}
	if err := presence.CheckAttributes(nested(presence.MaxAttributesDepth+2), 1000); !errors.Is(err, presence.ErrAttributesDepth) {
		t.Errorf("CheckAttributes of more levels = %v; want ErrAttributesDepth", err)
	}
	if err := presence.CheckAttributes("["+strings.Repeat("[],", 200)+"[]]", 1000); err != nil {
		t.Errorf("CheckAttributes of many at one level = %v", err)
	}
	deep := strings.Repeat("[", 1_000_000) + strings.Repeat("]", 1_000_000)
	if err := presence.CheckAttributes(deep, len(deep)); !errors.Is(err, presence.ErrAttributes) {
		t.Errorf("CheckAttributes of a million brackets = %v; want ErrAttributes", err)
	}
}

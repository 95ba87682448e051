package rest

import (
	"errors"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/rollcall-presence/rollcall/presence"
)

// form is the parameters of a POST. Parameters that nobody takes are ignored; of
// one that is repeated the first counts.
type form struct {
	values url.Values
	taken  []string // names of those present and taken, for the audit log
}

func readForm(w http.ResponseWriter, r *http.Request, limit int64) (form, error) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, limit))
	if err != nil {
		if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
			return form{}, errBodyTooLarge
		}
		return form{}, errBody
	}
	if len(body) == 0 {
		return form{}, nil
	}
	if t, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || t != "application/x-www-form-urlencoded" {
		return form{}, errBodyType
	}
	values, err := url.ParseQuery(string(body))
	if err != nil {
		return form{}, errBody
	}
	return form{values: values}, nil
}

// text is a parameter, nil if it is absent.
func (f *form) text(name string) (*string, error) {
	v, ok := f.values[name]
	if !ok {
		return nil, nil
	}
	if !utf8.ValidString(v[0]) {
		return nil, errUTF8
	}
	f.taken = append(f.taken, name)
	return &v[0], nil
}

// texts is a parameter that may be repeated, nil if it is absent.
func (f *form) texts(name string) ([]string, error) {
	v, ok := f.values[name]
	if !ok {
		return nil, nil
	}
	for _, s := range v {
		if !utf8.ValidString(s) {
			return nil, errUTF8
		}
	}
	f.taken = append(f.taken, name)
	return v, nil
}

// name is a FriendlyName of at most so many characters, nil if it is absent.
func (f *form) name(longest int) (*string, error) {
	v, err := f.text("FriendlyName")
	if err == nil && v != nil && utf8.RuneCountInString(*v) > longest {
		return nil, failed(http.StatusBadRequest, 50003, "Friendly name too long: at most "+strconv.Itoa(longest)+" characters")
	}
	return v, err
}

// boolean is true or false, nil if it is absent.
func (f *form) boolean(name string) (*bool, error) {
	v, err := f.text(name)
	if v == nil || err != nil {
		return nil, err
	}
	b := *v == "true"
	if !b && *v != "false" {
		return nil, invalid(name + " must be true or false")
	}
	return &b, nil
}

// attributes are JSON text of at most limit bytes, nil if absent; an empty value
// clears them.
func (f *form) attributes(limit int) (*string, error) {
	v, err := f.text("Attributes")
	if v == nil || err != nil {
		return nil, err
	}
	if *v == "" {
		*v = "{}"
	}
	switch err := presence.CheckAttributes(*v, limit); {
	case errors.Is(err, presence.ErrAttributesTooLong):
		return nil, errLongAttributes
	case errors.Is(err, presence.ErrAttributesDepth):
		return nil, errDeepAttributes
	case err != nil:
		return nil, errAttributes
	}
	return v, nil
}

// linger is whole seconds, or empty for the node's default; nil if absent.
func (f *form) linger() (*time.Duration, error) {
	v, err := f.text("Linger")
	if v == nil || err != nil {
		return nil, err
	}
	linger := time.Duration(-1)
	if *v != "" {
		n, err := strconv.ParseUint(*v, 10, 16)
		linger = time.Duration(n) * time.Second
		if err != nil || linger > presence.MaxLinger {
			return nil, invalid("Linger must be a whole number of seconds from 0 to 60, or empty for the default")
		}
	}
	return &linger, nil
}

// debounce is 0 or whole seconds within bounds; nil if absent.
func (f *form) debounce() (*time.Duration, error) {
	v, err := f.text("DebounceWindow")
	if v == nil || err != nil {
		return nil, err
	}
	n, err := strconv.ParseUint(*v, 10, 16)
	d := time.Duration(n) * time.Second
	if err != nil || d != 0 && d < presence.MinDebounce || d > presence.MaxDebounce {
		return nil, invalid("DebounceWindow must be a whole number of seconds from 0 to 30")
	}
	return &d, nil
}

package configs

import (
	"fmt"
	"net/netip"
	"reflect"
	"strconv"
	"strings"
	"time"
)

// field is one setting of a Config: its name and where its value lives.
type field struct {
	key string
	ptr any // to the Config's field
}

// fields lists the settings of c in the order they are declared.
func fields(c *Config) []field {
	v := reflect.ValueOf(c).Elem()
	out := make([]field, v.NumField())
	for i := range out {
		out[i] = field{key: v.Type().Field(i).Tag.Get("key"), ptr: v.Field(i).Addr().Interface()}
	}
	return out
}

func (f field) env() string  { return EnvPrefix + strings.ToUpper(f.key) }
func (f field) flag() string { return strings.ReplaceAll(f.key, "_", "-") }

// list tells whether the setting takes several values.
func (f field) list() bool {
	return reflect.TypeOf(f.ptr).Elem().Kind() == reflect.Slice
}

// set parses value, a comma-separated one if the setting is a list.
func (f field) set(value string) error {
	if !f.list() {
		return f.setValue(value)
	}
	var items []string
	for item := range strings.SplitSeq(value, ",") {
		if item = strings.TrimSpace(item); item != "" {
			items = append(items, item)
		}
	}
	return f.setList(items)
}

func (f field) setValue(s string) (err error) {
	var want string
	switch p := f.ptr.(type) {
	case *string:
		*p = s
	case *Secret:
		*p = Secret(s)
	case *RedisURL:
		*p = RedisURL(s)
	case *Bytes:
		*p, err = parseBytes(s)
		return err
	case *int:
		want = "a whole number"
		*p, err = strconv.Atoi(s)
	case *bool:
		want = "true or false"
		*p, err = strconv.ParseBool(s)
	case *time.Duration:
		want = "a duration: write it like 25s or 1m30s"
		*p, err = time.ParseDuration(s)
	default:
		panic(fmt.Sprintf("configs: %s has a type that cannot be set", f.key))
	}
	if err != nil {
		return fmt.Errorf("%q is not %s", s, want)
	}
	return nil
}

func (f field) setList(items []string) error {
	switch p := f.ptr.(type) {
	case *[]string:
		*p = items
	case *[]netip.Prefix:
		var out []netip.Prefix
		for _, item := range items {
			prefix, err := netip.ParsePrefix(item)
			if err != nil {
				addr, addrErr := netip.ParseAddr(item)
				if addrErr != nil {
					return fmt.Errorf("%q is not a network: write it like 10.0.0.0/8 or 192.0.2.7", item)
				}
				prefix = netip.PrefixFrom(addr.WithZone("").Unmap(), addr.Unmap().BitLen())
			}
			out = append(out, prefix.Masked())
		}
		*p = out
	default:
		panic(fmt.Sprintf("configs: %s is not a list that can be set", f.key))
	}
	return nil
}

// String is the value as it may be shown: secrets and passwords masked, lists comma-separated.
func (f field) String() string {
	switch p := f.ptr.(type) {
	case *[]string:
		return strings.Join(*p, ",")
	case *[]netip.Prefix:
		items := make([]string, len(*p))
		for i, prefix := range *p {
			items[i] = prefix.String()
		}
		return strings.Join(items, ",")
	default:
		return fmt.Sprint(reflect.ValueOf(f.ptr).Elem().Interface())
	}
}

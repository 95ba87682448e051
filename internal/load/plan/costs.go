package plan

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"math"
	"reflect"
	"strings"
)

// Cost is what one unit of something costs.
type Cost struct {
	Value float64 `json:"value"`
	// Unit is B, us (of CPU) or x (a factor).
	Unit string `json:"unit"`
	// Source says which measurement gave it. What was not measured begins with "not
	// measured".
	Source string `json:"source"`
}

// Costs are unit costs, as they were measured. They are read with ReadCosts; the tag
// of each names the unit it must have.
type Costs struct {
	// Of a node: memory of a session with one subscription, of each further subscription,
	// of a node without sessions; of the kernel for a socket, and of TLS for one.
	SessionMemory      Cost `json:"session_memory" unit:"B"`
	SubscriptionMemory Cost `json:"subscription_memory" unit:"B"`
	NodeMemory         Cost `json:"node_memory" unit:"B"`
	SocketMemory       Cost `json:"socket_memory" unit:"B"`
	TLSMemory          Cost `json:"tls_memory" unit:"B"`
	// GCFactor is how much more than at rest a node needs before a collection.
	GCFactor Cost `json:"gc_factor" unit:"x"`

	// Of a node: CPU to let a session in, for its TLS handshake, for each user it
	// subscribes to, and at its end.
	AcceptCPU    Cost `json:"accept_cpu" unit:"us"`
	TLSCPU       Cost `json:"tls_cpu" unit:"us"`
	SubscribeCPU Cost `json:"subscribe_cpu" unit:"us"`
	EndCPU       Cost `json:"end_cpu" unit:"us"`
	// A ping with its pong; a session registered anew; a heartbeat of one partition.
	PingCPU  Cost `json:"ping_cpu" unit:"us"`
	RenewCPU Cost `json:"renew_cpu" unit:"us"`
	BeatCPU  Cost `json:"beat_cpu" unit:"us"`
	// An event received from Redis, whoever listens, which each connection's goroutine
	// does; decoded, and put before one subscriber, which is done for one event at a
	// time; and all that it takes to tell one subscriber.
	ReceiveCPU Cost `json:"receive_cpu" unit:"us"`
	DecodeCPU  Cost `json:"decode_cpu" unit:"us"`
	PutCPU     Cost `json:"put_cpu" unit:"us"`
	FrameCPU   Cost `json:"frame_cpu" unit:"us"`

	// On the wire, with all headers: an update; a ping and its pong, one way; a session's
	// beginning, and each user that it subscribes to; an event from Redis to a node, and
	// a user that is read.
	FrameBytes    Cost `json:"frame_bytes" unit:"B"`
	PingBytes     Cost `json:"ping_bytes" unit:"B"`
	ConnectBytes  Cost `json:"connect_bytes" unit:"B"`
	SnapshotBytes Cost `json:"snapshot_bytes" unit:"B"`
	EventBytes    Cost `json:"event_bytes" unit:"B"`
	UserBytes     Cost `json:"user_bytes" unit:"B"`

	// Of Redis: memory of a user who is online with one session, of one who is not, and of
	// each further session.
	RedisOnlineMemory  Cost `json:"redis_online_memory" unit:"B"`
	RedisOfflineMemory Cost `json:"redis_offline_memory" unit:"B"`
	RedisSessionMemory Cost `json:"redis_session_memory" unit:"B"`
	// CPU for a session let in, and each user read for its subscriptions; for one that
	// ends, at the dearer way; for one registered anew; for a heartbeat of one partition; for
	// an event delivered to one node; for one script of the self-check.
	RedisOpenCPU    Cost `json:"redis_open_cpu" unit:"us"`
	RedisReadCPU    Cost `json:"redis_read_cpu" unit:"us"`
	RedisEndCPU     Cost `json:"redis_end_cpu" unit:"us"`
	RedisRenewCPU   Cost `json:"redis_renew_cpu" unit:"us"`
	RedisBeatCPU    Cost `json:"redis_beat_cpu" unit:"us"`
	RedisDeliverCPU Cost `json:"redis_deliver_cpu" unit:"us"`
	RedisCheckCPU   Cost `json:"redis_check_cpu" unit:"us"`
}

//go:embed costs.json
var measured []byte

// Measured are the costs that the program comes with.
func Measured() Costs {
	c, err := ReadCosts(bytes.NewReader(measured))
	if err != nil {
		panic(err) // a test reads them
	}
	return c
}

// ReadCosts reads costs in JSON, as in costs.json: all of them and no others.
func ReadCosts(r io.Reader) (Costs, error) {
	var c Costs
	dec := json.NewDecoder(r)
	dec.DisallowUnknownFields()
	if err := dec.Decode(&c); err != nil {
		return Costs{}, fmt.Errorf("costs: %w", err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return Costs{}, errors.New("costs: something follows the object")
	}
	return c, c.Validate()
}

// maxCost keeps sums finite.
const maxCost = 1e12

// Validate reports all that is wrong with the costs.
func (c *Costs) Validate() error {
	var errs []error
	v := reflect.ValueOf(*c)
	for i := range v.NumField() {
		field, cost := v.Type().Field(i), v.Field(i).Interface().(Cost)
		name := field.Tag.Get("json")
		if unit := field.Tag.Get("unit"); cost.Unit != unit {
			errs = append(errs, fmt.Errorf("%s: its unit is %q; want %q", name, cost.Unit, unit))
		}
		if cost.Source == "" {
			errs = append(errs, fmt.Errorf("%s: it has no source: say which measurement gave it", name))
		}
		if !(cost.Value >= 0 && cost.Value <= maxCost) { // NaN is neither
			errs = append(errs, fmt.Errorf("%s: its value is %v; want one from 0 to %g", name, cost.Value, maxCost))
		}
	}
	if f := c.GCFactor.Value; f < 1 || math.IsNaN(f) {
		errs = append(errs, fmt.Errorf("gc_factor: its value is %v; want at least 1", f))
	}
	return errors.Join(errs...)
}

// All are the costs by name, in their order.
func (c *Costs) All() iter.Seq2[string, Cost] {
	return func(yield func(string, Cost) bool) {
		v := reflect.ValueOf(*c)
		for i := range v.NumField() {
			if !yield(v.Type().Field(i).Tag.Get("json"), v.Field(i).Interface().(Cost)) {
				return
			}
		}
	}
}

// Unmeasured are the names of costs that are 0 because nobody measured them.
func (c *Costs) Unmeasured() []string {
	var names []string
	for name, cost := range c.All() {
		if cost.Value == 0 && strings.HasPrefix(cost.Source, "not measured") {
			names = append(names, name)
		}
	}
	return names
}

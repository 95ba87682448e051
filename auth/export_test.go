package auth

import "time"

// Member is what a token's reader makes of one member of an object.
type Member struct {
	JSON, Text string
	Time       time.Time
	IsTime     bool
}

// ReadObject reads an object as Verify does.
func ReadObject(b []byte, names ...string) ([]Member, bool) {
	o, ok := object(nil).decode(b)
	return o.members(names), ok
}

// ReadAny reads it with encoding/json alone.
func ReadAny(b []byte, names ...string) ([]Member, bool) {
	o, ok := object(nil).decodeAny(b)
	return o.members(names), ok
}

func (o object) members(names []string) []Member {
	var list []Member
	for _, name := range names {
		m := Member{JSON: string(o.get(name)), Text: o.string(name)}
		m.Time, m.IsTime = o.time(name)
		list = append(list, m)
	}
	return list
}

// Visitors is how many addresses are remembered one by one.
func (g *Guard) Visitors() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.visitors)
}

// Credentials is how many credentials' rates are remembered.
func (g *Guard) Credentials() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.credentials)
}

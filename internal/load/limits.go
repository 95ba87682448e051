package load

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"strings"
	"syscall"
)

// limits are what the machine allows.
type limits struct {
	files int // that a process may open
	ports int // that the system has for the connections of an address to another
}

// spareFiles is how many files a process needs beside its connections.
const spareFiles = 200

// maxProcesses bounds how many processes the clients are.
const maxProcesses = 256

// portsPerAddress is how many connections to one node are made from one local address of a
// run's own: fewer than the 28,000 ports that a system has for them by default.
const portsPerAddress = 20_000

// readLimits asks the system. Go has raised the soft limit on files to the hard one.
func readLimits() (limits, error) {
	l := limits{ports: 28_000}
	var r syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &r); err != nil {
		return l, err
	}
	l.files = int(min(r.Max, 1<<20))
	var lo, hi int
	if data, err := os.ReadFile("/proc/sys/net/ipv4/ip_local_port_range"); err == nil {
		if _, err := fmt.Sscan(string(data), &lo, &hi); err == nil && hi > lo {
			l.ports = hi - lo + 1
		}
	}
	return l, nil
}

// connections are how many the run's clients make.
func (o *Options) connections() int {
	if o.Bare {
		return 2*o.Sessions + o.Actors
	}
	return o.Sessions + o.Actors
}

// processes is how many processes the clients are. The error tells which limit is in the
// way, and what to do.
func (o *Options) processes(l limits) (int, error) {
	per := l.files - spareFiles
	if per < 1 {
		return 0, fmt.Errorf("a process may open %d files here, and needs %d beside its connections: raise the limit (ulimit -n)", l.files, spareFiles)
	}
	all := o.connections()
	n := max(o.Processes, (all+per-1)/per)
	if n > maxProcesses {
		return 0, fmt.Errorf("sessions: a process may open %d files here, so %d connections take %d processes; %d are the most: raise the limit (ulimit -n)", l.files, all, n, maxProcesses)
	}
	if ends := o.Sessions + o.Actors; o.Nodes > 0 && ends > o.Nodes*per { // a connection takes a file at both ends
		return 0, fmt.Errorf("sessions: a process may open %d files here, so there is room for %d sessions at %s; %d are asked for: start more nodes, or raise the limit (ulimit -n)", l.files, o.Nodes*per, many(o.Nodes, "node"), ends)
	}
	if o.Bare && o.Sessions > per {
		return 0, fmt.Errorf("sessions: a process may open %d files here, so the bare loop holds %d connections; %d are asked for: raise the limit (ulimit -n)", l.files, per, o.Sessions)
	}
	if o.ownAddresses() {
		return n, nil
	}
	if room := l.ports * max(len(o.From), 1) * max(len(o.URLs), o.Nodes); o.Sessions+o.Actors > room {
		return 0, fmt.Errorf("sessions: a local address has %d ports toward a node, so there is room for %d connections; %d are asked for: give more local addresses (--from), "+
			"more nodes, or widen net.ipv4.ip_local_port_range", l.ports, room, o.Sessions+o.Actors)
	}
	return n, nil
}

// ownAddresses tells whether connections come from as many addresses as needed: to nodes on
// loopback there are millions.
func (o *Options) ownAddresses() bool {
	for _, raw := range o.URLs {
		u, err := url.Parse(raw)
		if err != nil || u.Hostname() != "localhost" && !strings.HasPrefix(u.Hostname(), "127.") {
			return false
		}
	}
	return len(o.From) == 0
}

// from are the local addresses of one of several processes; none for what the system takes.
func (o *Options) from(process, of int, l limits) []string {
	if !o.ownAddresses() {
		return o.From
	}
	list := make([]string, (o.connections()+of-1)/of/min(portsPerAddress, l.ports)+1)
	for i := range list {
		n := process*len(list) + i
		list[i] = fmt.Sprintf("127.1.%d.%d", n/250%250, n%250+1)
	}
	return list
}

// explain says what to do about an error that comes from a limit of the machine; nil if it does not.
func explain(err error) error {
	call, _ := errors.AsType[*os.SyscallError](err)
	switch _, mismatched := errors.AsType[*net.AddrError](err); {
	case errors.Is(err, syscall.EMFILE), errors.Is(err, syscall.ENFILE):
		return fmt.Errorf("%w: raise the limit on open files (ulimit -n), or give more --processes", err)
	case errors.Is(err, syscall.EADDRNOTAVAIL) && call != nil && call.Syscall == "bind", mismatched:
		return fmt.Errorf("%w: an address of --from is none of this machine, or of another kind than the node's", err)
	case errors.Is(err, syscall.EADDRNOTAVAIL), errors.Is(err, syscall.EADDRINUSE):
		return fmt.Errorf("%w: the ports of the local address are used up: give more local addresses (--from), or widen net.ipv4.ip_local_port_range", err)
	}
	return nil
}

// many is a number of things in words.
func many(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	if strings.HasSuffix(what, "s") {
		what += "e"
	}
	return fmt.Sprintf("%d %ss", n, what)
}

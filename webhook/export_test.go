package webhook

import (
	"net/netip"
	"time"
)

// SetTimeout sets how long an attempt may take. To be called before Serve.
func (d *Deliverer) SetTimeout(t time.Duration) { d.sender.timeout = t }

// Idle reports whether nothing is under way, waits or is to be settled.
func (d *Deliverer) Idle() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, l := range d.lanes {
		if l.running+len(l.waiting) > 0 {
			return false
		}
	}
	return d.running == 0 && len(d.parked) == 0 && len(d.settled) == 0
}

// Limit is how many users' events may be under way for a service.
func (d *Deliverer) Limit(service string) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	if l := d.lanes[service]; l != nil {
		return l.limit
	}
	return d.opt.TargetConcurrency
}

var (
	TwilioSignature = twilioSignature
	Signature       = signature
	Backoff         = backoff
)

// Check is what the guard says of an address.
func Check(a netip.Addr, allowed ...netip.Prefix) error { return guard{allowed}.check(a) }

// CloseIdle closes connections that are kept for the next attempt.
func (d *Deliverer) CloseIdle() { d.sender.client.CloseIdleConnections() }

// Package gateway is the edge of a node: the listeners, the limits, and the live
// sessions, whatever wire protocol they speak.
//
// A Server accepts WebSockets and runs one Session for each. A session costs one
// goroutine, which reads; a second one exists only while there is something to
// write, and one wheel for all sessions keeps every deadline (pings, pongs, hello,
// token expiry, stuck writes). What a session says is up to its Protocol; adapters
// live in packages below this one, and this package knows none of them.
//
// A session is registered with presence from its hello to its end, and how it
// ended is what presence is told: a bye is a clean end, a lost socket is lost, and
// a drain hands the user over. Slow readers cost bounded memory: what waits for
// one is its fanout.Mailbox, which conflates.
package gateway

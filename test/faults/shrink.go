package faults

import "slices"

// Shrink returns the shortest history that still shows a violation: of the user and the watcher that it is about, as
// few as possible of the sessions and of what was told. A session goes or stays as a whole, and so does a watcher's
// connection, lest the history lie.
func Shrink(h History, r Rules, v Violation) History {
	shows := func(entries []Entry) bool {
		return slices.ContainsFunc(Check(History{h.Start, h.End, entries}, r).Violations, v.same)
	}
	// what others saw and did has no part in it
	near := slices.DeleteFunc(slices.Clone(h.Entries), func(e Entry) bool {
		return e.User != "" && e.User != v.User || e.Watcher != "" && e.Watcher != v.Watcher
	})
	if v.Watcher == "" || !shows(near) {
		near = slices.DeleteFunc(slices.Clone(h.Entries), func(e Entry) bool { return e.User != "" && e.User != v.User })
	}
	if !shows(near) {
		return h
	}
	for {
		shorter := slices.Clone(near)
		for _, part := range parts(near) {
			less := slices.DeleteFunc(slices.Clone(shorter), part)
			if len(less) < len(shorter) && shows(less) {
				shorter = less
			}
		}
		if len(shorter) == len(near) {
			return History{h.Start, h.End, near}
		}
		near = shorter
	}
}

// parts are what may be left out of a history, one by one.
func parts(entries []Entry) (list []func(Entry) bool) {
	sessions, watchers := map[string]bool{}, map[string]bool{}
	for _, e := range entries {
		switch {
		case e.Session != "":
			if !sessions[e.Session] {
				list = append(list, func(o Entry) bool { return o.Session == e.Session })
			}
			sessions[e.Session] = true
		case e.Kind == Joined || e.Kind == Parted:
			if !watchers[e.Watcher] {
				list = append(list, func(o Entry) bool { return o.Watcher == e.Watcher && (o.Kind == Joined || o.Kind == Parted) })
			}
			watchers[e.Watcher] = true
		default:
			list = append(list, func(o Entry) bool { return o == e })
		}
	}
	return list
}

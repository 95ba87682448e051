package redisstore

import "time"

// Paced returns o with a script every d.
func Paced(o SelfCheckOptions, d time.Duration) SelfCheckOptions {
	o.pace = d
	return o
}

// Explain is what a disagreement of a kind says of itself.
func Explain(kind string) Disagreement { return disagreement(suspect{}, kind, "") }

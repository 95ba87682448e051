package redisstore

import "time"

// Paced returns o with a script every d.
func Paced(o SelfCheckOptions, d time.Duration) SelfCheckOptions {
	o.pace = d
	return o
}

package rest

// Operations is each operation that is served, as "GET /v1/..." to its name and
// the status of its success.
func Operations() map[string]struct {
	Name   string
	Status int
} {
	all := make(map[string]struct {
		Name   string
		Status int
	})
	for _, op := range operations {
		all[op.method+" "+op.pattern] = struct {
			Name   string
			Status int
		}{op.name, op.status}
	}
	return all
}

// Duration is the reading of ISO 8601 durations.
var Duration = duration

// Identities is the reading of a query that names users.
var Identities = identities

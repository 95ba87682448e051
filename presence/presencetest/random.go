package presencetest

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
)

// Histories are random histories that are played until one fails, which is then made
// as short as it can be.
type Histories struct {
	// N is how many are played; default 100, a fifth of that in a short test.
	N int
	// Seed is that of the first, for playing a failure again; default random.
	Seed uint64
}

// cast is how many there are of each in a history; of few the same ones meet often.
type cast struct{ nodes, services, users, sessions int }

// randomly plays histories of up to 60 steps. Each is made of some of the operations
// only: were all of them in each history, what one makes another would soon unmake.
//
// What fails is shrunk by leaving out steps, and not by rapid, which gives up when a
// history does not fail in just the same way twice: goroutines do not run in the same
// order each time.
func randomly[S fmt.Stringer](t *testing.T, o Histories, ops []string, step func(r *rand.Rand, c cast, op string) S, play func([]S) error) {
	if o.N == 0 {
		o.N = 100
	}
	if testing.Short() {
		o.N = (o.N + 4) / 5
	}
	if o.Seed == 0 {
		o.Seed = rand.Uint64() >> 32 //nolint:gosec // G404: no secret
	}
	for i := range o.N {
		seed := o.Seed + uint64(i)
		r := rand.New(rand.NewPCG(seed, 0)) //nolint:gosec // G404: no secret
		some := []string{ops[0]}            // without which there is nothing to see
		for _, op := range ops[1:] {
			if r.IntN(2) == 0 {
				some = append(some, op)
			}
		}
		c := cast{1 + r.IntN(len(stepNodes)), 1 + r.IntN(2), 1 + r.IntN(len(stepIdentities)), 1 + r.IntN(2)}
		steps := make([]S, 1+r.IntN(60))
		for j := range steps {
			steps[j] = step(r, c, some[r.IntN(len(some))])
		}
		if err := play(steps); err != nil {
			short, why := shrink(steps, err, play)
			t.Fatalf("history %d, seed %d, of %d steps, shrunk to %d:\n%v\nit is%s", i, seed, len(steps), len(short), why, listed(short))
		}
	}
}

// shrink leaves out what it can of a history that fails, and returns what is left with
// the way it fails.
func shrink[S any](steps []S, err error, play func([]S) error) ([]S, error) {
	for size := len(steps); size > 0; {
		smaller := false
		for i := 0; i+size <= len(steps); {
			rest := append(append([]S{}, steps[:i]...), steps[i+size:]...)
			if e := play(rest); e != nil {
				steps, err, smaller = rest, e, true
			} else {
				i += size
			}
		}
		if !smaller || size > 1 {
			size = min(size/2, len(steps))
		}
	}
	return steps, err
}

func listed[S fmt.Stringer](steps []S) string {
	var b strings.Builder
	for i, s := range steps {
		_, _ = fmt.Fprintf(&b, "\n%3d. %v", i+1, s)
	}
	return b.String()
}

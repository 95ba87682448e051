// Package e2e drives the real binary: several nodes on one real Redis, clients that
// keep their own record of what they saw, processes killed and restarted.
package e2e

import (
	"testing"

	"github.com/rollcall-presence/rollcall/internal/testkit/rig"
)

func TestMain(m *testing.M) { rig.Main(m) }

package console_test

import (
	"flag"
	"net/http"
	"testing"

	"github.com/rollcall-presence/rollcall/internal/testkit"
)

var update = flag.Bool("update", false, "write the samples into docs")

// TestSamplesDoc holds the samples in docs against those that the page shows, which
// the browser test runs; go test ./gateway/console -update writes them.
func TestSamplesDoc(t *testing.T) {
	h := new(backend).handler()
	for _, name := range []string{"sample-switch.mjs", "sample-updated.mjs"} {
		res := do(h, get("/console/"+name))
		if res.StatusCode != http.StatusOK {
			t.Fatalf("GET /console/%s = %d; want 200", name, res.StatusCode)
		}
		testkit.Block(t, "../../docs/twilio-sdk.md", "<!-- "+name+" -->", string(body(t, res)), *update)
	}
}

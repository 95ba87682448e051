package e2e

import (
	"bytes"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/rollcall-presence/rollcall/internal/testkit"
)

// TestTenancy tries every operation of one service with the SIDs of another. Nothing
// of the other may show, and nothing of it may change.
func TestTenancy(t *testing.T) {
	contracts(t, func(t *testing.T, c *contract) {
		ours, theirs := c.newTenant(t, "ours"), c.newTenant(t, "theirs")
		for _, tn := range []*tenant{ours, theirs} {
			tn.of("DeadLetters") // which changes the tenant the first time
		}
		own := c.docs.Own()
		before := theirs.dump(t, own)
		short := map[string]bool{} // collections that have a form without their service

		for _, op := range own.Operations {
			in := names(op.Path)
			inService := slices.ContainsFunc(in, func(n name) bool { return n.collection == "Services" })
			if !inService && len(in) > 0 {
				short[in[0].collection] = true
			}
			for _, n := range in {
				// Credentials and keys are the account's, and so is the list of services.
				if n.collection == "Services" || !inService && !serviceOwns(own, n.collection) {
					continue
				}
				path := ours.pathBut(op.Path, n, theirs.of(n.collection))
				_, err := ours.prying(t, theirs, op.Method, path, paramsOf(op.OperationID))
				wantError(t, op.Method+" "+path, err, 404, 20404)
			}
			if inService && op.Method == http.MethodGet && !streams(op) {
				if _, err := ours.prying(t, theirs, op.Method, ours.path(op.Path), paramsOf(op.OperationID)); err != nil {
					t.Errorf("%s of ours: %v", op.OperationID, err)
				}
			}
		}
		if !short["Users"] || !short["Roles"] {
			t.Errorf("collections with a short form: %v; want Users and Roles among them", short)
		}

		// A user is asked for by its identity too.
		for _, op := range own.Operations {
			if in := names(op.Path); len(in) > 0 && in[len(in)-1].collection == "Users" {
				path := ours.pathBut(op.Path, in[len(in)-1], url.PathEscape(theirs.identity))
				_, err := ours.prying(t, theirs, op.Method, path, paramsOf(op.OperationID))
				wantError(t, op.Method+" "+path, err, 404, 20404)
			}
		}
		// SIDs are in parameters, too.
		for _, pry := range []struct {
			method, path, params string
			status, code         int
		}{
			{"POST", ours.base("/Users"), "Identity=x&RoleSid=" + theirs.role, 400, 50100},
			{"POST", ours.base("/Users/" + ours.alice), "RoleSid=" + theirs.role, 400, 50100},
			{"POST", "/v1/Users", "Identity=x&RoleSid=" + theirs.role, 400, 50100},
			{"POST", ours.base("/Configuration"), "DefaultChatServiceRoleSid=" + theirs.role, 400, 50100},
			{"POST", ours.base("/Configuration"), "DefaultConversationRoleSid=" + theirs.role, 400, 50100},
		} {
			_, err := ours.prying(t, theirs, pry.method, pry.path, pry.params)
			wantError(t, pry.method+" "+pry.path+" with "+pry.params, err, pry.status, pry.code)
		}
		// So are identities, which mean the service's own users, of whom there are none.
		for path, key := range map[string]string{"/Presence": "users", "/Bindings": "bindings"} {
			a := c.must(t, http.MethodGet, ours.base(path), url.Values{"Identity": {theirs.identity}}.Encode())
			for _, item := range a[key].([]any) {
				if item := item.(map[string]any); item["sid"] != nil || item["is_online"] != nil || item["is_notifiable"] != nil {
					t.Errorf("%s of ours tells of a user of theirs: %v", path, item)
				}
			}
		}
		cursor := c.must(t, http.MethodGet, theirs.base("/Presence/Changes"), "Cursor=now")["cursor"].(string)
		for _, from := range []string{cursor, ""} {
			if _, err := ours.prying(t, theirs, http.MethodGet, ours.base("/Presence/Changes"), "Cursor="+from); err != nil {
				t.Errorf("changes of ours after %q: %v", from, err)
			}
		}
		// A page's token is worth nothing, or gives a page of one's own.
		for _, op := range own.Operations {
			if !slices.Contains(op.Parameters, "PageToken") || !strings.Contains(op.Path, "{ChatServiceSid}") {
				continue
			}
			params := paramsOf(op.OperationID)
			if slices.Contains(op.Parameters, "Online") {
				params = "Online=true"
			}
			if token := theirs.pageToken(t, op, params); token != "" {
				_, _ = ours.prying(t, theirs, op.Method, ours.path(op.Path), params+"&Page=1&PageToken="+token)
			}
		}

		if diff := cmp.Diff(before, theirs.dump(t, own)); diff != "" {
			t.Errorf("what is theirs has changed (-before +after):\n%s", diff)
		}
	})
}

// serviceOwns reports whether a collection is also to be found below a service.
func serviceOwns(doc testkit.Document, collection string) bool {
	return slices.ContainsFunc(doc.Operations, func(op testkit.Operation) bool {
		return strings.HasPrefix(op.Path, "/v1/Services/{ChatServiceSid}/"+collection)
	})
}

// paramsOf are parameters that an operation takes.
func paramsOf(id string) string {
	for _, op := range operations {
		if op.id == id {
			return op.params
		}
	}
	return ""
}

// streams reports whether an operation's answer has no end.
func streams(op testkit.Operation) bool {
	ok := op.Responses.Status(http.StatusOK)
	return ok != nil && ok.Value.Content.Get("text/event-stream") != nil
}

// prying makes a request in which nothing of the other tenant may show, but for what
// the request itself says.
func (tn *tenant) prying(t *testing.T, other *tenant, method, path, params string) (object, error) {
	t.Helper()
	tn.mu.Lock()
	tn.listen = func(r *http.Request, body []byte) {
		said := bytes.ReplaceAll(body, []byte(r.URL.EscapedPath()), nil)
		for _, secret := range append(slices.Collect(maps.Values(other.has)), other.name) {
			if bytes.Contains(said, []byte(secret)) {
				t.Errorf("%s %s %s tells %q of the other service: %.1000s", method, path, params, secret, body)
			}
		}
	}
	tn.mu.Unlock()
	defer func() {
		tn.mu.Lock()
		tn.listen = nil
		tn.mu.Unlock()
	}()
	return tn.do(method, path, params)
}

// dump is all that can be read of a tenant, by path.
func (tn *tenant) dump(t *testing.T, doc testkit.Document) map[string]object {
	t.Helper()
	all := map[string]object{}
	for _, op := range doc.Operations {
		if op.Method == http.MethodGet && strings.Contains(op.Path, "{ChatServiceSid}") && !streams(op) {
			path := strings.TrimSuffix(tn.path(op.Path)+"?"+paramsOf(op.OperationID), "?")
			tn.turn.Store(0) // the same gateway each time: URLs in the answer name it
			all[path] = tn.must(t, op.Method, tn.path(op.Path), paramsOf(op.OperationID))
			delete(all[path], "cursor") // the present
		}
	}
	return all
}

// pageToken is that of the second page of a list, if it has one.
func (tn *tenant) pageToken(t *testing.T, op testkit.Operation, params string) string {
	t.Helper()
	a := tn.must(t, op.Method, tn.path(op.Path), params+"&PageSize=1")
	next, ok := a["meta"].(map[string]any)["next_page_url"].(string)
	if !ok {
		return ""
	}
	u, err := url.Parse(next)
	if err != nil {
		t.Fatal(err)
	}
	return u.Query().Get("PageToken")
}

// A service that is deleted takes everything below it along.
func TestDeletedService(t *testing.T) {
	contracts(t, func(t *testing.T, c *contract) {
		gone := c.newTenant(t, "gone")
		gone.of("DeadLetters") // while some can be made
		if err := c.api.DeleteService(gone.service); err != nil {
			t.Fatal(err)
		}
		for _, op := range c.docs.Own().Operations {
			if strings.Contains(op.Path, "{ChatServiceSid}") {
				path := gone.path(op.Path)
				_, err := c.do(op.Method, path, paramsOf(op.OperationID))
				wantError(t, op.Method+" "+path, err, 404, 20404)
			}
		}
	})
}

// Without the right credentials no operation says anything, whatever is asked.
func TestNoCredentials(t *testing.T) {
	contracts(t, func(t *testing.T, c *contract) {
		for _, op := range c.docs.Own().Operations {
			path := c.main.path(op.Path)
			r, err := http.NewRequestWithContext(t.Context(), op.Method, "https://conversations.twilio.com"+path, strings.NewReader(""))
			if err != nil {
				t.Fatal(err)
			}
			resp, err := c.RoundTrip(r)
			if err != nil {
				t.Fatal(err)
			}
			body, err := io.ReadAll(resp.Body)
			if err != nil || resp.StatusCode != http.StatusUnauthorized || resp.Header.Get("WWW-Authenticate") == "" {
				t.Errorf("%s %s = %d %s, %v; want 401 and how to authenticate", op.Method, path, resp.StatusCode, body, err)
			}
		}
	})
}

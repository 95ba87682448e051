package rest

import (
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// operation is one method on one path.
type operation struct {
	name    string // as in openapi.yaml, and in metrics and logs
	method  string
	pattern string // segments; {Name} takes any one
	status  int    // of success
	handle  func(*call) (any, error)
}

// operations is everything that is served. 404 and 405 follow from it.
var operations = []operation{
	{"CreateService", post, "/v1/Services", http.StatusCreated, (*call).createService},
	{"ListService", get, "/v1/Services", http.StatusOK, (*call).listServices},
	{"FetchService", get, "/v1/Services/{ChatServiceSid}", http.StatusOK, (*call).fetchService},
	{"DeleteService", del, "/v1/Services/{ChatServiceSid}", http.StatusNoContent, (*call).deleteService},

	{"FetchServiceConfiguration", get, "/v1/Services/{ChatServiceSid}/Configuration", http.StatusOK, (*call).fetchServiceConfiguration},
	{"UpdateServiceConfiguration", post, "/v1/Services/{ChatServiceSid}/Configuration", http.StatusOK, (*call).updateServiceConfiguration},
	{"FetchServicePresence", get, "/v1/Services/{ChatServiceSid}/Configuration/Presence", http.StatusOK, (*call).fetchServicePresence},
	{"UpdateServicePresence", post, "/v1/Services/{ChatServiceSid}/Configuration/Presence", http.StatusOK, (*call).updateServicePresence},
	{"FetchServiceNotification", get, "/v1/Services/{ChatServiceSid}/Configuration/Notifications", http.StatusOK, (*call).fetchNotifications},
	{"UpdateServiceNotification", post, "/v1/Services/{ChatServiceSid}/Configuration/Notifications", http.StatusOK, (*call).updateNotifications},
	{"FetchServiceWebhookConfiguration", get, "/v1/Services/{ChatServiceSid}/Configuration/Webhooks", http.StatusOK, (*call).fetchServiceWebhooks},
	{"UpdateServiceWebhookConfiguration", post, "/v1/Services/{ChatServiceSid}/Configuration/Webhooks", http.StatusOK, (*call).updateServiceWebhooks},
	{"FetchConfigurationWebhook", get, "/v1/Configuration/Webhooks", http.StatusOK, (*call).fetchAccountWebhooks},
	{"UpdateConfigurationWebhook", post, "/v1/Configuration/Webhooks", http.StatusOK, (*call).updateAccountWebhooks},
	{"ListDeadLetter", get, "/v1/Services/{ChatServiceSid}/Webhooks/DeadLetters", http.StatusOK, (*call).listDeadLetters},
	{"FetchDeadLetter", get, "/v1/Services/{ChatServiceSid}/Webhooks/DeadLetters/{Sid}", http.StatusOK, (*call).fetchDeadLetter},
	{"DeleteDeadLetter", del, "/v1/Services/{ChatServiceSid}/Webhooks/DeadLetters/{Sid}", http.StatusNoContent, (*call).deleteDeadLetter},
	{"ReplayDeadLetter", post, "/v1/Services/{ChatServiceSid}/Webhooks/DeadLetters/{Sid}/Replay", http.StatusOK, (*call).replayDeadLetter},
	{"ReplayAllDeadLetters", post, "/v1/Services/{ChatServiceSid}/Webhooks/Replay", http.StatusOK, (*call).replayDeadLetters},

	{"FetchConfiguration", get, "/v1/Configuration", http.StatusOK, (*call).fetchConfiguration},
	{"UpdateConfiguration", post, "/v1/Configuration", http.StatusOK, (*call).updateConfiguration},

	{"CreateServiceRole", post, "/v1/Services/{ChatServiceSid}/Roles", http.StatusCreated, (*call).createRole},
	{"ListServiceRole", get, "/v1/Services/{ChatServiceSid}/Roles", http.StatusOK, (*call).listRoles},
	{"FetchServiceRole", get, "/v1/Services/{ChatServiceSid}/Roles/{Sid}", http.StatusOK, (*call).fetchRole},
	{"UpdateServiceRole", post, "/v1/Services/{ChatServiceSid}/Roles/{Sid}", http.StatusOK, (*call).updateRole},
	{"DeleteServiceRole", del, "/v1/Services/{ChatServiceSid}/Roles/{Sid}", http.StatusNoContent, (*call).deleteRole},
	{"CreateRole", post, "/v1/Roles", http.StatusCreated, (*call).createRole},
	{"ListRole", get, "/v1/Roles", http.StatusOK, (*call).listRoles},
	{"FetchRole", get, "/v1/Roles/{Sid}", http.StatusOK, (*call).fetchRole},
	{"UpdateRole", post, "/v1/Roles/{Sid}", http.StatusOK, (*call).updateRole},
	{"DeleteRole", del, "/v1/Roles/{Sid}", http.StatusNoContent, (*call).deleteRole},

	{"CreateKey", post, "/v1/Keys", http.StatusCreated, (*call).createKey},
	{"ListKey", get, "/v1/Keys", http.StatusOK, (*call).listKeys},
	{"FetchKey", get, "/v1/Keys/{Sid}", http.StatusOK, (*call).fetchKey},
	{"UpdateKey", post, "/v1/Keys/{Sid}", http.StatusOK, (*call).updateKey},
	{"DeleteKey", del, "/v1/Keys/{Sid}", http.StatusNoContent, (*call).deleteKey},
	{"CreateRevocation", post, "/v1/Services/{ChatServiceSid}/Revocations", http.StatusCreated, (*call).createRevocation},
	{"ListRevocation", get, "/v1/Services/{ChatServiceSid}/Revocations", http.StatusOK, (*call).listRevocations},

	{"CreateServiceUser", post, "/v1/Services/{ChatServiceSid}/Users", http.StatusCreated, (*call).createUser},
	{"ListServiceUser", get, "/v1/Services/{ChatServiceSid}/Users", http.StatusOK, (*call).listUsers},
	{"FetchServiceUser", get, "/v1/Services/{ChatServiceSid}/Users/{Sid}", http.StatusOK, (*call).fetchUser},
	{"UpdateServiceUser", post, "/v1/Services/{ChatServiceSid}/Users/{Sid}", http.StatusOK, (*call).updateUser},
	{"DeleteServiceUser", del, "/v1/Services/{ChatServiceSid}/Users/{Sid}", http.StatusNoContent, (*call).deleteUser},
	{"CreateServiceUserBinding", post, "/v1/Services/{ChatServiceSid}/Users/{Sid}/Bindings", http.StatusCreated, (*call).createBinding},
	{"ListServiceUserBinding", get, "/v1/Services/{ChatServiceSid}/Users/{Sid}/Bindings", http.StatusOK, (*call).listUserBindings},
	{"ListServiceUserSession", get, "/v1/Services/{ChatServiceSid}/Users/{Sid}/Sessions", http.StatusOK, (*call).listSessions},
	{"DeleteServiceUserSessions", del, "/v1/Services/{ChatServiceSid}/Users/{Sid}/Sessions", http.StatusNoContent, (*call).endAllSessions},
	{"DeleteServiceUserSession", del, "/v1/Services/{ChatServiceSid}/Users/{Sid}/Sessions/{SessionId}", http.StatusNoContent, (*call).endSession},
	{"CreateUser", post, "/v1/Users", http.StatusCreated, (*call).createUser},
	{"ListUser", get, "/v1/Users", http.StatusOK, (*call).listUsers},
	{"FetchUser", get, "/v1/Users/{Sid}", http.StatusOK, (*call).fetchUser},
	{"UpdateUser", post, "/v1/Users/{Sid}", http.StatusOK, (*call).updateUser},
	{"DeleteUser", del, "/v1/Users/{Sid}", http.StatusNoContent, (*call).deleteUser},

	{"ListServiceBinding", get, "/v1/Services/{ChatServiceSid}/Bindings", http.StatusOK, (*call).listBindings},
	{"FetchServiceBinding", get, "/v1/Services/{ChatServiceSid}/Bindings/{Sid}", http.StatusOK, (*call).fetchBinding},
	{"DeleteServiceBinding", del, "/v1/Services/{ChatServiceSid}/Bindings/{Sid}", http.StatusNoContent, (*call).deleteBinding},
	{"CreateCredential", post, "/v1/Credentials", http.StatusCreated, (*call).createCredential},
	{"ListCredential", get, "/v1/Credentials", http.StatusOK, (*call).listCredentials},
	{"FetchCredential", get, "/v1/Credentials/{Sid}", http.StatusOK, (*call).fetchCredential},
	{"UpdateCredential", post, "/v1/Credentials/{Sid}", http.StatusOK, (*call).updateCredential},
	{"DeleteCredential", del, "/v1/Credentials/{Sid}", http.StatusNoContent, (*call).deleteCredential},

	{"ListPresence", get, "/v1/Services/{ChatServiceSid}/Presence", http.StatusOK, (*call).readPresence},
	{"ListPresenceChange", get, "/v1/Services/{ChatServiceSid}/Presence/Changes", http.StatusOK, (*call).listChanges},
	{"StreamPresenceEvents", get, "/v1/Services/{ChatServiceSid}/Presence/Events", http.StatusOK, (*call).streamEvents},
}

const (
	get  = http.MethodGet
	post = http.MethodPost
	del  = http.MethodDelete
)

// unmatched stands in for the operation of a request that has none.
var unmatched = operation{name: "none"}

// statuses are those that the operation may answer.
func (op operation) statuses() []int {
	if op.handle == nil {
		return []int{http.StatusUnauthorized, http.StatusNotFound, http.StatusMethodNotAllowed, http.StatusTooManyRequests}
	}
	all := []int{
		op.status, http.StatusBadRequest, http.StatusUnauthorized, http.StatusNotFound,
		http.StatusTooManyRequests, http.StatusInternalServerError, http.StatusServiceUnavailable,
	}
	if op.method == post {
		all = append(all, http.StatusConflict, http.StatusRequestEntityTooLarge)
	}
	if strings.HasPrefix(op.pattern, "/v1/Keys") {
		all = append(all, http.StatusForbidden)
	}
	if strings.Contains(op.pattern, "/Presence/") {
		all = append(all, http.StatusGone)
	}
	if op.method == del {
		all = append(all, http.StatusConflict)
	}
	return all
}

// match finds the operation of a method and an escaped path, with what stands for
// the pattern's names, unescaped. Where there is none it returns unmatched, and the
// methods that the path does take, nil if there is no such path.
func match(method, path string) (op operation, vars map[string]string, allowed []string) {
	for _, o := range operations {
		v, ok := capture(o.pattern, path)
		if !ok {
			continue
		}
		if o.method == method {
			return o, v, nil
		}
		allowed = append(allowed, o.method)
	}
	slices.Sort(allowed)
	return unmatched, nil, allowed
}

func capture(pattern, path string) (map[string]string, bool) {
	if strings.Count(pattern, "/") != strings.Count(path, "/") {
		return nil, false
	}
	vars := make(map[string]string)
	for {
		var want, have string
		want, pattern, _ = strings.Cut(pattern, "/")
		have, path, _ = strings.Cut(path, "/")
		have, err := url.PathUnescape(have)
		name, variable := strings.CutPrefix(want, "{")
		switch {
		case err != nil, !variable && have != want, variable && have == "":
			return nil, false
		case variable:
			vars[strings.TrimSuffix(name, "}")] = have
		}
		if pattern == "" && path == "" {
			return vars, true
		}
	}
}

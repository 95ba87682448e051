package twilsock

import (
	"bytes"
	"flag"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rollcall-presence/rollcall/gateway"
	"github.com/rollcall-presence/rollcall/internal/testkit"
)

var update = flag.Bool("update", false, "write the generated tables into docs")

const doc = "../../docs/twilio-sdk.md"

// TestDoc holds the tables of docs/twilio-sdk.md against the code;
// go test ./gateway/twilsock -update writes them.
func TestDoc(t *testing.T) {
	testkit.Table(t, doc, "<!-- statuses -->", statusRows(), *update)
	testkit.Table(t, doc, "<!-- closes -->", closeRows(), *update)
	testkit.Table(t, doc, "<!-- refusals -->", refusalRows(), *update)
}

func statusRows() (rows []string) {
	codes := map[int][]string{}
	for _, e := range gateway.ErrorTexts() {
		codes[statusOf(e.Code)] = append(codes[statusOf(e.Code)], strconv.Itoa(int(e.Code)))
	}
	return grouped(codes, func(status int, codes string) string { return fmt.Sprintf("| %d | %s |", status, codes) })
}

// reactions are what the SDK was seen to do after a close frame of a status.
var reactions = map[int]string{
	0:            "comes back",
	closeOffload: "comes back",
	closeDenied:  "`disconnected`; stays away",
}

func closeRows() (rows []string) {
	for _, c := range gateway.Closes() {
		status, gets := 0, "a closed connection"
		switch frame := new(handler).Closing(c.Code, time.Second); {
		case bytes.Contains(frame, []byte("client_update")):
			gets = "`client_update` of a token about to expire"
		case frame != nil:
			status = statusIn(frame)
			gets = "`close` " + strconv.Itoa(status)
		}
		does := reactions[status]
		switch c.Code {
		case gateway.CloseBye:
			does = "it asked for that"
		case gateway.CloseTokenExpired:
			does += ", and is refused with 20104: `tokenExpired`, `denied`; stays away"
		case gateway.CloseBadToken:
			does = "`tokenAboutToExpire`; comes back, and is refused if it has no other token: `denied`; stays away"
		default:
		}
		rows = append(rows, fmt.Sprintf("| %d | `%s` | %s | %s |", c.Code, c.Name, gets, does))
	}
	return rows
}

// refusals are the problems that a client may meet when it connects.
func refusalRows() (rows []string) {
	codes := map[int][]string{}
	for _, p := range []gateway.Problem{
		{Code: gateway.ErrorInternal, Close: gateway.CloseInternal},
		{Code: gateway.ErrorIdentityEmpty, Close: gateway.CloseBadRequest},
		{Code: gateway.ErrorIdentityTooLong, Close: gateway.CloseBadRequest},
		{Code: gateway.ErrorIdentityEncoding, Close: gateway.CloseBadRequest},
		{Code: gateway.ErrorUnavailable, Close: gateway.CloseUnavailable},
		{Code: gateway.ErrorTooManyWaiting, Close: gateway.CloseUnavailable},
		{Code: gateway.ErrorNoService, Close: gateway.CloseBadToken},
		{Code: gateway.ErrorTooManySessions, Close: gateway.CloseTooMany},
		{Code: gateway.ErrorTokenInvalid, Close: gateway.CloseBadToken},
		{Code: gateway.ErrorTokenHeader, Close: gateway.CloseBadToken},
		{Code: gateway.ErrorTokenIssuer, Close: gateway.CloseBadToken},
		{Code: gateway.ErrorTokenExpired, Close: gateway.CloseBadToken},
		{Code: gateway.ErrorTokenNotYet, Close: gateway.CloseBadToken},
		{Code: gateway.ErrorTokenGrants, Close: gateway.CloseBadToken},
		{Code: gateway.ErrorTokenSignature, Close: gateway.CloseBadToken},
	} {
		status := statusIn(encodeRefusal("1", &p))
		codes[status] = append(codes[status], strconv.Itoa(int(p.Code)))
	}
	return grouped(codes, func(status int, codes string) string {
		then := "comes back, after 1 s and more"
		switch status {
		case http.StatusUnauthorized, http.StatusForbidden:
			then = "`denied`; stays away"
		case http.StatusTooManyRequests:
			then = fmt.Sprintf("comes back after %d s: one of the user's sessions may have ended by then", int(manySessionsRetry.Seconds()))
		}
		return fmt.Sprintf("| %d | %s | %s |", status, codes, then)
	})
}

func grouped(codes map[int][]string, row func(status int, codes string) string) (rows []string) {
	var order []int
	for status := range codes {
		order = append(order, status)
	}
	slices.Sort(order)
	for _, status := range order {
		rows = append(rows, row(status, strings.Join(codes[status], " ")))
	}
	return rows
}

// statusIn is the status of a frame, which stands first in its header of all numbers
// named code.
func statusIn(frame []byte) int {
	_, rest, _ := bytes.Cut(frame, []byte(`"status":{"code":`))
	end := bytes.IndexAny(rest, ",}")
	code, err := strconv.Atoi(string(rest[:end]))
	if err != nil {
		panic(fmt.Sprintf("no status in %s", frame))
	}
	return code
}

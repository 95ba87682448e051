package rest

import (
	"crypto/sha256"
	"encoding/base64"
	"net/url"
	"strconv"
	"strings"

	"github.com/rollcall-presence/rollcall/presence"
)

const defaultPageSize = 50

// meta goes with every list. Its members are always there.
type meta struct {
	Page     int     `json:"page"`
	PageSize int     `json:"page_size"`
	First    string  `json:"first_page_url"`
	Previous *string `json:"previous_page_url"`
	URL      string  `json:"url"`
	Next     *string `json:"next_page_url"`
	Key      string  `json:"key"`
}

// list answers a list operation: it reads the page that the query asks for, and
// shows each item. A page size above maxSize is lowered to it.
func list[T any](c *call, key string, maxSize int, read func(cursor string, limit int) (presence.Page[T], error), show func(T) any) (any, error) {
	items := []any{}
	m, err := page(c, key, maxSize, read, func(item T) { items = append(items, show(item)) })
	if err != nil {
		return nil, err
	}
	return map[string]any{"meta": m, key: items}, nil
}

// page reads the page of a list that the query asks for, and hands each item on.
// Page URLs carry what else the query says.
func page[T any](c *call, key string, maxSize int, read func(cursor string, limit int) (presence.Page[T], error), each func(T)) (meta, error) {
	query, err := url.ParseQuery(c.r.URL.RawQuery)
	if err != nil {
		return meta{}, errQuery
	}
	size, page, token := defaultPageSize, 0, query.Get("PageToken")
	if query.Has("PageSize") {
		if size, err = strconv.Atoi(query.Get("PageSize")); err != nil || size < 1 {
			return meta{}, errPageSize
		}
	}
	size = min(size, maxSize)
	if query.Has("Page") {
		if page, err = strconv.Atoi(query.Get("Page")); err != nil || page < 0 {
			return meta{}, errPage
		}
	}
	// Served as page 0, a client that counts pages would read that page for ever.
	if page > 0 && token == "" {
		return meta{}, errNoPageToken
	}
	for _, name := range []string{"PageSize", "Page", "PageToken"} {
		query.Del(name)
	}
	rest := query.Encode()
	// A token of another list, or of the same one filtered otherwise, would silently
	// leave records out.
	seal := c.pageSeal(rest)
	cursor, ours := strings.CutSuffix(token, seal)
	if token != "" && (!ours || cursor == "") {
		return meta{}, errPageToken
	}
	got, err := read(cursor, size)
	if presence.KindOf(err) == presence.KindInvalid && err != nil {
		return meta{}, errPageToken
	}
	if err != nil {
		return meta{}, err
	}
	at := func(page int, token string) string {
		u := c.url(c.r.URL.EscapedPath()) + "?PageSize=" + strconv.Itoa(size) + "&Page=" + strconv.Itoa(page)
		if token != "" {
			u += "&PageToken=" + url.QueryEscape(token)
		}
		if rest != "" {
			u += "&" + rest
		}
		return u
	}
	neighbour := func(page int, token string) *string {
		if token == "" {
			return nil
		}
		u := at(page, token+seal)
		return &u
	}
	for _, item := range got.Items {
		each(item)
	}
	return meta{
		Page: page, PageSize: size, Key: key, First: at(0, ""), URL: at(page, token),
		Previous: neighbour(max(0, page-1), got.Prev), Next: neighbour(page+1, got.Next),
	}, nil
}

// pageSeal is what the tokens of a list's pages end with: it tells the list, its
// service and what else the query says. It keeps mistakes out, not attackers, who may
// read every page as they like.
func (c *call) pageSeal(rest string) string {
	sum := sha256.Sum256([]byte(c.of + "\n" + c.r.URL.EscapedPath() + "\n" + rest))
	return base64.RawURLEncoding.EncodeToString(sum[:6])
}

package rest

import (
	"net/url"
	"strconv"

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
// shows each item. A page size above maxSize is lowered to it. Page URLs carry the query
// parameters named.
func list[T any](c *call, key string, maxSize int, read func(cursor string, limit int) (presence.Page[T], error), show func(T) any, parameters ...string) (any, error) {
	query, err := url.ParseQuery(c.r.URL.RawQuery)
	if err != nil {
		return nil, errQuery
	}
	size, page, token := defaultPageSize, 0, query.Get("PageToken")
	if query.Has("PageSize") {
		if size, err = strconv.Atoi(query.Get("PageSize")); err != nil || size < 1 {
			return nil, errPageSize
		}
	}
	size = min(size, maxSize)
	if query.Has("Page") {
		if page, err = strconv.Atoi(query.Get("Page")); err != nil || page < 0 {
			return nil, errPage
		}
	}
	// Served as page 0, a client that counts pages would read that page for ever.
	if page > 0 && token == "" {
		return nil, errNoPageToken
	}
	got, err := read(token, size)
	if presence.KindOf(err) == presence.KindInvalid && err != nil {
		return nil, errPageToken
	}
	if err != nil {
		return nil, err
	}
	at := func(page int, token string) string {
		u := c.url(c.r.URL.EscapedPath()) + "?PageSize=" + strconv.Itoa(size) + "&Page=" + strconv.Itoa(page)
		if token != "" {
			u += "&PageToken=" + url.QueryEscape(token)
		}
		for _, name := range parameters {
			for _, value := range query[name] {
				u += "&" + name + "=" + url.QueryEscape(value)
			}
		}
		return u
	}
	neighbour := func(page int, token string) *string {
		if token == "" {
			return nil
		}
		u := at(page, token)
		return &u
	}
	items := make([]any, len(got.Items))
	for i, item := range got.Items {
		items[i] = show(item)
	}
	return map[string]any{
		"meta": meta{
			Page: page, PageSize: size, Key: key, First: at(0, ""), URL: at(page, token),
			Previous: neighbour(max(0, page-1), got.Prev), Next: neighbour(page+1, got.Next),
		},
		key: items,
	}, nil
}

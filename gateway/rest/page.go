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
	got, err := read(token, size)
	if presence.KindOf(err) == presence.KindInvalid && err != nil {
		return meta{}, errPageToken
	}
	if err != nil {
		return meta{}, err
	}
	for _, name := range []string{"PageSize", "Page", "PageToken"} {
		query.Del(name)
	}
	rest := query.Encode()
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
		u := at(page, token)
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

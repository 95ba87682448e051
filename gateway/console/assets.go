package console

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"embed"
	"fmt"
	"io/fs"
	"mime"
	"net/http"
	"path"
	"strings"
	"sync"
	"time"
)

//go:embed page
var files embed.FS

// page maps an asset's name to its content; the page itself is index.html.
type page map[string]asset

type asset struct {
	plain, gzipped variant
	contentType    string
}

// variant is one encoding of an asset. Encodings differ in their bytes, so each
// has its own strong entity tag.
type variant struct {
	body []byte
	etag string
}

// The files cannot change while the process lives: compress them once.
var loadPage = sync.OnceValue(func() page {
	p := page{}
	entries, err := fs.ReadDir(files, "page")
	if err != nil {
		panic(err) // the embedded folder is there, or this did not compile
	}
	for _, e := range entries {
		body, err := files.ReadFile(path.Join("page", e.Name()))
		if err != nil {
			panic(err)
		}
		p[e.Name()] = asset{
			plain:       newVariant(body),
			gzipped:     newVariant(compress(body)),
			contentType: contentType(e.Name()),
		}
	}
	return p
})

func newVariant(body []byte) variant {
	return variant{body, fmt.Sprintf(`"%x"`, sha256.Sum256(body))}
}

func compress(body []byte) []byte {
	var buf bytes.Buffer
	z, err := gzip.NewWriterLevel(&buf, gzip.BestCompression)
	if err != nil {
		panic(err) // the level is a constant
	}
	_, _ = z.Write(body) // a bytes.Buffer takes everything
	_ = z.Close()
	return buf.Bytes()
}

// contentType does not ask the machine's mime tables alone: some call a module
// text/plain, and with nosniff a browser then refuses to run it.
func contentType(name string) string {
	switch path.Ext(name) {
	case ".js", ".mjs":
		return "text/javascript; charset=utf-8"
	case ".css":
		return "text/css; charset=utf-8"
	case ".html":
		return "text/html; charset=utf-8"
	case ".svg":
		return "image/svg+xml"
	default:
		return mime.TypeByExtension(path.Ext(name))
	}
}

func (p page) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		notAllowed(w, "GET, HEAD")
		return
	}
	name := r.PathValue("asset")
	if name == "" {
		name = "index.html"
	}
	a, ok := p[name]
	if !ok {
		fail(w, http.StatusNotFound, codeNotFound, "The requested resource was not found")
		return
	}
	h := w.Header()
	h.Set("Content-Type", a.contentType)
	h.Set("Vary", "Accept-Encoding")
	// Names do not change with their content: ask each time, and be told 304.
	h.Set("Cache-Control", "no-cache")
	v := a.plain
	if acceptsGzip(r.Header.Get("Accept-Encoding")) {
		h.Set("Content-Encoding", "gzip")
		v = a.gzipped
	}
	h.Set("ETag", v.etag)
	http.ServeContent(w, r, name, time.Time{}, bytes.NewReader(v.body))
}

// acceptsGzip takes only a plain mention: a weight that could be zero is rare,
// and the uncompressed answer is always right.
func acceptsGzip(header string) bool {
	for coding := range strings.SplitSeq(header, ",") {
		if strings.EqualFold(strings.TrimSpace(coding), "gzip") {
			return true
		}
	}
	return false
}

package registry

import (
	"encoding/json"
	"net/http"
	"strconv"
)

// problem is an error as the distribution specification writes it.
type problem struct {
	status  int
	code    string
	message string
}

var (
	unauthorized   = &problem{http.StatusUnauthorized, "UNAUTHORIZED", "authentication required"}
	denied         = &problem{http.StatusForbidden, "DENIED", "requested access to the resource is denied"}
	notFound       = &problem{http.StatusNotFound, "UNSUPPORTED", "no such path"}
	unknownName    = &problem{http.StatusNotFound, "NAME_UNKNOWN", "repository name not known to registry"}
	badName        = &problem{http.StatusBadRequest, "NAME_INVALID", "invalid repository name"}
	badQuery       = &problem{http.StatusBadRequest, "UNSUPPORTED", "invalid query"}
	badMethod      = &problem{http.StatusMethodNotAllowed, "UNSUPPORTED", "the operation is unsupported"}
	unknownUpload  = &problem{http.StatusNotFound, "BLOB_UPLOAD_UNKNOWN", "blob upload unknown to registry"}
	tooLarge       = &problem{http.StatusRequestEntityTooLarge, "MANIFEST_INVALID", "manifest too large"}
	unreadableBody = &problem{http.StatusBadRequest, "MANIFEST_INVALID", "manifest could not be read"}
	unavailable    = &problem{http.StatusServiceUnavailable, "UNAVAILABLE", "the registry is closed"}
	notStored      = &problem{http.StatusInternalServerError, "UNKNOWN", "the change could not be made durable"}
)

func (p *problem) write(w http.ResponseWriter, realm string) {
	type entry struct {
		Code    string `json:"code"`
		Message string `json:"message"`
	}
	body, err := json.Marshal(map[string][]entry{"errors": {{p.code, p.message}}})
	if err != nil { // constant strings always marshal
		body = nil
	}
	h := w.Header()
	if p.status == http.StatusUnauthorized {
		h.Set("WWW-Authenticate", `Basic realm="`+realm+`", charset="UTF-8"`)
	}
	h.Set("Content-Type", "application/json")
	h.Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(p.status)
	_, _ = w.Write(body) // the client may be gone
}

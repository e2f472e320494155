package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/pratique-io/pratique/internal/auth/devissuer"
	"github.com/pratique-io/pratique/internal/oci"
)

// outside is the world around the product, replaced at its ports: an issuer of tokens, and a source registry that has any image asked for.
type outside struct {
	key      *ecdsa.PrivateKey
	issuer   string // URL
	upstream string // host:port
}

func (s *stand) newOutside() (*outside, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	o := &outside{key: key}
	mux := http.NewServeMux()
	address, err := s.listen(mux)
	if err != nil {
		return nil, err
	}
	o.issuer = "http://" + address
	handler, err := devissuer.Handler(o.issuer, &key.PublicKey)
	if err != nil {
		return nil, err
	}
	mux.Handle("/", handler)
	o.upstream, err = s.listen(http.HandlerFunc(anyImage))
	return o, err
}

// listen serves HTTP on a loopback port until the stand closes.
func (s *stand) listen(handler http.Handler) (string, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	server := &http.Server{Handler: handler, ReadHeaderTimeout: 10 * time.Second}
	go func() {
		if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			s.log.Error("server ended", "err", err)
		}
	}()
	s.after = append(s.after, func() { _ = server.Close() })
	return listener.Addr().String(), nil
}

// anyImage answers every manifest with an index of its own: two requests for one digest would be one request too many. It costs next to
// nothing, since a source registry is somebody else's machine.
func anyImage(w http.ResponseWriter, r *http.Request) {
	_, tag, found := strings.Cut(r.URL.Path, "/manifests/")
	if !found || !strings.HasPrefix(r.URL.Path, "/v2/") {
		http.NotFound(w, r)
		return
	}
	raw, err := json.Marshal(map[string]any{"schemaVersion": 2, "mediaType": oci.MediaTypeIndex, "manifests": []map[string]any{{
		"mediaType": oci.MediaTypeImage, "digest": digestOf(tag), "size": 1000, "platform": map[string]string{"os": "linux", "architecture": "amd64"},
	}}})
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", oci.MediaTypeIndex)
	w.Header().Set("Content-Length", fmt.Sprint(len(raw)))
	_, _ = w.Write(raw) // a reader that went away is not our concern
}

// token is a person's bearer token.
func (o *outside) token(subject string) (string, error) {
	return devissuer.Mint(o.key, o.issuer, subject, subject, subject+"@example.com", nil, time.Hour)
}

// await tries until it works; the last error when patience ends first.
func await(ctx context.Context, what string, patience time.Duration, try func() error) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		err := try()
		if err == nil {
			return nil
		}
		if !tick(ctx, 20*time.Millisecond) {
			return fmt.Errorf("waiting for %s: %w", what, err)
		}
	}
}

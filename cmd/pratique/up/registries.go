package up

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/pratique-io/pratique/internal/registry"
)

// registryNames are the four embedded registries. They stand for the outside world, the untrusted store, the evidence store and the trusted
// store; each has credentials of its own.
var registryNames = []string{"upstream", "quarantine", "evidence", "trusted"}

// Users of the registries, as secrets are named.
const (
	userUpstream  = "upstream"
	userEvidence  = "evidence"
	userRelease   = "release"
	userReader    = "reader"
	secretRunKey  = "run_key"
	secretPrefix  = "registry_"
	loopback      = "127.0.0.1"
	headerTimeout = 10 * time.Second
)

// httpServer is a listening server that can be stopped.
type httpServer struct {
	server *http.Server
	after  func() error
}

// serveHTTP serves a handler on a loopback port until stopped.
func serveHTTP(name string, port int, handler http.Handler, log *slog.Logger, after func() error) (*httpServer, error) {
	listener, err := net.Listen("tcp", fmt.Sprintf("%s:%d", loopback, port))
	if err != nil {
		return nil, fmt.Errorf("the port of %s: %w", name, err)
	}
	s := &httpServer{after: after, server: &http.Server{
		Handler: handler, ReadHeaderTimeout: headerTimeout, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 64 << 10,
	}}
	go func() {
		if err := s.server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			log.Error("server ended", "server", name, "err", err)
		}
	}()
	return s, nil
}

func (s *httpServer) stop(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	err := s.server.Shutdown(ctx)
	if err != nil {
		err = s.server.Close()
	}
	return errors.Join(err, s.after())
}

// startRegistries opens the four registries on their ports.
func (r *Running) startRegistries() error {
	runKey, err := r.dir.secret(secretRunKey)
	if err != nil {
		return err
	}
	for _, name := range registryNames {
		users, err := r.registryUsers(name)
		if err != nil {
			return err
		}
		cfg := registry.Config{Name: name, Dir: r.dir.join("registries", name), Users: users, Log: r.log}
		switch name {
		case "upstream":
			cfg.Anonymous = registry.Full(registry.Pull, registry.Push) // the outside world: anyone may push
		case "quarantine":
			cfg.RunKey = []byte(runKey)
		}
		opened, err := registry.Open(cfg)
		if err != nil {
			return err
		}
		server, err := serveHTTP(name+" registry", r.ports[name], nobodyIsAnonymous(opened), r.log, opened.Close)
		if err != nil {
			return errors.Join(err, opened.Close())
		}
		r.stops = append(r.stops, server.stop)
	}
	return nil
}

// nobodyIsAnonymous takes empty credentials for none: skopeo answers a registry that knows users with them when it was given none.
func nobodyIsAnonymous(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if user, password, ok := r.BasicAuth(); ok && user == "" && password == "" {
			r.Header.Del("Authorization")
		}
		next.ServeHTTP(w, r)
	})
}

func (r *Running) registryUsers(name string) ([]registry.User, error) {
	access := map[string]map[string][]registry.Access{
		"upstream":   {userUpstream: registry.Full(registry.Pull, registry.Push)},
		"quarantine": {userEvidence: registry.Full(registry.Pull, registry.Delete), userRelease: registry.Full(registry.Pull)},
		"evidence":   {userEvidence: registry.Full(registry.Pull, registry.Push, registry.Delete)},
		"trusted":    {userRelease: registry.Full(registry.Pull, registry.Push), userReader: registry.Full(registry.Pull)},
	}
	var users []registry.User
	for user, grants := range access[name] {
		password, err := r.dir.secret(secretPrefix + name + "_" + user)
		if err != nil {
			return nil, err
		}
		users = append(users, registry.User{Name: user, Password: password, Access: grants})
	}
	return users, nil
}

// registryAddress is host:port of an embedded registry.
func (r *Running) registryAddress(name string) string {
	return r.address(name)
}

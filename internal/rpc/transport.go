package rpc

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
)

// Transport says how connections are protected. Files are read again for each handshake, so that certificates may be renewed
// under a running service. Exactly one of the files and Plaintext is used.
type Transport struct {
	CA   string `yaml:"ca"`   // PEM: who may sign the other side; a server with it demands client certificates
	Cert string `yaml:"cert"` // PEM: our certificate chain
	Key  string `yaml:"key"`  // PEM: our private key
	Name string `yaml:"name"` // clients: the name in the server's certificate, when it is not the host that is dialled

	// Plaintext allows no TLS on loopback addresses, where tokens cross no wire.
	Plaintext bool `yaml:"plaintext"`
	// Mesh allows no TLS to any address, where a service mesh encrypts underneath.
	Mesh bool `yaml:"mesh"`
}

func (t Transport) bare() bool { return t.Plaintext || t.Mesh }

// Check says what contradicts itself.
func (t Transport) Check() error {
	files := t.CA != "" || t.Cert != "" || t.Key != ""
	switch {
	case files && t.bare():
		return errors.New("transport has both certificates and plaintext")
	case !files && !t.bare():
		return errors.New("transport needs certificates, or plaintext allowed")
	case (t.Cert == "") != (t.Key == ""):
		return errors.New("transport needs both cert and key, or neither")
	}
	return nil
}

func (t Transport) server() (credentials.TransportCredentials, error) {
	if err := t.Check(); err != nil {
		return nil, err
	}
	if t.bare() {
		return insecure.NewCredentials(), nil
	}
	if t.Cert == "" {
		return nil, errors.New("a server's transport needs cert and key")
	}
	if _, err := t.config(); err != nil {
		return nil, err
	}
	return credentials.NewTLS(&tls.Config{
		MinVersion: tls.VersionTLS13,
		NextProtos: []string{"h2"},
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
			return t.config()
		},
	}), nil
}

// config reads the files as they are now.
func (t Transport) config() (*tls.Config, error) {
	cfg := &tls.Config{MinVersion: tls.VersionTLS13, ServerName: t.Name, NextProtos: []string{"h2"}}
	if t.Cert != "" {
		pair, err := tls.LoadX509KeyPair(t.Cert, t.Key)
		if err != nil {
			return nil, fmt.Errorf("read certificate: %w", err)
		}
		cfg.Certificates = []tls.Certificate{pair}
	}
	if t.CA != "" {
		raw, err := os.ReadFile(t.CA)
		if err != nil {
			return nil, fmt.Errorf("read authority: %w", err)
		}
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM(raw) {
			return nil, fmt.Errorf("read authority %s: no certificate in it", t.CA)
		}
		cfg.RootCAs, cfg.ClientCAs, cfg.ClientAuth = pool, pool, tls.RequireAndVerifyClientCert
	}
	return cfg, nil
}

func (t Transport) client(address string) (credentials.TransportCredentials, error) {
	if err := t.Check(); err != nil {
		return nil, err
	}
	if t.bare() {
		if !t.Mesh && !loopback(address) {
			return nil, fmt.Errorf("plaintext to %s: only loopback addresses are allowed without TLS", address)
		}
		return insecure.NewCredentials(), nil
	}
	cfg, err := t.config()
	if err != nil {
		return nil, err
	}
	if t.Cert != "" {
		cfg.Certificates = nil
		cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			pair, err := tls.LoadX509KeyPair(t.Cert, t.Key)
			return &pair, err
		}
	}
	return credentials.NewTLS(cfg), nil
}

// loopback takes literal addresses only: what a name resolves to is somebody else's decision.
func loopback(address string) bool {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return false
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}

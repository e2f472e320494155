package auth

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

const (
	blockPrivate = "PRIVATE KEY"
	blockPublic  = "PUBLIC KEY"
	keyMode      = 0o600
)

// EnsureKey reads the ECDSA P-256 private key of a PEM file (PKCS 8), and makes the file first (0600) when there is none: keys
// are made once and reused, since stored tokens and references depend on them.
func EnsureKey(path string) (*ecdsa.PrivateKey, error) {
	key, err := ReadKey(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return key, err
	}
	if key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		return nil, fmt.Errorf("make key: %w", err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("make key: %w", err)
	}
	if err := writeNew(path, pem.EncodeToMemory(&pem.Block{Type: blockPrivate, Bytes: der})); err != nil {
		if errors.Is(err, fs.ErrExist) { // somebody was faster; theirs is the key
			return ReadKey(path)
		}
		return nil, err
	}
	return key, nil
}

// writeNew makes the file whole or not at all, and never replaces one.
func writeNew(path string, data []byte) error {
	temp, err := os.CreateTemp(filepath.Dir(path), ".key-*")
	if err != nil {
		return fmt.Errorf("write key: %w", err)
	}
	defer os.Remove(temp.Name()) //nolint:errcheck // the link below is what counts
	_, err = temp.Write(data)
	err = errors.Join(err, temp.Chmod(keyMode), temp.Sync(), temp.Close())
	if err != nil {
		return fmt.Errorf("write key: %w", err)
	}
	if err := os.Link(temp.Name(), path); err != nil {
		return fmt.Errorf("write key: %w", err)
	}
	return nil
}

// ReadKey reads an ECDSA P-256 private key from a PEM file (PKCS 8 or SEC 1).
func ReadKey(path string) (*ecdsa.PrivateKey, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read key: %w", err)
	}
	block, _ := pem.Decode(raw)
	if block == nil {
		return nil, fmt.Errorf("read key %s: not PEM", path)
	}
	if key, err := x509.ParseECPrivateKey(block.Bytes); err == nil {
		return checkCurve(path, key)
	}
	any, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("read key %s: not a private key", path) // the parser's text may quote the content
	}
	key, ok := any.(*ecdsa.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("read key %s: not an ECDSA key", path)
	}
	return checkCurve(path, key)
}

func checkCurve(path string, key *ecdsa.PrivateKey) (*ecdsa.PrivateKey, error) {
	if key.Curve != elliptic.P256() {
		return nil, fmt.Errorf("read key %s: the curve must be P-256", path)
	}
	return key, nil
}

// ReadServiceKeys reads the public keys of services: per service PEM files, each with one or more PUBLIC KEY blocks; the
// public half of a PRIVATE KEY block is accepted for one-machine set-ups.
func ReadServiceKeys(filesByService map[string][]string) (ServiceKeys, error) {
	out := ServiceKeys{}
	for name, paths := range filesByService {
		for _, path := range paths {
			keys, err := readPublic(path)
			if err != nil {
				return nil, fmt.Errorf("keys of service %s: %w", name, err)
			}
			out[name] = append(out[name], keys...)
		}
	}
	return out, nil
}

func readPublic(path string) ([]*ecdsa.PublicKey, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var out []*ecdsa.PublicKey
	for block, rest := pem.Decode(raw); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != blockPublic {
			key, err := ReadKey(path)
			if err != nil {
				return nil, err
			}
			return append(out, &key.PublicKey), nil
		}
		parsed, err := x509.ParsePKIXPublicKey(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		key, ok := parsed.(*ecdsa.PublicKey)
		if !ok || key.Curve != elliptic.P256() {
			return nil, fmt.Errorf("%s: not an ECDSA P-256 key", path)
		}
		out = append(out, key)
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("%s: no PEM block", path)
	}
	return out, nil
}

// PublicPEM is the public half of a key, as ReadServiceKeys takes it.
func PublicPEM(key *ecdsa.PublicKey) ([]byte, error) {
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return nil, fmt.Errorf("encode public key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: blockPublic, Bytes: der}), nil
}

// KeyID is the SHA-256 of the public key's DER, base64url without padding.
func KeyID(key *ecdsa.PublicKey) string {
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return ""
	}
	sum := sha256.Sum256(der)
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

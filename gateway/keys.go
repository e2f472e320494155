package gateway

import (
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"

	"github.com/pratique-io/pratique/internal/auth"
)

// Keys renders a PEM public key (ECDSA P-256) as the JSON of /.well-known/pratique/keys: a JWK set whose key id is the SHA-256 of the key.
func Keys(pemText []byte) ([]byte, error) {
	block, _ := pem.Decode(pemText)
	if block == nil {
		return nil, errors.New("no PEM block")
	}
	parsed, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return nil, err
	}
	key, ok := parsed.(*ecdsa.PublicKey)
	if !ok {
		return nil, fmt.Errorf("a %T is no ECDSA key", parsed)
	}
	point, err := key.Bytes() // 0x04, then X and Y of equal length
	if err != nil {
		return nil, err
	}
	half := (len(point) - 1) / 2
	encode := base64.RawURLEncoding.EncodeToString
	return json.Marshal(map[string]any{"keys": []map[string]string{{
		"kty": "EC", "crv": key.Curve.Params().Name, "use": "sig", "alg": "ES256", "kid": auth.KeyID(key),
		"x": encode(point[1 : 1+half]), "y": encode(point[1+half:]),
	}}})
}

// Package devissuer is the issuer of `pratique up` and of tests: discovery and keys over HTTP, and tokens minted by whoever
// holds the key. It signs nobody in and must not be configured in production.
package devissuer

import (
	"crypto/ecdsa"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/pratique-io/pratique/internal/auth"
)

// Audience is the audience of every minted token.
const Audience = "pratique"

const (
	discoveryPath = "/.well-known/openid-configuration"
	keysPath      = "/keys"
)

// Handler serves discovery and JWKS of the issuer with this URL (no trailing slash), at the root of its mux.
func Handler(issuer string, key *ecdsa.PublicKey) (http.Handler, error) {
	keys, err := keySet(key)
	if err != nil {
		return nil, err
	}
	discovery, err := json.Marshal(map[string]any{
		"issuer": issuer, "jwks_uri": issuer + keysPath,
		"response_types_supported": []string{"code"}, "subject_types_supported": []string{"public"},
		"id_token_signing_alg_values_supported": []string{jwt.SigningMethodES256.Alg()},
	})
	if err != nil {
		return nil, fmt.Errorf("issuer configuration: %w", err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+discoveryPath, document(discovery))
	mux.HandleFunc("GET "+keysPath, document(keys))
	return mux, nil
}

func document(body []byte) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(body) // a reader that went away is not our concern
	}
}

func keySet(key *ecdsa.PublicKey) ([]byte, error) {
	point, err := key.Bytes() // 0x04 | x | y
	if err != nil {
		return nil, fmt.Errorf("issuer key: %w", err)
	}
	half := (len(point) - 1) / 2
	text := base64.RawURLEncoding.EncodeToString
	raw, err := json.Marshal(map[string]any{"keys": []map[string]string{{
		"kty": "EC", "crv": key.Curve.Params().Name, "use": "sig", "alg": jwt.SigningMethodES256.Alg(),
		"kid": auth.KeyID(key), "x": text(point[1 : 1+half]), "y": text(point[1+half:]),
	}}})
	if err != nil {
		return nil, fmt.Errorf("issuer keys: %w", err)
	}
	return raw, nil
}

// Mint signs a token for subject, good from now for ttl. Name, email and groups may be empty.
func Mint(key *ecdsa.PrivateKey, issuer, subject, name, email string, groups []string, ttl time.Duration) (string, error) {
	now := time.Now()
	claims := jwt.MapClaims{
		"iss": issuer, "sub": subject, "aud": Audience, "iat": now.Unix(), "exp": now.Add(ttl).Unix(),
	}
	for claim, value := range map[string]string{"name": name, "email": email} {
		if value != "" {
			claims[claim] = value
		}
	}
	if len(groups) > 0 {
		claims["groups"] = groups
	}
	return Sign(key, claims)
}

// Sign signs any claims with the issuer's key and key id.
func Sign(key *ecdsa.PrivateKey, claims jwt.MapClaims) (string, error) {
	token := jwt.NewWithClaims(jwt.SigningMethodES256, claims)
	token.Header["kid"] = auth.KeyID(&key.PublicKey)
	signed, err := token.SignedString(key)
	if err != nil {
		return "", fmt.Errorf("sign token: %w", err)
	}
	return signed, nil
}

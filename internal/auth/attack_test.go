package auth_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/stretchr/testify/require"

	"github.com/pratique-io/pratique/internal/auth"
	"github.com/pratique-io/pratique/internal/auth/devissuer"
)

// attack is a token that must be refused; make gets the honest claims.
type attack struct {
	name string
	make func(t *testing.T, i *testIssuer, c jwt.MapClaims) string
}

func changed(key string, value any) func(*testing.T, *testIssuer, jwt.MapClaims) string {
	return func(t *testing.T, i *testIssuer, c jwt.MapClaims) string {
		if value == nil {
			delete(c, key)
		} else {
			c[key] = value
		}
		token, err := devissuer.Sign(i.ec, c)
		require.NoError(t, err)
		return token
	}
}

func signed(t *testing.T, method jwt.SigningMethod, kid string, c jwt.Claims, key any) string {
	t.Helper()
	token := jwt.NewWithClaims(method, c)
	if kid != "" {
		token.Header["kid"] = kid
	}
	out, err := token.SignedString(key)
	require.NoError(t, err)
	return out
}

func rawToken(header, claims any, signature string) string {
	h, _ := json.Marshal(header)
	c, _ := json.Marshal(claims)
	e := base64.RawURLEncoding.EncodeToString
	return e(h) + "." + e(c) + "." + signature
}

func attacks() []attack {
	ago, ahead := time.Now().Add(-time.Hour).Unix(), time.Now().Add(time.Hour).Unix()
	return []attack{
		{"expired", changed("exp", ago)},
		{"without end", changed("exp", nil)},
		{"not yet valid", changed("nbf", ahead)},
		{"nbf that is no number", changed("nbf", "soon")},
		{"issued in the future", changed("iat", ahead)},
		{"of another audience", changed("aud", "elsewhere")},
		{"of another audience in a list", changed("aud", []string{"elsewhere", "pratique2"})},
		{"without audience", changed("aud", nil)},
		{"with empty audience", changed("aud", "")},
		{"without subject", changed("sub", nil)},
		{"with an empty subject", changed("sub", "")},
		{"with a subject of another type", changed("sub", 7)},
		{"with a subject of control characters", changed("sub", "ann\x00admin")},
		{"with a huge subject", changed("sub", strings.Repeat("a", 256))},
		{"of an unknown issuer", changed("iss", "https://evil.example")},
		{"of the issuer with a slash more", func(t *testing.T, i *testIssuer, c jwt.MapClaims) string {
			return changed("iss", i.url+"/")(t, i, c)
		}},
		{"without issuer", changed("iss", nil)},
		{"with an issuer of another type", changed("iss", []string{"a"})},
		{"posing as a service", changed("iss", auth.ServiceIssuer)},
		{"with alg none", func(t *testing.T, i *testIssuer, c jwt.MapClaims) string {
			return signed(t, jwt.SigningMethodNone, auth.KeyID(&i.ec.PublicKey), c, jwt.UnsafeAllowNoneSignatureType)
		}},
		{"with alg NONE in capitals", func(_ *testing.T, _ *testIssuer, c jwt.MapClaims) string {
			return rawToken(map[string]string{"alg": "NONE"}, c, "")
		}},
		{"HS256 with the public key as secret", func(t *testing.T, i *testIssuer, c jwt.MapClaims) string {
			pem, err := auth.PublicPEM(&i.ec.PublicKey)
			require.NoError(t, err)
			return signed(t, jwt.SigningMethodHS256, auth.KeyID(&i.ec.PublicKey), c, pem)
		}},
		{"HS256 with the key's DER as secret", func(t *testing.T, i *testIssuer, c jwt.MapClaims) string {
			der, err := x509.MarshalPKIXPublicKey(&i.ec.PublicKey)
			require.NoError(t, err)
			return signed(t, jwt.SigningMethodHS256, auth.KeyID(&i.ec.PublicKey), c, der)
		}},
		{"ES384 with a key of its own", func(t *testing.T, i *testIssuer, c jwt.MapClaims) string {
			key, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
			require.NoError(t, err)
			return signed(t, jwt.SigningMethodES384, auth.KeyID(&i.ec.PublicKey), c, key)
		}},
		{"signed by another key under the same kid", func(t *testing.T, i *testIssuer, c jwt.MapClaims) string {
			return signed(t, jwt.SigningMethodES256, auth.KeyID(&i.ec.PublicKey), c, newKey(t))
		}},
		{"signed by another key without kid", func(t *testing.T, _ *testIssuer, c jwt.MapClaims) string {
			return signed(t, jwt.SigningMethodES256, "", c, newKey(t))
		}},
		{"bringing its own key in the header", func(t *testing.T, i *testIssuer, c jwt.MapClaims) string {
			key := newKey(t)
			token := jwt.NewWithClaims(jwt.SigningMethodES256, c)
			point, err := key.PublicKey.Bytes()
			require.NoError(t, err)
			e := base64.RawURLEncoding.EncodeToString
			token.Header["kid"] = auth.KeyID(&i.ec.PublicKey)
			token.Header["jwk"] = map[string]string{"kty": "EC", "crv": "P-256", "x": e(point[1:33]), "y": e(point[33:])}
			out, err := token.SignedString(key)
			require.NoError(t, err)
			return out
		}},
		{"with a changed payload", func(t *testing.T, i *testIssuer, c jwt.MapClaims) string {
			parts := strings.Split(changed("sub", "ann")(t, i, c), ".")
			c["sub"] = "admin"
			other := strings.Split(changed("sub", "admin")(t, i, c), ".")
			return parts[0] + "." + other[1] + "." + parts[2]
		}},
		{"without its signature", func(t *testing.T, i *testIssuer, c jwt.MapClaims) string {
			token := changed("sub", "ann")(t, i, c)
			return token[:strings.LastIndex(token, ".")+1]
		}},
		{"of two parts", func(*testing.T, *testIssuer, jwt.MapClaims) string { return "a.b" }},
		{"of five parts", func(*testing.T, *testIssuer, jwt.MapClaims) string { return "a.b.c.d.e" }},
		{"that is JSON", func(_ *testing.T, _ *testIssuer, c jwt.MapClaims) string {
			raw, _ := json.Marshal(map[string]any{"payload": c, "signatures": []any{}})
			return string(raw)
		}},
		{"that is empty", func(*testing.T, *testIssuer, jwt.MapClaims) string { return "" }},
		{"of dots", func(*testing.T, *testIssuer, jwt.MapClaims) string { return ".." }},
		{"that is huge", changed("pad", strings.Repeat("x", auth.MaxToken))},
	}
}

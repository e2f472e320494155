package auth_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/stretchr/testify/require"

	errorsv1 "github.com/pratique-io/pratique/gen/pratique/errors/v1"
	"github.com/pratique-io/pratique/internal/auth"
	"github.com/pratique-io/pratique/internal/fault"
)

func TestAServiceProvesItselfWithItsOwnKey(t *testing.T) {
	t.Parallel()
	dispatch, release := newKey(t), newKey(t)
	v := newVerifier(t, auth.Config{Services: auth.ServiceKeys{
		"dispatch": {&newKey(t).PublicKey, &dispatch.PublicKey}, // an older key beside the current one
		"release":  {&release.PublicKey},
	}})
	signer := auth.NewServiceSigner("dispatch", dispatch)
	token, err := signer.Token()
	require.NoError(t, err)
	p, err := v.Verify(t.Context(), token)
	require.NoError(t, err)
	require.Equal(t, "dispatch", p.Service)
	require.Empty(t, p.Subject)
	require.LessOrEqual(t, time.Until(p.Expires), auth.ServiceLifetime)
	again, err := signer.Token()
	require.NoError(t, err)
	require.Equal(t, token, again, "a token is used until shortly before its end")

	now := time.Now()
	claims := func(change func(jwt.MapClaims)) jwt.MapClaims {
		c := jwt.MapClaims{
			"iss": auth.ServiceIssuer, "sub": "service:dispatch", "aud": auth.ServiceAudience,
			"iat": now.Unix(), "exp": now.Add(time.Minute).Unix(),
		}
		if change != nil {
			change(c)
		}
		return c
	}
	es := jwt.SigningMethodES256
	_, err = v.Verify(t.Context(), signed(t, es, "", claims(nil), dispatch))
	require.NoError(t, err, "the honest claims pass")
	set := func(key string, value any) func(jwt.MapClaims) { return func(c jwt.MapClaims) { c[key] = value } }
	drop := func(key string) func(jwt.MapClaims) { return func(c jwt.MapClaims) { delete(c, key) } }
	for name, token := range map[string]string{
		"another service's key":      signed(t, es, "", claims(set("sub", "service:release")), dispatch),
		"an unknown service":         signed(t, es, "", claims(set("sub", "service:nobody")), dispatch),
		"no service prefix":          signed(t, es, "", claims(set("sub", "dispatch")), dispatch),
		"no subject":                 signed(t, es, "", claims(drop("sub")), dispatch),
		"another audience":           signed(t, es, "", claims(set("aud", "other")), dispatch),
		"no audience":                signed(t, es, "", claims(drop("aud")), dispatch),
		"expired":                    signed(t, es, "", claims(set("exp", now.Add(-time.Minute).Unix())), dispatch),
		"no end":                     signed(t, es, "", claims(drop("exp")), dispatch),
		"no beginning":               signed(t, es, "", claims(drop("iat")), dispatch),
		"from the future":            signed(t, es, "", claims(set("iat", now.Add(time.Minute).Unix())), dispatch),
		"not yet valid":              signed(t, es, "", claims(set("nbf", now.Add(time.Minute).Unix())), dispatch),
		"living too long":            signed(t, es, "", claims(set("exp", now.Add(6*time.Minute).Unix())), dispatch),
		"alg none":                   signed(t, jwt.SigningMethodNone, "", claims(nil), jwt.UnsafeAllowNoneSignatureType),
		"HS256 with the public key":  signed(t, jwt.SigningMethodHS256, "", claims(nil), publicPEM(t, &dispatch.PublicKey)),
		"a stranger's key, same sub": signed(t, es, "", claims(nil), newKey(t)),
	} {
		t.Run(name, func(t *testing.T) {
			_, err := v.Verify(t.Context(), token)
			require.True(t, fault.Is(err, errorsv1.Reason_REASON_UNAUTHORIZED), "%v", err)
		})
	}
	_, err = newVerifier(t, auth.Config{}).Verify(t.Context(), token)
	require.True(t, fault.Is(err, errorsv1.Reason_REASON_UNAUTHORIZED), "no keys, no services")
}

func publicPEM(t *testing.T, key *ecdsa.PublicKey) []byte {
	t.Helper()
	raw, err := auth.PublicPEM(key)
	require.NoError(t, err)
	return raw
}

func TestKeysAreMadeOnceAndReused(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "dispatch.pem")
	made, err := auth.EnsureKey(path)
	require.NoError(t, err)
	info, err := os.Stat(path)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode().Perm())
	again, err := auth.EnsureKey(path)
	require.NoError(t, err)
	require.True(t, made.Equal(again))
	left, err := os.ReadDir(filepath.Dir(path))
	require.NoError(t, err)
	require.Len(t, left, 1, "no temporary file stays behind")

	public := filepath.Join(t.TempDir(), "pub.pem")
	other := newKey(t)
	require.NoError(t, os.WriteFile(public, append(publicPEM(t, &made.PublicKey), publicPEM(t, &other.PublicKey)...), 0o600))
	keys, err := auth.ReadServiceKeys(map[string][]string{"dispatch": {public}, "release": {path}})
	require.NoError(t, err)
	require.Len(t, keys["dispatch"], 2)
	require.True(t, keys["dispatch"][1].Equal(&other.PublicKey))
	require.True(t, keys["release"][0].Equal(&made.PublicKey))
	require.Equal(t, []string{"dispatch", "release"}, keys.Services())
	require.Len(t, auth.KeyID(&made.PublicKey), 43)
}

func TestBadKeyFilesAreRefusedWithoutShowingThem(t *testing.T) {
	t.Parallel()
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	require.NoError(t, err)
	der, err := x509.MarshalPKCS8PrivateKey(p384)
	require.NoError(t, err)
	for name, content := range map[string][]byte{
		"text":          []byte("hunter2"),
		"empty":         nil,
		"garbage block": pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte("hunter2")}),
		"another curve": pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}),
	} {
		path := filepath.Join(t.TempDir(), "key.pem")
		require.NoError(t, os.WriteFile(path, content, 0o600))
		_, err := auth.EnsureKey(path)
		require.Error(t, err, name)
		require.NotContains(t, err.Error(), "hunter2")
		_, err = auth.ReadServiceKeys(map[string][]string{"a": {path}})
		require.Error(t, err, name)
	}
	_, err = auth.ReadServiceKeys(map[string][]string{"a": {filepath.Join(t.TempDir(), "absent")}})
	require.ErrorIs(t, err, os.ErrNotExist)
}

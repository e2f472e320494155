package auth

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"

	errorsv1 "github.com/pratique-io/pratique/gen/pratique/errors/v1"
	"github.com/pratique-io/pratique/internal/fault"
)

// MaxToken bounds a bearer token in bytes; a header that holds more is refused before anything is decoded.
const MaxToken = 16 << 10

func refused(cause error) error {
	return fault.New(errorsv1.Reason_REASON_UNAUTHORIZED, "the token is missing, malformed, expired or not meant for us", fault.Cause(cause))
}

// Unauthorized is the answer to a call without a token.
func Unauthorized() error {
	return fault.New(errorsv1.Reason_REASON_UNAUTHORIZED, "the call carried no valid credential")
}

// issuerOf reads `iss` without trusting it: it only chooses whose keys have to verify the token.
func issuerOf(token string) (string, error) {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return "", fmt.Errorf("token has %d parts", len(parts))
	}
	raw, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return "", fmt.Errorf("token payload: %w", err)
	}
	var claims struct {
		Issuer string `json:"iss"`
	}
	if err := json.Unmarshal(raw, &claims); err != nil {
		return "", fmt.Errorf("token payload: %w", err)
	}
	return claims.Issuer, nil
}

// BearerOf takes the token out of an Authorization header value; false when it is not a bearer token.
func BearerOf(header string) (string, bool) {
	scheme, token, ok := strings.Cut(header, " ")
	token = strings.TrimSpace(token)
	if !ok || !strings.EqualFold(scheme, "bearer") || token == "" {
		return "", false
	}
	return token, true
}

package auth

import (
	"crypto/ecdsa"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// Facts of service tokens.
const (
	ServiceIssuer   = "pratique-services"
	ServiceAudience = "pratique"
	ServiceLifetime = 5 * time.Minute

	servicePrefix = "service:"
	// renewBefore is how long before its end a token is no longer handed out, more than a call's deadline.
	renewBefore = time.Minute
)

// ServiceKeys are the public keys (ECDSA P-256) by service name; several per service while a key is being replaced.
type ServiceKeys map[string][]*ecdsa.PublicKey

// ServiceSigner makes the short-lived tokens with which one service calls others. Safe for concurrent use.
type ServiceSigner struct {
	name string
	key  *ecdsa.PrivateKey
	now  func() time.Time

	mu      sync.Mutex
	token   string
	expires time.Time
}

// NewServiceSigner signs as service name with its own ES256 key.
func NewServiceSigner(name string, key *ecdsa.PrivateKey) *ServiceSigner {
	return &ServiceSigner{name: name, key: key, now: time.Now}
}

// Name is the service the signer speaks for.
func (s *ServiceSigner) Name() string { return s.name }

// Token is a token that is good for at least another minute.
func (s *ServiceSigner) Token() (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	if s.token != "" && now.Add(renewBefore).Before(s.expires) {
		return s.token, nil
	}
	expires := now.Add(ServiceLifetime)
	token, err := jwt.NewWithClaims(jwt.SigningMethodES256, jwt.RegisteredClaims{
		Issuer: ServiceIssuer, Subject: servicePrefix + s.name, Audience: jwt.ClaimStrings{ServiceAudience},
		IssuedAt: jwt.NewNumericDate(now), ExpiresAt: jwt.NewNumericDate(expires),
	}).SignedString(s.key)
	if err != nil {
		return "", fmt.Errorf("sign service token: %w", err)
	}
	s.token, s.expires = token, expires
	return token, nil
}

type serviceVerifier struct {
	keys   ServiceKeys
	parser *jwt.Parser
	skew   time.Duration
}

func newServiceVerifier(keys ServiceKeys, now func() time.Time, skew time.Duration) *serviceVerifier {
	return &serviceVerifier{keys: keys, skew: skew, parser: jwt.NewParser(
		jwt.WithValidMethods([]string{jwt.SigningMethodES256.Alg()}),
		jwt.WithIssuer(ServiceIssuer), jwt.WithAudience(ServiceAudience),
		jwt.WithExpirationRequired(), jwt.WithIssuedAt(), jwt.WithLeeway(skew), jwt.WithTimeFunc(now), jwt.WithStrictDecoding(),
	)}
}

// verify accepts a token only under the keys of the very service that its subject names.
func (v *serviceVerifier) verify(token string) (Principal, error) {
	var claims jwt.RegisteredClaims
	var name string
	_, err := v.parser.ParseWithClaims(token, &claims, func(*jwt.Token) (any, error) {
		var ok bool
		if name, ok = strings.CutPrefix(claims.Subject, servicePrefix); !ok || len(v.keys[name]) == 0 {
			return nil, errors.New("subject is no known service")
		}
		set := jwt.VerificationKeySet{}
		for _, key := range v.keys[name] {
			set.Keys = append(set.Keys, key)
		}
		return set, nil
	})
	if err != nil {
		return Principal{}, refused(fmt.Errorf("service token: %w", err))
	}
	if claims.IssuedAt == nil || claims.ExpiresAt.Sub(claims.IssuedAt.Time) > ServiceLifetime {
		return Principal{}, refused(errors.New("service token: it lives longer than allowed"))
	}
	return Principal{Service: name, Expires: claims.ExpiresAt.Time}, nil
}

// Services lists the services that have keys, sorted.
func (k ServiceKeys) Services() []string {
	out := make([]string, 0, len(k))
	for name := range k {
		out = append(out, name)
	}
	slices.Sort(out)
	return out
}

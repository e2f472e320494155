package registry

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"strings"
	"time"
)

const (
	minKey      = 32 // bytes
	tokenPrefix = "prq1."
	// maxToken bounds what is decoded before the signature is checked, in bytes.
	maxToken = 4096
)

// Grant is what a run credential allows: actions on exactly one repository,
// not on repositories below it, until it expires.
type Grant struct {
	Repository string
	Actions    []string
	Run        string // who it was made for; upload sessions belong to it
	Expires    time.Time
}

type claims struct {
	Repository string   `json:"repo"`
	Actions    []string `json:"act"`
	Run        string   `json:"run"`
	Expires    int64    `json:"exp"` // seconds since 1970
}

// Mint makes the Basic credentials of one run. It touches nothing: any holder
// of the key can mint. A key under 32 bytes, or a grant without a proper
// repository, actions, run and expiry, makes a password no registry accepts.
func Mint(key []byte, g Grant) (username, password string) {
	body, err := json.Marshal(claims{g.Repository, g.Actions, g.Run, g.Expires.Unix()})
	if err != nil { // strings and numbers always marshal
		return runUser, ""
	}
	encoded := base64.RawURLEncoding.EncodeToString(body)
	return runUser, tokenPrefix + encoded + "." + sign(key, encoded)
}

func sign(key []byte, encoded string) string {
	// The label keeps signatures apart from anything else the key may sign.
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte("pratique registry run credential 1\x00"))
	mac.Write([]byte(encoded))
	return base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
}

var errToken = errors.New("run credential not accepted")

func verify(key []byte, password string, now time.Time) (Grant, error) {
	if len(key) < minKey || len(password) > maxToken {
		return Grant{}, errToken
	}
	rest, ok := strings.CutPrefix(password, tokenPrefix)
	encoded, signature, dot := strings.Cut(rest, ".")
	if !ok || !dot {
		return Grant{}, errToken
	}
	// Compared as written: base64 readers skip line breaks and spare bits.
	if !hmac.Equal([]byte(signature), []byte(sign(key, encoded))) {
		return Grant{}, errToken
	}
	body, err := base64.RawURLEncoding.DecodeString(encoded)
	if err != nil {
		return Grant{}, errToken
	}
	var c claims
	if err := json.Unmarshal(body, &c); err != nil {
		return Grant{}, errToken
	}
	expires := time.Unix(c.Expires, 0)
	if !now.Before(expires) || c.Run == "" || !repositoryOK(c.Repository) || checkActions(c.Actions) != nil {
		return Grant{}, errToken
	}
	return Grant{Repository: c.Repository, Actions: c.Actions, Run: c.Run, Expires: expires}, nil
}

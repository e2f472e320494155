package oci

import (
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"fmt"
	"hash"
	"strings"
)

// Digest is "sha256:<64 hex>" or "sha512:<128 hex>", lower case. Only ParseDigest and FromBytes make valid ones.
type Digest string

// ParseDigest accepts exactly the two spellings above.
func ParseDigest(s string) (Digest, error) {
	d := Digest(s)
	if !d.Valid() {
		return "", fmt.Errorf("%s is not a sha256 or sha512 digest", clip(s))
	}
	return d, nil
}

// FromBytes returns the sha256 digest of raw.
func FromBytes(raw []byte) Digest {
	sum := sha256.Sum256(raw)
	return Digest("sha256:" + hex.EncodeToString(sum[:]))
}

// Valid reports whether d is well formed.
func (d Digest) Valid() bool {
	algorithm, value, ok := strings.Cut(string(d), ":")
	if !ok || (algorithm != "sha256" || len(value) != 64) && (algorithm != "sha512" || len(value) != 128) {
		return false
	}
	return strings.Trim(value, "0123456789abcdef") == ""
}

// Algorithm returns "sha256" or "sha512" of a valid digest.
func (d Digest) Algorithm() string { a, _, _ := strings.Cut(string(d), ":"); return a }

// Hex returns the part after the colon.
func (d Digest) Hex() string { _, h, _ := strings.Cut(string(d), ":"); return h }

// String implements fmt.Stringer.
func (d Digest) String() string { return string(d) }

// Matches reports whether raw has this digest.
func (d Digest) Matches(raw []byte) bool {
	if !d.Valid() {
		return false
	}
	h := d.hash()
	_, _ = h.Write(raw) // hashes do not fail
	return d.matchesSum(h)
}

func (d Digest) hash() hash.Hash {
	if d.Algorithm() == "sha512" {
		return sha512.New()
	}
	return sha256.New()
}

func (d Digest) matchesSum(h hash.Hash) bool { return hex.EncodeToString(h.Sum(nil)) == d.Hex() }

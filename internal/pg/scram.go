package pg

import (
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
)

// scramIterations is Postgres' own default.
const scramIterations = 4096

// scramVerifier derives what the server stores for a password, so that the
// password itself never appears in a statement, a log or pg_stat_activity.
// Only printable ASCII, for which SASLprep changes nothing.
func scramVerifier(password string) (string, error) {
	if password == "" {
		return "", errors.New("password is empty")
	}
	for _, c := range []byte(password) {
		if c < 0x20 || c > 0x7e {
			return "", errors.New("password holds a character that is not printable ascii")
		}
	}
	salt := make([]byte, 16)
	rand.Read(salt) // never fails: crypto/rand aborts the program instead
	salted, err := pbkdf2.Key(sha256.New, password, salt, scramIterations, sha256.Size)
	if err != nil {
		return "", err
	}
	stored := sha256.Sum256(mac(salted, "Client Key"))
	b64 := base64.StdEncoding.EncodeToString
	return fmt.Sprintf("SCRAM-SHA-256$%d:%s$%s:%s", scramIterations, b64(salt), b64(stored[:]), b64(mac(salted, "Server Key"))), nil
}

func mac(key []byte, text string) []byte {
	h := hmac.New(sha256.New, key)
	h.Write([]byte(text))
	return h.Sum(nil)
}

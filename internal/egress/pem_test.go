package egress

import (
	"encoding/pem"
	"net/http/httptest"
	"testing"
)

func pemOf(srv *httptest.Server) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw})
}

func FuzzTarget(f *testing.F) {
	for _, h := range hostileHosts() {
		f.Add(h + ":80")
	}
	f.Add("example.com:443")
	f.Fuzz(func(t *testing.T, s string) {
		got, err := parseTarget(s)
		if err != nil {
			return
		}
		again, err := parseTarget(got.String())
		if err != nil || again != got {
			t.Fatalf("%q reads as %v, which reads as %v (%v)", s, got, again, err)
		}
	})
}

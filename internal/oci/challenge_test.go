package oci

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestChallenges(t *testing.T) {
	t.Parallel()
	type params = map[string]string
	for header, want := range map[string][]challenge{
		``:      nil,
		` , ,`:  nil,
		`Basic`: {{"basic", params{}}},
		`Bearer realm="https://a/b",service="s",scope="x:y:pull,push"`: {{"bearer", params{"realm": "https://a/b", "service": "s", "scope": "x:y:pull,push"}}},
		`bearer Realm=a , Service = "b\"c\\"`:                          {{"bearer", params{"realm": "a", "service": `b"c\`}}},
		`Bearer realm="a", Basic realm="b"`:                            {{"bearer", params{"realm": "a"}}, {"basic", params{"realm": "b"}}},
		`Basic, Bearer realm="a"`:                                      {{"basic", params{}}, {"bearer", params{"realm": "a"}}},
		`Negotiate, NTLM`:                                              {{"negotiate", params{}}, {"ntlm", params{}}},
		`Bearer realm="",`:                                             {{"bearer", params{"realm": ""}}},
	} {
		got, err := parseChallenges([]string{header})
		require.NoError(t, err, header)
		require.Equal(t, want, got, header)
	}
	for _, header := range []string{
		`Bearer realm="a`, `Bearer realm="a\`, `Bearer realm=`, `Bearer =a`, `Bearer realm="a" service="b"`, `Bearer realm="a",realm="b"`,
		`Bearer realm="a",REALM="b"`, "Bearer realm=\"a\r\nX: y\"", "Bearer realm=\"\x00\"", `"Bearer" realm="a"`, `=`, `Bearer realm="a"x`,
		"Bearer\trealm=a", `Bearer realm="é"`, `Bearer realm=a/b`, `Bearer abc==`, `Bearer realm`, `Bearer realm="a",=`,
		strings.Repeat("x", maxChallengeBytes+1), strings.Repeat("Basic, ", maxChallenges+1),
		"Bearer " + strings.Join([]string{"a=1", "b=1", "c=1", "d=1", "e=1", "f=1", "g=1", "h=1", "i=1", "j=1", "k=1", "l=1", "m=1", "n=1", "o=1", "p=1", "q=1"}, ","),
	} {
		_, err := parseChallenges([]string{header})
		require.Error(t, err, "%.60q", header)
	}
}

func FuzzChallenge(f *testing.F) {
	for _, s := range []string{`Bearer realm="https://a/b",service="s"`, `Basic, Bearer realm=x`, `Bearer realm="a\"b", Basic`, `,,`, `a b=c,d e=f`} {
		f.Add(s, s)
	}
	f.Fuzz(func(t *testing.T, a, b string) {
		got, err := parseChallenges([]string{a, b})
		if err != nil {
			return
		}
		if len(got) > maxChallenges {
			t.Fatal("too many")
		}
		for _, c := range got {
			if c.scheme == "" || c.scheme != strings.ToLower(c.scheme) || len(c.params) > maxParams {
				t.Fatalf("%+v", c)
			}
		}
	})
}

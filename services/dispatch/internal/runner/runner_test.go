package runner

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestCleanLeavesOneSafeLine(t *testing.T) {
	for in, want := range map[string]string{
		"plain":                          "plain",
		"a\tb\nc\r\u2028d":               "a b c  d",
		"\x1b[31mred\x1b[0m\x00":         "[31mred[0m",
		"abc\u202edef\u200b\ufeff":       "abcdef",
		"bad \xff\xfe utf8":              "bad \uFFFD utf8",
		"\u0085\u009b next line and csi": " next line and csi",
	} {
		require.Equal(t, want, Clean(in, 100), "%q", in)
	}
	long := Clean(strings.Repeat("é", 100), 51)
	require.LessOrEqual(t, len(long), 51)
	require.True(t, strings.HasSuffix(long, "…"))
	require.NotContains(t, long, "\uFFFD", "a rune is not cut")
}

func TestLinesOfStepsAreParsed(t *testing.T) {
	for in, want := range map[string][2]string{
		`{"level":"WARN","msg":"hello","n":1,"who":"x"}`:                                               {"warn", "hello n=1 who=x"},
		`{"timestamp":"2001-01-01T00:00:00Z","level":"debug","step":"other","message":"pulled layer"}`: {"debug", "pulled layer"},
		`{"level":"fatal","msg":"odd level"}`:                                                          {"info", "odd level"},
		`{"level":"ERROR+2","msg":"offset"}`:                                                           {"error", "offset"},
		`{"no":"message"}`:                                                                             {"info", `{"no":"message"}`},
		`{broken`:                                                                                      {"info", `{broken`},
		`plain`:                                                                                        {"info", `plain`},
	} {
		level, message := ParseLine(in, "info")
		require.Equal(t, want, [2]string{level, message}, in)
	}
}

func TestABudgetSaysOnceThatItIsFull(t *testing.T) {
	var b Budget
	admitted, last := 0, 0
	for i := range MaxLines + 10 {
		ok, end := b.Take(fmt.Sprint(i))
		if ok {
			admitted++
		}
		if end {
			last++
		}
	}
	require.Equal(t, MaxLines-1, admitted, "one line is kept for the truncation")
	require.Equal(t, 1, last)

	b, admitted = Budget{}, 0
	line := strings.Repeat("x", MaxLineBytes)
	for range MaxLogBytes/MaxLineBytes + 10 {
		if ok, _ := b.Take(line); ok {
			admitted++
		}
	}
	require.Equal(t, MaxLogBytes/MaxLineBytes, admitted)
}

func TestASpecNeverPrintsItsSecrets(t *testing.T) {
	spec := Spec{Name: "run-1", SourceAuth: &Credential{Password: "canary"}, TargetAuth: Credential{Password: "canary"}}
	for _, format := range []string{"%v", "%+v", "%#v", "%s"} {
		require.NotContains(t, fmt.Sprintf(format, spec), "canary")
		require.NotContains(t, fmt.Sprintf(format, spec.TargetAuth), "canary")
	}
}

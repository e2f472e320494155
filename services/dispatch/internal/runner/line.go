package runner

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Bounds of the log of one run.
const (
	MaxLines     = 10_000
	MaxLogBytes  = 4 << 20
	MaxLineBytes = 4 << 10 // of one message
)

// TruncationMessage is the one line that stands for all that were dropped.
const TruncationMessage = "the log is longer than its bound; later lines were dropped"

// Budget counts the lines of one run against its bounds.
type Budget struct {
	Lines int   `json:"lines"`
	Bytes int64 `json:"bytes"`
	Full  bool  `json:"full"`
}

// Take admits a line. last is true for the first line that does not fit: the caller writes the truncation line instead.
func (b *Budget) Take(message string) (admitted, last bool) {
	if b.Full {
		return false, false
	}
	if b.Lines+1 >= MaxLines || b.Bytes+int64(len(message)) > MaxLogBytes {
		b.Full = true
		return false, true
	}
	b.Lines++
	b.Bytes += int64(len(message))
	return true, false
}

// Clean makes untrusted text safe to keep and to show as one line: valid UTF-8, no control, format or line-separating characters, at
// most limit bytes.
func Clean(text string, limit int) string {
	text = strings.ToValidUTF8(text, "\uFFFD")
	text = strings.Map(func(r rune) rune {
		switch {
		case r == '\t' || r == '\n' || r == '\r' || r == '\u2028' || r == '\u2029':
			return ' '
		case unicode.IsControl(r) || unicode.Is(unicode.Cf, r): // Cf: bidirectional overrides and other invisible ones
			return -1
		}
		return r
	}, text)
	if len(text) <= limit {
		return text
	}
	cut := max(limit-len("…"), 0)
	for cut > 0 && !utf8.RuneStart(text[cut]) {
		cut--
	}
	return text[:cut] + "…"
}

// ParseLine reads what a step printed: a JSON log line, or any text. fallback is the level of text. Its own time and step
// are not used: a step does not tell us who it is, or when it said something.
func ParseLine(raw, fallback string) (level, message string) {
	var fields map[string]any
	if !strings.HasPrefix(raw, "{") || json.Unmarshal([]byte(raw), &fields) != nil {
		return fallback, Clean(raw, MaxLineBytes)
	}
	text, ok := fields["msg"].(string) // slog
	if !ok {
		text, ok = fields["message"].(string) // pratique-step
	}
	if !ok {
		return fallback, Clean(raw, MaxLineBytes)
	}
	return levelOf(fields["level"], fallback), Clean(text+attributes(fields), MaxLineBytes)
}

func levelOf(value any, fallback string) string {
	text, _ := value.(string)
	text, _, _ = strings.Cut(strings.ToLower(text), "+")
	switch text {
	case "debug", "info", "warn", "error":
		return text
	}
	return fallback
}

// attributes renders the other fields in a fixed order.
func attributes(fields map[string]any) string {
	var keys []string
	for key := range fields {
		if !slices.Contains([]string{"msg", "message", "level", "time", "timestamp", "step"}, key) {
			keys = append(keys, key)
		}
	}
	slices.Sort(keys)
	var out strings.Builder
	for _, key := range keys {
		value := fields[key]
		if text, ok := value.(string); ok {
			fmt.Fprintf(&out, " %s=%s", key, text)
			continue
		}
		encoded, err := json.Marshal(value)
		if err != nil {
			continue
		}
		fmt.Fprintf(&out, " %s=%s", key, encoded)
	}
	return out.String()
}

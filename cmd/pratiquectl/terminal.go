package main

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Names, messages and log lines come from images, registries and other people. A terminal obeys control characters and reorders text at bidi
// marks, so they are shown as what they are. An escaping package for every kind of output comes with a later issue and replaces this file.

// unsafe says that a terminal would act on a character instead of showing it: controls (C0, DEL, C1), format characters (bidi, zero width,
// tags), line and paragraph separators, private use and surrogates.
func unsafe(r rune) bool {
	return unicode.In(r, unicode.Cc, unicode.Cf, unicode.Co, unicode.Cs, unicode.Zl, unicode.Zp)
}

// escape makes text safe to print in one line.
func escape(text string) string {
	if utf8.ValidString(text) && !strings.ContainsFunc(text, unsafe) {
		return text
	}
	var out strings.Builder
	for i, width := 0, 0; i < len(text); i += width {
		var r rune
		r, width = utf8.DecodeRuneInString(text[i:])
		switch {
		case r == utf8.RuneError && width == 1:
			fmt.Fprintf(&out, `\x%02x`, text[i])
		case r == '\n':
			out.WriteString(`\n`)
		case r == '\t':
			out.WriteString(`\t`)
		case unsafe(r):
			out.WriteString(codePoint(r))
		default:
			out.WriteRune(r)
		}
	}
	return out.String()
}

// escapeQuoted escapes what is unsafe inside JSON or double-quoted YAML, where controls are escaped already and line breaks are layout. The
// result means the same to a parser.
func escapeQuoted(text string, point func(rune) string) string {
	if !strings.ContainsFunc(text, unsafe) {
		return text
	}
	var out strings.Builder
	for _, r := range text {
		if r != '\n' && unsafe(r) {
			out.WriteString(point(r))
		} else {
			out.WriteRune(r)
		}
	}
	return out.String()
}

func codePoint(r rune) string {
	if r > 0xffff {
		return fmt.Sprintf(`\U%08x`, r)
	}
	return fmt.Sprintf(`\u%04x`, r)
}

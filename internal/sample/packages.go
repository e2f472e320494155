package sample

import "time"

// Where a package comes from.
const (
	Deb    = "deb"
	Apk    = "apk"
	NPM    = "npm"
	Python = "python"
	Go     = "go"
)

// Vulnerability is a published flaw of a package version.
type Vulnerability struct {
	CVE      string
	GHSA     string // empty for distribution packages
	Severity string // critical, high, medium, low
	CVSS     float64
	FixedIn  string    // empty: no fix is offered
	Listed   time.Time // date in CISA's list of exploited vulnerabilities; zero: not in it
}

// Package is one installed package of a sample image.
type Package struct {
	Image           string // Image.Name
	Architecture    string // empty: on every platform of the image
	Ecosystem       string
	Distribution    string // "debian:12", "alpine:3.18"; empty for languages
	Name            string
	Source          string // source package; distribution scanners match on it
	Version         string
	Vulnerabilities []Vulnerability
}

func day(y int, m time.Month, d int) time.Time { return time.Date(y, m, d, 0, 0, 0, 0, time.UTC) }

var (
	webp    = Vulnerability{CVE: "CVE-2023-4863", Severity: "high", CVSS: 8.8, FixedIn: "1.2.4-0.2+deb12u1", Listed: day(2023, 9, 13)}
	looney  = Vulnerability{CVE: "CVE-2023-4911", Severity: "high", CVSS: 7.8, FixedIn: "2.36-9+deb12u3", Listed: day(2023, 11, 21)}
	keyIV   = Vulnerability{CVE: "CVE-2023-5363", Severity: "high", CVSS: 7.5}
	socks5  = Vulnerability{CVE: "CVE-2023-38545", Severity: "critical", CVSS: 9.8}
	minizip = Vulnerability{CVE: "CVE-2023-45853", Severity: "critical", CVSS: 9.8}
	ash     = Vulnerability{CVE: "CVE-2022-48174", Severity: "critical", CVSS: 9.8, FixedIn: "1.36.1-r1"}
	rapid   = Vulnerability{CVE: "CVE-2023-39325", GHSA: "GHSA-4374-p667-p6c8", Severity: "high", CVSS: 7.5, FixedIn: "0.17.0"}
	reset   = Vulnerability{CVE: "CVE-2023-44487", GHSA: "GHSA-qppj-fm5r-hxr3", Severity: "medium", CVSS: 5.3, FixedIn: "0.17.0", Listed: day(2023, 10, 10)}
	tags    = Vulnerability{CVE: "CVE-2022-32149", GHSA: "GHSA-69ch-w2m2-3vjp", Severity: "high", CVSS: 7.5, FixedIn: "0.3.8"}
	lodash  = Vulnerability{CVE: "CVE-2021-23337", GHSA: "GHSA-35jh-r3h4-6jhm", Severity: "high", CVSS: 7.2, FixedIn: "4.17.21"}
	minimal = Vulnerability{CVE: "CVE-2021-44906", GHSA: "GHSA-xvch-5gv4-984h", Severity: "critical", CVSS: 9.8, FixedIn: "1.2.6"}
	proxied = Vulnerability{CVE: "CVE-2023-32681", GHSA: "GHSA-j8r2-6x86-q33q", Severity: "medium", CVSS: 6.1, FixedIn: "2.31.0"}
	attrs   = Vulnerability{CVE: "CVE-2024-22195", GHSA: "GHSA-h5c8-rqwp-cp95", Severity: "medium", CVSS: 5.4, FixedIn: "3.1.3"}
)

func (v Vulnerability) fixedIn(version string) Vulnerability { v.FixedIn = version; return v }

const (
	cleanName      = "demo/clean"
	vulnerableName = "demo/vulnerable"
)

// Packages lists what the clean and the vulnerable image contain. What is
// listed without vulnerabilities must stay without in the demo's database.
func Packages() []Package {
	deb := func(image, arch, name, source, version string, found ...Vulnerability) Package {
		return Package{image, arch, Deb, "debian:12", name, source, version, found}
	}
	apk := func(name, source, version string, found ...Vulnerability) Package {
		return Package{vulnerableName, "arm64", Apk, "alpine:3.18", name, source, version, found}
	}
	language := func(ecosystem, name, version string, found ...Vulnerability) Package {
		return Package{vulnerableName, "amd64", ecosystem, "", name, "", version, found}
	}
	return []Package{
		deb(cleanName, "", "base-files", "base-files", "12.4+deb12u12"),
		deb(cleanName, "", "netbase", "netbase", "6.4"),
		deb(cleanName, "", "tzdata", "tzdata", "2025b-0+deb12u2"),
		deb(cleanName, "", "libc6", "glibc", "2.36-9+deb12u13"),
		deb(cleanName, "", "libssl3", "openssl", "3.0.17-1~deb12u3"),

		deb(vulnerableName, "amd64", "base-files", "base-files", "12.4"),
		deb(vulnerableName, "amd64", "libc6", "glibc", "2.36-9", looney),
		deb(vulnerableName, "amd64", "libcurl4", "curl", "7.88.1-10", socks5.fixedIn("7.88.1-10+deb12u4")),
		deb(vulnerableName, "amd64", "libssl3", "openssl", "3.0.9-1", keyIV.fixedIn("3.0.11-1~deb12u2")),
		deb(vulnerableName, "amd64", "libwebp7", "libwebp", "1.2.4-0.2", webp),
		deb(vulnerableName, "amd64", "tzdata", "tzdata", "2024a-0+deb12u1"),
		deb(vulnerableName, "amd64", "zlib1g", "zlib", "1:1.2.13.dfsg-1", minizip),
		language(NPM, "lodash", "4.17.20", lodash),
		language(NPM, "minimist", "1.2.5", minimal),
		language(Python, "requests", "2.30.0", proxied),
		language(Python, "Jinja2", "3.1.2", attrs),
		language(Go, "golang.org/x/net", "v0.7.0", rapid, reset),
		language(Go, "golang.org/x/text", "v0.3.7", tags),

		apk("busybox", "busybox", "1.36.1-r0", ash),
		apk("libcrypto3", "openssl", "3.1.1-r1", keyIV.fixedIn("3.1.4-r0")),
		apk("libcurl", "curl", "8.1.2-r0", socks5.fixedIn("8.4.0-r0")),
		apk("libssl3", "openssl", "3.1.1-r1", keyIV.fixedIn("3.1.4-r0")),
		apk("musl", "musl", "1.2.4-r0"),
	}
}

// installed gives the packages of one platform of an image.
func installed(image, arch, ecosystem string) []Package {
	var out []Package
	for _, p := range Packages() {
		if p.Image == image && p.Ecosystem == ecosystem && (p.Architecture == "" || p.Architecture == arch) {
			out = append(out, p)
		}
	}
	return out
}

package sample

import (
	"encoding/json"
	"fmt"
	"strings"
)

const debianRelease = `PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"
NAME="Debian GNU/Linux"
VERSION_ID="12"
VERSION="12 (bookworm)"
VERSION_CODENAME=bookworm
ID=debian
HOME_URL="https://www.debian.org/"
SUPPORT_URL="https://www.debian.org/support"
BUG_REPORT_URL="https://bugs.debian.org/"
`

const alpineRelease = `NAME="Alpine Linux"
ID=alpine
VERSION_ID=3.18.0
PRETTY_NAME="Alpine Linux v3.18"
HOME_URL="https://alpinelinux.org/"
BUG_REPORT_URL="https://gitlab.alpinelinux.org/alpine/aports/-/issues"
`

// system is what every root file system has beside its packages.
func system(release string) []file {
	return []file{
		text("etc/group", "root:x:0:\nnonroot:x:65532:\n"),
		text("etc/passwd", "root:x:0:0:root:/root:/sbin/nologin\nnonroot:x:65532:65532:nonroot:/home/nonroot:/sbin/nologin\n"),
		symlink("etc/os-release", "../usr/lib/os-release"),
		text("usr/lib/os-release", release),
		{name: "home/nonroot/"},
		{name: "tmp/"},
	}
}

// dpkgRecord is one paragraph as dpkg writes it.
func dpkgRecord(p Package, arch string) string {
	source := ""
	if p.Source != p.Name {
		source = "Source: " + p.Source + "\n"
	}
	return fmt.Sprintf("Package: %s\nStatus: install ok installed\nPriority: optional\nSection: libs\nInstalled-Size: 100\n"+
		"Maintainer: Debian Maintainers <maintainers@example.org>\nArchitecture: %s\n%sVersion: %s\nDescription: %s (sample)\n",
		p.Name, arch, source, p.Version, p.Name)
}

// statusDir records packages as distroless images do: a file for each.
func statusDir(image, arch string) []file {
	var out []file
	for _, p := range installed(image, arch, Deb) {
		out = append(out, text("var/lib/dpkg/status.d/"+p.Name, dpkgRecord(p, arch)))
	}
	return out
}

// statusFile records packages as Debian does: one file, and file lists.
func statusFile(image, arch string) []file {
	var all []string
	var lists []file
	for _, p := range installed(image, arch, Deb) {
		all = append(all, dpkgRecord(p, arch))
		doc := "usr/share/doc/" + p.Name + "/copyright"
		lists = append(lists,
			text("var/lib/dpkg/info/"+p.Name+".list", "/.\n/usr\n/usr/share\n/usr/share/doc\n/usr/share/doc/"+p.Name+"\n/"+doc+"\n"),
			text(doc, "Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\n\nFiles: *\nLicense: sample\n"))
	}
	return append(lists, text("var/lib/dpkg/status", strings.Join(all, "\n")))
}

// apkInstalled records packages as apk does.
func apkInstalled(image, arch string) []file {
	var out strings.Builder
	for _, p := range installed(image, arch, Apk) {
		fmt.Fprintf(&out, "C:Q1AAAAAAAAAAAAAAAAAAAAAAAAAAA=\nP:%s\nV:%s\nA:aarch64\nS:1000\nI:2000\nT:%s (sample)\n"+
			"U:https://example.org/%s\nL:sample\no:%s\nm:Alpine Maintainers <maintainers@example.org>\nt:1705320000\n\n",
			p.Name, p.Version, p.Name, p.Name, p.Source)
	}
	return []file{
		text("etc/alpine-release", "3.18.0\n"),
		text("etc/apk/arch", "aarch64\n"),
		text("lib/apk/db/installed", out.String()),
	}
}

// languages installs the npm, Python and Go packages of a platform.
func languages(image, arch string) []file {
	var out []file
	for _, p := range installed(image, arch, NPM) {
		manifest, err := json.MarshalIndent(map[string]any{
			"name": p.Name, "version": p.Version, "description": p.Name + " (sample)", "license": "MIT", "main": "index.js",
		}, "", "  ")
		must(err)
		dir := "srv/app/node_modules/" + p.Name + "/"
		out = append(out, text(dir+"package.json", string(manifest)+"\n"), text(dir+"index.js", "module.exports = {};\n"))
	}
	for _, p := range installed(image, arch, Python) {
		dir := "usr/local/lib/python3.11/site-packages/" + p.Name + "-" + p.Version + ".dist-info/"
		module := strings.ToLower(p.Name)
		out = append(out,
			text(dir+"METADATA", fmt.Sprintf("Metadata-Version: 2.1\nName: %s\nVersion: %s\nSummary: %s (sample)\nLicense: BSD\n", p.Name, p.Version, p.Name)),
			text(dir+"INSTALLER", "pip\n"),
			text(dir+"RECORD", fmt.Sprintf("%s-%s.dist-info/METADATA,,\n%s/__init__.py,,\n", p.Name, p.Version, module)),
			text(dir+"top_level.txt", module+"\n"),
			text("usr/local/lib/python3.11/site-packages/"+module+"/__init__.py", fmt.Sprintf("__version__ = %q\n", p.Version)))
	}
	if modules := installed(image, arch, Go); len(modules) > 0 {
		out = append(out, program("usr/local/bin/demo", goProgram(modules)))
	}
	return out
}

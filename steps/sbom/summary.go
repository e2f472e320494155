package sbom

import (
	"fmt"
	"slices"
	"sort"

	"github.com/anchore/syft/syft/pkg"
	syftsbom "github.com/anchore/syft/syft/sbom"

	"github.com/pratique-io/pratique/internal/document"
)

// summarise turns syft's result into the stable document and judges whether it can be the whole truth.
func summarise(s *syftsbom.SBOM, seen sighting) document.SBOMDocument {
	doc := document.SBOMDocument{Packages: []document.Package{}, Files: seen.files}
	if d := s.Artifacts.LinuxDistribution; d != nil {
		doc.Distro = document.Distro{ID: d.ID, Version: d.VersionID, Name: d.PrettyName}
	}
	types := map[string]bool{}
	for p := range s.Artifacts.Packages.Enumerate() {
		doc.Packages = append(doc.Packages, describe(p))
		types[string(p.Type)] = true
	}
	slices.SortFunc(doc.Packages, func(a, b document.Package) int {
		for _, pair := range [][2]string{{a.Type, b.Type}, {a.Name, b.Name}, {a.Version, b.Version}, {fmt.Sprint(a.Locations), fmt.Sprint(b.Locations)}} {
			if pair[0] != pair[1] {
				if pair[0] < pair[1] {
					return -1
				}
				return 1
			}
		}
		return 0
	})
	doc.PackageCount = len(doc.Packages)
	if doc.PackageCount == 0 && seen.files > 0 {
		doc.Reasons = append(doc.Reasons, fmt.Sprintf("no package was found among %d files", seen.files))
	}
	missing := map[string]string{}
	for name, kind := range seen.databases {
		if first, ok := missing[kind]; !types[kind] && (!ok || name < first) {
			missing[kind] = name
		}
	}
	for kind, name := range missing {
		doc.Reasons = append(doc.Reasons, fmt.Sprintf("%q is there, but no %s package was found", name, kind))
	}
	sort.Strings(doc.Reasons)
	doc.Incomplete = len(doc.Reasons) > 0
	return doc
}

func describe(p pkg.Package) document.Package {
	out := document.Package{Name: p.Name, Version: p.Version, Type: string(p.Type), PURL: p.PURL, Upstreams: upstreams(p)}
	for _, l := range p.Licenses.ToSlice() {
		if v := l.SPDXExpression; v != "" {
			out.Licenses = append(out.Licenses, v)
		} else if l.Value != "" {
			out.Licenses = append(out.Licenses, l.Value)
		}
	}
	for _, l := range p.Locations.ToSlice() {
		if len(out.Locations) == document.MaxLocations {
			break
		}
		out.Locations = append(out.Locations, l.RealPath)
	}
	return out
}

// upstreams names the source packages, which is what distributions publish advisories about.
func upstreams(p pkg.Package) []string {
	name, version := "", ""
	switch m := p.Metadata.(type) {
	case pkg.DpkgDBEntry:
		name, version = m.Source, m.SourceVersion
	case pkg.ApkDBEntry:
		name = m.OriginPackage
	case pkg.RpmDBEntry:
		name = m.SourceRpm
	}
	if name == "" || name == p.Name && version == "" {
		return nil
	}
	if version != "" {
		name += "@" + version
	}
	return []string{name}
}

package demodb

import (
	"archive/tar"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"time"

	v6 "github.com/anchore/grype/grype/db/v6"
	"github.com/anchore/grype/grype/db/v6/distribution"
	"github.com/spf13/afero"
)

// compiled stands as the capture date of the data: about how far the knowledge in the list reaches.
var compiled = time.Date(2025, 1, 1, 0, 0, 0, 0, time.UTC)

// Build writes the demonstration database under dir:
//
//	dir/6/vulnerability.db, import.json   what `vulnerabilities --database dir` opens
//	dir/v6/latest.json, *.tar.gz          a mirror: serve dir with any file server and give its URL to --database-url
//
// An existing database there is replaced; readers that have it open keep the old file. It returns the number of advisories.
func Build(dir string, advisories []Advisory) (int, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return 0, fmt.Errorf("demonstration database: %w", err)
	}
	work, err := os.MkdirTemp(dir, ".build-")
	if err != nil {
		return 0, fmt.Errorf("demonstration database: %w", err)
	}
	defer os.RemoveAll(work)
	db, mirror := filepath.Join(work, "6"), filepath.Join(work, "v6")
	if err := errors.Join(os.Mkdir(db, 0o755), os.Mkdir(mirror, 0o755)); err != nil {
		return 0, fmt.Errorf("demonstration database: %w", err)
	}
	if err := write(db, advisories); err != nil {
		return 0, fmt.Errorf("demonstration database: %w", err)
	}
	if err := publish(db, mirror); err != nil {
		return 0, fmt.Errorf("demonstration database: mirror: %w", err)
	}
	// The writer drops indexes to keep the archive small; a database that is opened directly wants them back.
	if err := v6.Hydrater()(db); err != nil {
		return 0, fmt.Errorf("demonstration database: %w", err)
	}
	if _, err := v6.WriteImportMetadata(afero.NewOsFs(), db, "pratique-step demo-database"); err != nil {
		return 0, fmt.Errorf("demonstration database: %w", err)
	}
	for _, name := range []string{"6", "v6"} {
		if err := replace(filepath.Join(work, name), filepath.Join(dir, name)); err != nil {
			return 0, fmt.Errorf("demonstration database: %w", err)
		}
	}
	return len(advisories), nil
}

func replace(from, to string) error {
	if err := os.RemoveAll(to); err != nil {
		return err
	}
	return os.Rename(from, to)
}

func write(dir string, advisories []Advisory) (err error) {
	w, err := v6.NewWriter(v6.Config{DBDirPath: dir})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.Close()) }()
	providers := map[string]*v6.Provider{}
	for _, id := range []string{Marker, "debian", "alpine", "github"} {
		p := v6.Provider{ID: id, Version: "1", Processor: Note(len(advisories)), DateCaptured: &compiled}
		if err := w.AddProvider(p); err != nil {
			return err
		}
		providers[id] = &p
	}
	for _, a := range advisories {
		if err := add(w, providers, a); err != nil {
			return fmt.Errorf("%s: %w", a.ID, err)
		}
	}
	return nil
}

// add writes one advisory: a record for each identifier it is published under, its packages, and what decorates the CVE.
func add(w v6.ReadWriter, providers map[string]*v6.Provider, a Advisory) error {
	handles := map[string]*v6.VulnerabilityHandle{}
	for _, f := range a.Affects {
		p, err := f.place()
		if err != nil {
			return err
		}
		key := p.provider + " " + a.advisoryID(f)
		if handles[key] == nil {
			handles[key] = a.handle(f, providers[p.provider])
			if err := w.AddVulnerabilities(handles[key]); err != nil {
				return err
			}
		}
		if err := w.AddAffectedPackages(a.affected(f, p, handles[key])); err != nil {
			return err
		}
	}
	return decorate(w, a)
}

func (a Advisory) handle(f Affects, provider *v6.Provider) *v6.VulnerabilityHandle {
	id := a.advisoryID(f)
	blob := &v6.VulnerabilityBlob{
		ID: id,
		Severities: []v6.Severity{
			{Scheme: v6.SeveritySchemeCHML, Value: a.Severity, Rank: 1},
			{Scheme: v6.SeveritySchemeCVSS, Value: v6.CVSSSeverity{Vector: a.CVSS, Version: a.CVSS[5:8]}, Rank: 2},
		},
		References: []v6.Reference{{URL: reference(id, provider.ID)}},
	}
	if id != a.ID {
		blob.Aliases = []string{a.ID}
	}
	h := &v6.VulnerabilityHandle{Name: id, Status: v6.VulnerabilityActive, ProviderID: provider.ID, Provider: provider, BlobValue: blob}
	if day, err := time.Parse(time.DateOnly, a.Published); err == nil {
		h.PublishedDate = &day
	}
	return h
}

func reference(id, provider string) string {
	switch provider {
	case "github":
		return "https://github.com/advisories/" + id
	case "debian":
		return "https://security-tracker.debian.org/tracker/" + id
	}
	return "https://nvd.nist.gov/vuln/detail/" + id
}

func (a Advisory) affected(f Affects, p place, h *v6.VulnerabilityHandle) *v6.AffectedPackageHandle {
	fix := &v6.Fix{Version: f.Fix, State: v6.FixedStatus}
	if f.Fix == "" {
		fix.State = v6.FixStatus(f.State)
	}
	out := &v6.AffectedPackageHandle{
		Vulnerability: h,
		Package:       &v6.Package{Ecosystem: p.ecosystem, Name: f.Package},
		BlobValue: &v6.PackageBlob{
			CVEs:   []string{a.ID},
			Ranges: []v6.Range{{Version: v6.Version{Type: p.format, Constraint: f.Range}, Fix: fix}},
		},
	}
	if p.os != "" {
		out.OperatingSystem = &v6.OperatingSystem{
			Name: p.os, ReleaseID: p.os, MajorVersion: p.major, MinorVersion: p.minor, Codename: p.codename,
		}
	}
	return out
}

func decorate(w v6.ReadWriter, a Advisory) error {
	if a.KEV != "" {
		day, err := time.Parse(time.DateOnly, a.KEV)
		if err != nil {
			return err
		}
		kev := &v6.KnownExploitedVulnerabilityHandle{Cve: a.ID, BlobValue: &v6.KnownExploitedVulnerabilityBlob{Cve: a.ID, DateAdded: &day}}
		if err := w.AddKnownExploitedVulnerabilities(kev); err != nil {
			return err
		}
	}
	if a.EPSS > 0 {
		return w.AddEpss(&v6.EpssHandle{Cve: a.ID, Epss: a.EPSS, Date: compiled})
	}
	return nil
}

// publish writes the archive and listing a grype client expects of a mirror.
func publish(db, mirror string) error {
	desc, err := v6.ReadDescription(filepath.Join(db, v6.VulnerabilityDBFileName))
	if err != nil {
		return err
	}
	name := filepath.Join(mirror, "vulnerability-db_"+desc.SchemaVersion.String()+"_"+strconv.FormatInt(desc.Built.Unix(), 10)+".tar.gz")
	if err := pack(name, filepath.Join(db, v6.VulnerabilityDBFileName)); err != nil {
		return err
	}
	archive, err := distribution.NewArchive(name, desc.Built.Time, v6.ModelVersion, v6.Revision, v6.Addition)
	if err != nil {
		return err
	}
	f, err := os.Create(filepath.Join(mirror, distribution.LatestFileName))
	if err != nil {
		return err
	}
	return errors.Join(distribution.NewLatestDocument(*archive).Write(f), f.Close())
}

func pack(to, file string) (err error) {
	in, err := os.Open(file)
	if err != nil {
		return err
	}
	defer in.Close()
	info, err := in.Stat()
	if err != nil {
		return err
	}
	out, err := os.Create(to)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	z := gzip.NewWriter(out)
	t := tar.NewWriter(z)
	if err := t.WriteHeader(&tar.Header{Name: filepath.Base(file), Mode: 0o644, Size: info.Size(), ModTime: info.ModTime()}); err != nil {
		return err
	}
	if _, err := io.Copy(t, in); err != nil {
		return err
	}
	return errors.Join(t.Close(), z.Close())
}

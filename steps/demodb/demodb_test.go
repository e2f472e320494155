package demodb_test

import (
	"testing"

	v6 "github.com/anchore/grype/grype/db/v6"
	"github.com/stretchr/testify/require"

	"github.com/pratique-io/pratique/steps/demodb"
)

func TestTheListBecomesADatabaseThatSaysWhatItIs(t *testing.T) {
	t.Parallel()
	advisories, err := demodb.Advisories()
	require.NoError(t, err)
	require.GreaterOrEqual(t, len(advisories), 40)
	dir := t.TempDir()
	for range 2 { // the second time replaces the first
		n, err := demodb.Build(dir, advisories)
		require.NoError(t, err)
		require.Equal(t, len(advisories), n)
	}
	r, err := v6.NewReader(v6.Config{DBDirPath: dir + "/6"})
	require.NoError(t, err)
	t.Cleanup(func() { _ = r.Close() })
	p, err := r.GetProvider(demodb.Marker)
	require.NoError(t, err)
	require.Equal(t, demodb.Note(len(advisories)), p.Processor)
	kev, err := r.GetKnownExploitedVulnerabilities("CVE-2023-4863")
	require.NoError(t, err)
	require.Len(t, kev, 1)
	require.FileExists(t, dir+"/v6/latest.json")
}

func TestABadListIsRefusedByEntry(t *testing.T) {
	t.Parallel()
	ok := `{id: CVE-2020-0001, severity: low, cvss: "CVSS:3.1/AV:N", affects: [{where: npm, package: a, fix: "1"}]}`
	for name, raw := range map[string]string{
		"unknown field":    `[{id: CVE-2020-0001, sverity: low}]`,
		"twice":            "[" + ok + "," + ok + "]",
		"identifier":       `[{id: CVE-x, severity: low, cvss: "CVSS:3.1/AV:N", affects: [{where: npm, package: a, fix: "1"}]}]`,
		"ecosystem":        `[{id: CVE-2020-0001, severity: low, cvss: "CVSS:3.1/AV:N", affects: [{where: deb:99, package: a, fix: "1"}]}]`,
		"no fix, no state": `[{id: CVE-2020-0001, severity: low, cvss: "CVSS:3.1/AV:N", affects: [{where: npm, package: a}]}]`,
		"date":             `[{id: CVE-2020-0001, severity: low, cvss: "CVSS:3.1/AV:N", kev: soon, affects: [{where: npm, package: a, fix: "1"}]}]`,
	} {
		_, err := demodb.Parse([]byte(raw))
		require.Error(t, err, name)
	}
	_, err := demodb.Parse([]byte("[" + ok + "]"))
	require.NoError(t, err)
}

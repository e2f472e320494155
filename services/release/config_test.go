package release_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pratique-io/pratique/internal/bus"
	"github.com/pratique-io/pratique/internal/config"
	"github.com/pratique-io/pratique/internal/pg"
	"github.com/pratique-io/pratique/services/release"
)

func TestEveryProblemOfAConfigurationIsToldAtOnce(t *testing.T) {
	t.Parallel()
	problems := config.NewProblems()
	cfg := release.Default()
	cfg.Quarantine.Host, cfg.Trusted.Host = "q.local:5000", "t.local:5000"
	cfg.Validate(problems)
	require.NoError(t, problems.Err())

	problems = config.NewProblems()
	release.Config{Quarantine: release.Registry{Host: "x", Username: "u"}, Trusted: release.Registry{Host: "T.local"}}.Validate(problems)
	err := problems.Err()
	for _, path := range []string{"quarantine.host", "quarantine.password", "trusted.host", "promotion.parallel", "promotion.attempts",
		"promotion.backoff", "promotion.lease"} {
		require.True(t, strings.Contains(err.Error(), path+":"), "%s in %s", path, err)
	}
	problems = config.NewProblems()
	cfg.Trusted.Host = cfg.Quarantine.Host
	cfg.Validate(problems)
	require.ErrorContains(t, problems.Err(), "another registry")
}

func TestTheServiceFitsTheBusAndItsSchema(t *testing.T) {
	t.Parallel()
	r := open(t)
	_, err := bus.NewTopology(1, map[string][]bus.Subscription{"release": r.svc.Subscriptions()})
	require.NoError(t, err)
	require.NoError(t, pg.CheckSchema(t.Context(), r.db, release.Migrations()...))
	require.Len(t, r.svc.Loops(), 2)
	_, err = release.New(r.cfg, release.Deps{})
	require.ErrorContains(t, err, "needs a database")
}

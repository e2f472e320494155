package loop_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/pratique-io/pratique/services/dispatch/internal/domain"
	"github.com/pratique-io/pratique/services/dispatch/internal/runner"
	"github.com/pratique-io/pratique/services/dispatch/internal/store"
)

func TestAnApprovedRequestRunsToItsEnd(t *testing.T) {
	b := setup(t)
	id, tenant, run := b.started()
	require.Equal(t, "registry.test/app@"+digest, run.spec.Source, "by digest; the tag is not read again")
	require.Equal(t, fmt.Sprintf("quarantine.test:5000/q/%s/%s", tenant, id), run.spec.Target)
	require.Contains(t, run.spec.TargetAuth.Username, fmt.Sprintf("q/%s/%s ", tenant, id), "the credential is for this repository alone")
	require.Contains(t, run.spec.TargetAuth.Username, b.clock.now().Add(time.Hour+10*time.Minute).Format(time.RFC3339))
	require.Nil(t, run.spec.SourceAuth)

	run.set(func(s *runner.Status) { s.Steps[0].State, s.Steps[0].StartedAt = domain.StepRunning, b.clock.now() })
	run.lines = []runner.Line{{Number: 1, Level: "info", Step: "pull", Message: "one"}, {Number: 2, Level: "warn", Step: "pull", Message: "two"}}
	require.True(t, b.supervise())
	require.False(t, b.supervise(), "nothing new is no work")
	run.set(succeed)
	require.True(t, b.supervise())

	require.Equal(t, domain.Succeeded, b.record(id).State)
	require.Equal(t, []string{"RunQueued", "RunStarted", "RunStepChanged", "RunSucceeded"}, b.events(id))
	b.audited(id)
	done := b.run(id)
	require.Equal(t, domain.RunSucceeded, done.State)
	require.Equal(t, digest, done.Results.Image)
	require.Equal(t, 1, done.Steps[0].Attempts)
	require.Nil(t, b.runner.get(done.Name), "the runner forgot it")
	require.False(t, b.supervise())
	require.Equal(t, []string{"one", "two"}, b.messages(id))
}

func (b *bundle) messages(id uuid.UUID) []string {
	b.t.Helper()
	var out []string
	b.work(func(tx pgx.Tx) error {
		lines, err := store.LinesAfter(b.t.Context(), tx, id, 0, 20_000)
		for i, line := range lines {
			require.Equal(b.t, int64(i+1), line.Sequence)
			out = append(out, line.Message)
		}
		return err
	})
	return out
}

func TestApprovalsAndWithdrawalsComeTwiceLateAndInAnyOrder(t *testing.T) {
	b := setup(t)
	tenant := uuid.New()

	id := b.approve(tenant)
	require.False(t, b.queue(id, tenant), "twice is once")
	require.True(t, b.withdraw(id, tenant))
	require.False(t, b.withdraw(id, tenant))
	require.Equal(t, domain.Cancelled, b.record(id).State)
	require.Equal(t, []string{"RunQueued", "RunCancelled"}, b.events(id))
	b.audited(id)

	early := uuid.Must(uuid.NewV7())
	require.True(t, b.withdraw(early, tenant))
	require.False(t, b.queue(early, tenant), "an approval that comes late starts nothing")
	require.True(t, b.record(early).Tombstone)
	require.Empty(t, b.events(early))

	require.False(t, b.schedule())
	require.Empty(t, b.runner.started)
	require.Zero(t, b.intake.asked)
}

func TestAWithdrawnRunIsCancelledHoweverItEnds(t *testing.T) {
	t.Run("while it runs", func(t *testing.T) {
		b := setup(t)
		id, tenant, run := b.started()
		require.True(t, b.withdraw(id, tenant))
		require.Equal(t, domain.Running, b.record(id).State, "until its processes are gone")
		b.supervise()
		require.True(t, run.asked)
		require.True(t, b.supervise())
		require.Equal(t, domain.Cancelled, b.record(id).State)
		require.Equal(t, []string{"RunQueued", "RunStarted", "RunCancelled"}, b.events(id))
		b.audited(id)
	})
	for name, end := range map[string]func(*runner.Status){
		"when it has just succeeded": succeed,
		"when it has just failed": func(s *runner.Status) {
			s.State, s.Failure = runner.Failed, domain.Fails(domain.CodeScanner, "broken")
		},
		"when it was lost": func(s *runner.Status) { s.State = runner.Lost },
	} {
		t.Run(name, func(t *testing.T) {
			b := setup(t)
			id, tenant, run := b.started()
			run.set(end)
			require.True(t, b.withdraw(id, tenant))
			require.True(t, b.supervise())
			require.Equal(t, domain.Cancelled, b.record(id).State)
			require.False(t, b.schedule(), "no second run")
		})
	}
	t.Run("while the permit is being asked for", func(t *testing.T) {
		b := setup(t)
		tenant := uuid.New()
		id := b.approve(tenant)
		b.intake.during = func() { b.withdraw(id, tenant) }
		b.schedule()
		require.Equal(t, domain.Cancelled, b.record(id).State)
		require.Empty(t, b.runner.started)
	})
}

func TestNothingStartsWithoutAPermit(t *testing.T) {
	t.Run("an intake that cannot answer means waiting", func(t *testing.T) {
		b := setup(t)
		id := b.approve(uuid.New())
		b.intake.err = errors.New("intake is down")
		require.False(t, b.schedule())
		require.Equal(t, domain.Queued, b.record(id).State)
		require.Equal(t, []string{"RunQueued"}, b.events(id))
		require.False(t, b.schedule())
		require.Equal(t, 1, b.intake.asked, "not asked again at once")
		b.intake.err = nil
		b.clock.step(3 * time.Second)
		require.True(t, b.schedule())
		require.Equal(t, domain.Running, b.record(id).State)
	})
	t.Run("a refusal ends the record", func(t *testing.T) {
		b := setup(t)
		id := b.approve(uuid.New())
		b.intake.allowed = false
		require.True(t, b.schedule())
		require.Equal(t, domain.Cancelled, b.record(id).State)
		require.Equal(t, domain.RunCancelled, b.run(id).State)
		require.Empty(t, b.runner.started)
		b.audited(id)
	})
	t.Run("a permit for another digest is none", func(t *testing.T) {
		b := setup(t)
		id := b.approve(uuid.New())
		b.intake.digest = other
		require.True(t, b.schedule())
		require.Equal(t, domain.CodeDispatch, b.record(id).Failure.Code)
		require.Empty(t, b.runner.started)
	})
}

func TestASourceCredentialThatNobodyHandsOutIsAnAuthError(t *testing.T) {
	b := setup(t)
	id := b.approve(uuid.New())
	_, err := b.admin.Exec(t.Context(), `update dispatch_record set registry_auth = 'some-id'`)
	require.NoError(t, err)
	require.True(t, b.schedule())
	require.Equal(t, domain.Fails(domain.CodeAuth, "the source credential cannot be used"), b.record(id).Failure)
	require.Equal(t, []string{"RunQueued", "RunFailed"}, b.events(id))
}

func TestWaitingForAProviderIsToldOncePerPeriod(t *testing.T) {
	b := setup(t)
	b.runner.broken = true
	id := b.approve(uuid.New())
	require.True(t, b.schedule())
	require.False(t, b.schedule())
	require.Equal(t, domain.Waiting, b.record(id).State)
	require.Equal(t, []string{"RunQueued", "RunWaiting"}, b.events(id))
	require.Zero(t, b.intake.asked)

	b.runner.broken = false
	b.turn(b.loops.Assess)
	require.True(t, b.schedule())
	require.Equal(t, domain.Running, b.record(id).State, "it goes on by itself")
	b.audited(id)
	require.Equal(t, []string{"ProviderReadinessChanged", "ProviderReadinessChanged"}, b.events(b.loops.Provider.ID), "on change only")
	b.turn(b.loops.Assess)
	require.Len(t, b.events(b.loops.Provider.ID), 2)
}

func TestAFullProviderMakesRecordsWaitAfterAGrace(t *testing.T) {
	b := setup(t)
	tenant := uuid.New()
	for range 2 {
		b.approve(tenant)
		require.True(t, b.schedule())
	}
	third := b.approve(tenant)
	require.False(t, b.schedule())
	require.Equal(t, domain.Queued, b.record(third).State, "a short queue is not news")
	b.clock.step(10 * time.Second)
	require.True(t, b.schedule())
	require.Equal(t, domain.Waiting, b.record(third).State)
	require.Len(t, b.runner.started, 2, "never more than the provider takes")
}

func TestAFloodOfOneTenantDoesNotStarveAnother(t *testing.T) {
	b := setup(t)
	flood, small := uuid.New(), uuid.New()
	var theirs []uuid.UUID
	for range 5 {
		theirs = append(theirs, b.approve(flood))
	}
	mine := b.approve(small)
	require.True(t, b.schedule())
	require.True(t, b.schedule())
	require.Equal(t, []string{domain.RunName(theirs[0], 1), domain.RunName(mine, 1)}, b.runner.started,
		"the oldest first, then who runs least")
	b.runner.get(domain.RunName(theirs[0], 1)).set(succeed)
	b.supervise()
	late := b.approve(small)
	require.True(t, b.schedule())
	require.Equal(t, domain.RunName(theirs[1], 1), b.runner.started[2], "the small tenant has one running, so the other is next")
	b.runner.get(domain.RunName(theirs[1], 1)).set(succeed)
	b.runner.get(domain.RunName(mine, 1)).set(succeed)
	b.supervise()
	require.True(t, b.schedule())
	require.True(t, b.schedule())
	require.Contains(t, b.runner.started, domain.RunName(late, 1))
}

func TestALogIsBoundedAndTakenOnce(t *testing.T) {
	b := setup(t)
	id, _, run := b.started()
	for i := range runner.MaxLines + 500 {
		run.lines = append(run.lines, runner.Line{Number: int64(i + 1), Level: "info", Step: "pull", Message: fmt.Sprint("line ", i)})
	}
	b.supervise()
	attempt := b.run(id)
	require.Equal(t, int64(len(run.lines)), attempt.LogCursor)
	b.work(func(tx pgx.Tx) error { return b.app.TakeLines(t.Context(), tx, attempt, run.lines[:100]) })
	messages := b.messages(id)
	require.Len(t, messages, runner.MaxLines)
	require.Equal(t, runner.TruncationMessage, messages[len(messages)-1])
}

func TestNoSecretIsStoredOrPublished(t *testing.T) {
	b := setup(t)
	_, _, run := b.started()
	require.Equal(t, canary, run.spec.TargetAuth.Password)
	run.set(succeed)
	b.supervise()
	tables, err := b.admin.Query(t.Context(), `select tablename from pg_tables where schemaname = 'dispatch'`)
	require.NoError(t, err)
	names, err := pgx.CollectRows(tables, pgx.RowTo[string])
	require.NoError(t, err)
	require.Greater(t, len(names), 7)
	for _, name := range names {
		var text *string
		require.NoError(t, b.admin.QueryRow(t.Context(), `select string_agg(t::text, ' ') from dispatch.`+name+` t`).Scan(&text))
		if text != nil {
			require.NotContains(t, *text, "canary", name)
		}
	}
	for _, e := range b.envelopes() {
		require.NotContains(t, string(e.Data), "canary")
	}
}

func TestTheDatabaseKnowsExactlyTheStatesOfTheCode(t *testing.T) {
	b := setup(t)
	list := func(table string) string {
		var text string
		require.NoError(t, b.admin.QueryRow(t.Context(), `select string_agg(pg_get_constraintdef(oid), ' ') from pg_constraint
			where conrelid = $1::regclass and contype = 'c'`, "dispatch."+table).Scan(&text))
		return text
	}
	check := func(table string, states []string) {
		var quoted []string
		for _, s := range states {
			quoted = append(quoted, "'"+s+"'::text")
		}
		require.Contains(t, list(table), "(state = ANY (ARRAY["+strings.Join(quoted, ", ")+"]))")
	}
	var states []string
	for _, s := range domain.States() {
		states = append(states, string(s))
	}
	check("dispatch_record", states)
	states = nil
	for _, s := range domain.RunStates() {
		states = append(states, string(s))
	}
	check("run", states)
}

func TestTheTrailCannotBeChanged(t *testing.T) {
	b := setup(t)
	b.approve(uuid.New())
	for _, statement := range []string{`update transition set reason = 'x'`, `delete from transition`} {
		require.Error(t, b.db.Work(t.Context(), func(tx pgx.Tx) error {
			_, err := tx.Exec(t.Context(), statement)
			return err
		}))
	}
}

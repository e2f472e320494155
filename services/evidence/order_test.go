package evidence

import (
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	dispatchv1 "github.com/pratique-io/pratique/gen/pratique/dispatch/v1"
	intakev1 "github.com/pratique-io/pratique/gen/pratique/intake/v1"
	releasev1 "github.com/pratique-io/pratique/gen/pratique/release/v1"
	"github.com/pratique-io/pratique/internal/bus"
	"github.com/pratique-io/pratique/internal/event"
	"github.com/pratique-io/pratique/services/evidence/internal/domain"
)

// permutations calls visit with every order of 0..n-1.
func permutations(n int, visit func([]int)) {
	order := make([]int, 0, n)
	used := make([]bool, n)
	var step func()
	step = func() {
		if len(order) == n {
			visit(order)
			return
		}
		for i := range n {
			if !used[i] {
				used[i] = true
				order = append(order, i)
				step()
				order = order[:len(order)-1]
				used[i] = false
			}
		}
	}
	step()
}

// deliver hands events over in an order, each twice, and brings early ones again until nothing is early any more, as the bus would.
func (w *world) deliver(events []event.Envelope, order []int) {
	w.t.Helper()
	handled := make([]bool, len(events))
	for round := 0; round < len(events)+1; round++ {
		for _, i := range order {
			for range 2 {
				if handled[i] && round > 0 {
					continue
				}
				err := w.hear(events[i])
				early := err != nil && (err.Error() == bus.Early("request_unknown").Error() || err.Error() == bus.Early("request_not_approved").Error())
				if !early {
					handled[i] = true
				}
			}
		}
	}
	for i, done := range handled {
		require.True(w.t, done, "%s is early for ever in the order %v", events[i].Type, order)
	}
}

func TestRunSucceededBeforeTheRequestIsEarly(t *testing.T) {
	t.Parallel()
	w, r := newWorld(t), newRun(t)
	message := w.envelope(r, r.push(w), 5)
	require.Equal(t, bus.Early("request_unknown"), w.hear(message))
	w.tell(r, w.submitted(r), 1)
	require.Equal(t, bus.Early("request_not_approved"), w.hear(message), "a submission is no approval")
	w.tell(r, w.approved(r), 2)
	require.NoError(t, w.hear(message))
	require.Equal(t, bus.Discard("older_than_known"), w.hear(message))
	require.Equal(t, bus.Discard("older_than_known"), w.hear(w.envelope(r, w.submitted(r), 1)))
	require.Equal(t, domain.Collecting, w.bundle(r).State)
}

func TestAnyOrderOfASuccessfulRequestEndsAlike(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	permutations(4, func(order []int) {
		r := newRun(t)
		message := &dispatchv1.RunSucceeded{RunId: r.run, Attempt: 1, ImageDigest: r.digest(), QuarantineRepository: r.target(w),
			Documents: map[string]string{"source": "x"}}
		w.deliver([]event.Envelope{w.envelope(r, w.submitted(r), 1), w.envelope(r, w.approved(r), 2), w.envelope(r, w.started(r), 3), w.envelope(r, message, 4)}, order)
		b := w.bundle(r)
		require.Equal(t, domain.Collecting, b.State, order)
		require.Equal(t, domain.Ended, b.RunState, order)
		require.EqualValues(t, 4, b.DispatchSequence, order)
		require.Equal(t, map[string]string{"source": "x"}, b.Artifacts)
		state, _ := w.copyState(r)
		require.Equal(t, "present", state)
		w.consistent(r)
	})
}

func TestAnyOrderOfAWithdrawnRequestEndsInRemoval(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, last := range []func(*run) proto.Message{
		func(*run) proto.Message { return &dispatchv1.RunCancelled{} },
		func(*run) proto.Message { return &dispatchv1.RunFailed{} },
	} {
		permutations(5, func(order []int) {
			r := newRun(t)
			w.deliver([]event.Envelope{
				w.envelope(r, w.submitted(r), 1), w.envelope(r, w.approved(r), 2), w.envelope(r, w.started(r), 3),
				w.envelope(r, &intakev1.RequestWithdrawn{}, 3), w.envelope(r, last(r), 4),
			}, order)
			b := w.bundle(r)
			require.Equal(t, domain.Abandoned, b.State, order)
			require.Equal(t, domain.Ended, b.RunState, order)
			state, _ := w.copyState(r)
			require.Equal(t, "to_remove", state, order)
			w.consistent(r)
		})
	}
}

func TestAWithdrawalThatCrossesASuccessKeepsTheDocumentsOrTheCopyGoes(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	permutations(4, func(order []int) {
		r := newRun(t)
		message := &dispatchv1.RunSucceeded{RunId: r.run, Attempt: 1, ImageDigest: r.digest(), QuarantineRepository: r.target(w)}
		w.deliver([]event.Envelope{w.envelope(r, w.submitted(r), 1), w.envelope(r, w.approved(r), 2), w.envelope(r, &intakev1.RequestWithdrawn{}, 3), w.envelope(r, message, 4)}, order)
		require.Contains(t, []domain.State{domain.Collecting, domain.Abandoned}, w.bundle(r).State, order)
		state, reason := w.copyState(r)
		require.Equal(t, "to_remove withdrawn", state+" "+reason, order)
	})
}

func TestEventsThatMakeNoSenseArePoison(t *testing.T) {
	t.Parallel()
	w, r := newWorld(t), newRun(t)
	for name, m := range map[string]*intakev1.RequestSubmitted{
		"no digest":      {TenantId: r.tenant.String(), RequestType: "scan"},
		"a tag":          {TenantId: r.tenant.String(), RequestType: "scan", SourceImageDigest: "latest"},
		"another tenant": {TenantId: uuid.NewString(), RequestType: "scan", SourceImageDigest: r.digest()},
		"an odd type":    {TenantId: r.tenant.String(), RequestType: "party", SourceImageDigest: r.digest()},
	} {
		err := w.hear(w.envelope(r, m, 1))
		require.Error(t, err, name)
		require.Equal(t, bus.Poison(err.(*bus.Outcome).Unwrap()), err, name)
	}
	w.tell(r, w.submitted(r), 1)
	w.tell(r, w.approved(r), 2)
	require.Error(t, w.hear(w.envelope(r, &dispatchv1.RunSucceeded{}, 3)), "a run without an id")
	stranger := *r
	stranger.tenant = uuid.New()
	require.ErrorContains(t, w.hear(w.envelope(&stranger, &dispatchv1.RunFailed{}, 3)), "another tenant")
	require.ErrorContains(t, w.hear(w.envelope(&stranger, &releasev1.ImageReleased{}, 3)), "another tenant")
	require.Equal(t, domain.Awaiting, w.bundle(r).State)
}

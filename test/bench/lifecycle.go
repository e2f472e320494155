package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/proto"

	approvalv1 "github.com/pratique-io/pratique/gen/pratique/approval/v1"
	intakev1 "github.com/pratique-io/pratique/gen/pratique/intake/v1"
	"github.com/pratique-io/pratique/internal/auth"
)

// lifecycleBench is P1: requests through all six services, from the create call to QuarantineConcluded and the last row that anybody writes
// because of it. The limit writes the same rows, by table, number, size and number of transactions, through the same Postgres, with no broker
// and no thinking.
func lifecycleBench(ctx context.Context, s *stand, size sizes) ([]result, error) {
	world, err := s.newOutside()
	if err != nil {
		return nil, err
	}
	b := &lifecycles{s: s, size: size, p: &product{s: s, world: world, pipeline: &pipeline{}}}
	all, err := mirrored(ctx, b.run, b.bare)
	if err != nil {
		return nil, err
	}
	return []result{{name: "P1", what: "lifecycles/s through all six services, no-op pipeline, broker syncs always", value: all[0], limit: all[1],
		limitOf: fmt.Sprintf("the same rows in as many transactions (%.1f rows of %.0f bytes in all, %.2f transactions per lifecycle), %d connections, no broker",
			b.load.rows(), b.load.bytes(), b.load.transactions, adminConns),
		bar: 0.25, goal: 0.5, remarks: append(b.load.remarks(),
			"event path only: dispatch's and evidence's loops are replaced by consumers that append RunStarted, RunSucceeded, EvidenceRecorded and EvidenceDecided",
			"every create, case list and approval is a gRPC call with a verified token; the source registry is a stub that answers at once",
			fmt.Sprintf("QuarantineConcluded alone, without what follows it: %s", b.concluded))}}, nil
}

// lifecycles runs the product against itself.
type lifecycles struct {
	s         *stand
	size      sizes
	p         *product
	load      *load // what one lifecycle wrote, of the first run
	asked     int   // makes names of images unique
	concluded series
}

const (
	askers    = 16 // concurrent create calls
	approvers = 16 // concurrent approvals
	warmUp    = 8  // lifecycles before the clock starts
	reviewMax = 100
	quiet     = 300 * time.Millisecond // without a new row everything has ended
)

// run starts the product, brings lifecycles through, and stops it.
func (b *lifecycles) run(ctx context.Context) (out sample, err error) {
	if err := b.p.start(ctx); err != nil {
		return sample{}, fmt.Errorf("start: %w", err)
	}
	stopped := false
	defer func() {
		if !stopped {
			b.p.stop()
		}
	}()
	before, err := tally(ctx, b.s.admin)
	if err != nil {
		return sample{}, err
	}
	if _, _, err := b.drive(ctx, warmUp); err != nil {
		return sample{}, fmt.Errorf("warm-up: %w", err)
	}
	from, err := nextTransaction(ctx, b.s.admin)
	if err != nil {
		return sample{}, err
	}
	ended, concluded, err := b.drive(ctx, b.size.lifecycles)
	if err != nil {
		return sample{}, err
	}
	to, err := nextTransaction(ctx, b.s.admin)
	if err != nil {
		return sample{}, err
	}
	b.concluded = append(b.concluded, concluded)
	stopped = true
	b.p.stop()
	if b.load == nil {
		b.load, err = loadSince(ctx, b.s.admin, before, warmUp+ended.count, float64(to-from)/float64(ended.count))
	}
	return ended, err
}

// drive asks for n images, approves them, and waits for the end. It answers when everything had ended, and when all were concluded.
func (b *lifecycles) drive(ctx context.Context, n int) (ended, concluded sample, err error) {
	base, err := countConcluded(ctx, b.s.admin)
	if err != nil {
		return sample{}, sample{}, err
	}
	working, stop := context.WithTimeout(ctx, b.size.patience)
	defer stop()
	first := b.asked
	b.asked += n
	began := time.Now()
	people, busy := errgroup.WithContext(working) // busy ends with the first failure
	people.Go(func() error { return b.ask(busy, first, n) })
	people.Go(func() error { return b.review(busy, n) })
	done := 0
	for done < n && tick(busy, 100*time.Millisecond) {
		count, err := countConcluded(ctx, b.s.admin)
		if err != nil {
			stop()
			return sample{}, sample{}, errors.Join(err, people.Wait())
		}
		done = count - base
	}
	concluded = sample{count: done, took: time.Since(began)}
	late := done < n && working.Err() != nil && ctx.Err() == nil
	err = people.Wait()
	switch {
	case late:
		return sample{}, sample{}, fmt.Errorf("%d of %d lifecycles were concluded within %s; try fewer with --lifecycles", done, n, b.size.patience)
	case err != nil || ctx.Err() != nil:
		return sample{}, sample{}, cmp.Or(ctx.Err(), err)
	}
	last, err := lastRow(working, b.s.admin)
	return sample{count: done, took: last.Sub(began)}, concluded, err
}

// ask creates n requests, spread over the tenants.
func (b *lifecycles) ask(ctx context.Context, first, n int) error {
	client := intakev1.NewRequestServiceClient(b.p.conn)
	calls, working := errgroup.WithContext(ctx)
	calls.SetLimit(askers)
	for i := range n {
		calls.Go(func() error { return b.create(working, client, first+i) })
	}
	return calls.Wait()
}

func (b *lifecycles) create(ctx context.Context, client intakev1.RequestServiceClient, job int) error {
	tenant := tenants[job%len(tenants)]
	as, err := b.p.as(ctx, asker(tenant), tenant)
	if err != nil {
		return err
	}
	made, err := client.CreateImportRequest(as, &intakev1.CreateImportRequestRequest{EprRecordId: "EPR-1", SourceRegistry: b.p.world.upstream,
		SourceImageRef: fmt.Sprintf("library/app:%d", job), Justification: proto.String("a benchmark needs it")})
	if err != nil {
		return fmt.Errorf("create: %w", err)
	}
	b.p.pipeline.digests.Store(made.GetId(), made.GetSourceImageDigest())
	return nil
}

// review is a reviewer who looks at the open cases and approves all of them, until n are approved.
func (b *lifecycles) review(ctx context.Context, n int) error {
	client := approvalv1.NewCaseServiceClient(b.p.conn)
	as, err := b.p.as(ctx, reviewer, "")
	if err != nil {
		return err
	}
	for approved := 0; approved < n; {
		list, err := client.ListCases(as, &approvalv1.ListCasesRequest{State: proto.String("open"), Limit: proto.Int32(reviewMax)})
		if err != nil {
			return fmt.Errorf("list cases: %w", err)
		}
		if len(list.GetData()) == 0 && !tick(ctx, 20*time.Millisecond) {
			return ctx.Err()
		}
		calls, working := errgroup.WithContext(as)
		calls.SetLimit(approvers)
		for _, one := range list.GetData() {
			calls.Go(func() error {
				_, err := client.ApproveCase(working, &approvalv1.DecideRequest{Id: one.GetId(), Reason: proto.String("reviewed")})
				return err
			})
		}
		if err := calls.Wait(); err != nil {
			return fmt.Errorf("approve: %w", err)
		}
		approved += len(list.GetData())
	}
	return nil
}

// as is a context that calls as somebody, in a tenant or none.
func (p *product) as(ctx context.Context, who, tenant string) (context.Context, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.tokens[who] == "" {
		token, err := p.world.token(who)
		if err != nil {
			return nil, err
		}
		if p.tokens == nil {
			p.tokens = map[string]string{}
		}
		p.tokens[who] = token
	}
	return auth.ForwardCaller(auth.WithBearer(ctx, p.tokens[who], tenant)), nil
}

// settle makes tenants, people and capabilities known to all, through the front door.
func (p *product) settle(ctx context.Context) error {
	starter, ok := p.services["intake"].(interface{ Bootstrap(context.Context) error })
	if !ok {
		return errors.New("intake has no Bootstrap")
	}
	if err := starter.Bootstrap(ctx); err != nil {
		return err
	}
	admin, err := p.as(ctx, root, "")
	if err != nil {
		return err
	}
	settings, cases := intakev1.NewSettingsServiceClient(p.conn), approvalv1.NewCaseServiceClient(p.conn)
	err = await(ctx, "capabilities", 20*time.Second, func() error {
		_, err := settings.PutOperationCapabilities(admin, &intakev1.PutOperationCapabilitiesRequest{AllTenants: proto.Bool(true),
			ChangeReason: proto.String("benchmark"), Capabilities: &intakev1.CapabilityDocument{QuarantineRequest: true, QuarantineRelease: true}})
		return err
	})
	if err != nil {
		return err
	}
	as, err := p.as(ctx, reviewer, "")
	if err != nil {
		return err
	}
	err = await(ctx, "the reviewer to be known", 20*time.Second, func() error {
		_, err := cases.ListCases(as, &approvalv1.ListCasesRequest{})
		return err
	})
	for _, tenant := range tenants {
		as, problem := p.as(ctx, asker(tenant), tenant)
		if problem != nil {
			return problem
		}
		err = errors.Join(err, await(ctx, "the people of "+tenant+" to be known", 20*time.Second, func() error {
			_, err := settings.GetOwnOperationCapabilities(as, &intakev1.GetOwnOperationCapabilitiesRequest{})
			return err
		}))
	}
	return err
}

const concludedSQL = `select count(*) from intake.outbox where subject like 'pratique.intake.v1.quarantine\_concluded.%'`

func countConcluded(ctx context.Context, pool *pgxpool.Pool) (n int, err error) {
	err = pool.QueryRow(ctx, concludedSQL).Scan(&n)
	return n, err
}

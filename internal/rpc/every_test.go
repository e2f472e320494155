package rpc_test

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"

	_ "github.com/pratique-io/pratique/gen/pratique/approval/v1"
	_ "github.com/pratique-io/pratique/gen/pratique/dispatch/v1"
	errorsv1 "github.com/pratique-io/pratique/gen/pratique/errors/v1"
	_ "github.com/pratique-io/pratique/gen/pratique/evidence/v1"
	_ "github.com/pratique-io/pratique/gen/pratique/intake/v1"
	_ "github.com/pratique-io/pratique/gen/pratique/notify/v1"
	_ "github.com/pratique-io/pratique/gen/pratique/release/v1"
	"github.com/pratique-io/pratique/internal/auth"
)

func TestEveryGeneratedServiceIsPartOfThisTest(t *testing.T) {
	generated, err := filepath.Glob("../../gen/pratique/*/v*/*_grpc.pb.go")
	require.NoError(t, err)
	require.NotEmpty(t, generated)
	linked := map[string]bool{}
	for _, service := range product() {
		linked[filepath.Dir(service.ParentFile().Path())] = true
	}
	for _, file := range generated {
		dir, err := filepath.Rel("../../gen", filepath.Dir(file))
		require.NoError(t, err)
		require.True(t, linked[dir], "%s has services: import it above", dir)
		_, err = os.Stat(file)
		require.NoError(t, err)
	}
}

func TestEveryMethodAsksWhoIsCalling(t *testing.T) {
	var reached atomic.Int64
	s := start(t, nil, product()...)
	s.handle = func(context.Context, string) (proto.Message, error) {
		reached.Add(1)
		return &emptypb.Empty{}, nil
	}
	const unauthorized = errorsv1.Reason_REASON_UNAUTHORIZED
	for _, service := range product() {
		for i := range service.Methods().Len() {
			method := service.Methods().Get(i)
			t.Run(auth.MethodName(method), func(t *testing.T) {
				for name, kv := range map[string][]string{
					"no token":            nil,
					"a tenant only":       {auth.HeaderTenant, "alpha"},
					"a refused token":     {auth.HeaderAuthorization, "Bearer bad"},
					"a bare token":        {auth.HeaderAuthorization, "system_admin"},
					"an empty token":      {auth.HeaderAuthorization, "Bearer "},
					"basic authorization": {auth.HeaderAuthorization, "Basic c3lzdGVtX2FkbWluOng="},
					"two tokens":          {auth.HeaderAuthorization, "Bearer system_admin", auth.HeaderAuthorization, "Bearer bad"},
					"a gateway's prefix":  {"grpcgateway-authorization", "Bearer system_admin"},
					"a forged identity":   {"x-user", "system_admin", "x-forwarded-user", "system_admin"},
				} {
					requireReason(t, unauthorized, s.call(t, method, kv...), name)
				}
			})
		}
	}
	require.Zero(t, reached.Load(), "no handler ran")
}

// TestEveryMethodLetsInExactlyWhomItsRuleNames reads the rules from the protos a second time and compares them with what the
// running chain does, for every role, a stranger, every service and a service that is not named.
func TestEveryMethodLetsInExactlyWhomItsRuleNames(t *testing.T) {
	s := start(t, nil, product()...)
	table, err := auth.BuildTable(nil)
	require.NoError(t, err)
	for _, service := range product() {
		for i := range service.Methods().Len() {
			method := service.Methods().Get(i)
			rule, ok := table.Rule(auth.MethodName(method))
			require.True(t, ok)
			t.Run(auth.MethodName(method), func(t *testing.T) {
				for _, role := range auth.Roles() {
					err := s.call(t, method, auth.HeaderAuthorization, "Bearer "+string(role), auth.HeaderTenant, "alpha")
					if rule.Authenticated || slices.Contains(rule.Roles, role) {
						require.NoError(t, err, role)
					} else {
						requireReason(t, errorsv1.Reason_REASON_PERMISSION_DENIED, err, role)
					}
				}
				err := s.call(t, method, auth.HeaderAuthorization, "Bearer stranger")
				if rule.Authenticated && !rule.TenantRequired {
					require.NoError(t, err)
				} else {
					require.Error(t, err, "a stranger")
				}
				for _, name := range []string{"intake", "approval", "dispatch", "evidence", "release", "notify", "gateway", "other"} {
					err := s.call(t, method, auth.HeaderAuthorization, "Bearer service:"+name, auth.HeaderTenant, "alpha")
					if slices.Contains(rule.Services, name) {
						require.NoError(t, err, name)
					} else {
						requireReason(t, errorsv1.Reason_REASON_PERMISSION_DENIED, err, name)
					}
				}
			})
		}
	}
}

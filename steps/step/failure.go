package step

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"

	"github.com/pratique-io/pratique/internal/document"
	"github.com/pratique-io/pratique/internal/egress"
	"github.com/pratique-io/pratique/internal/oci"
	"github.com/pratique-io/pratique/steps/layer"
)

// Failure is why a step ended without its result: class and code of the public contract, decided where it happened.
type Failure struct {
	Class   string `json:"class"`   // connectivity, auth, policy, runtime
	Code    string `json:"code"`    // image_unacceptable, source_rate_limited and so on
	Message string `json:"message"` // for people; may quote hostile text
	exit    int
}

// Error implements error.
func (f *Failure) Error() string { return f.Code + ": " + f.Message }

// Exit codes of pratique-step.
const (
	ExitOK           = 0
	ExitOther        = 1
	ExitUnacceptable = 10
	ExitRateLimited  = 11
	ExitConnectivity = 12
	ExitAuth         = 13
	ExitScanner      = 14
)

// Exit is the exit code of an error; nil is 0.
func Exit(err error) int {
	if err == nil {
		return ExitOK
	}
	return Classify(err).exit
}

// Unacceptable: the image cannot be judged at all, whoever tries.
func Unacceptable(format string, args ...any) error {
	return &Failure{"policy", "image_unacceptable", fmt.Sprintf(format, args...), ExitUnacceptable}
}

// Scanner: the tool or its data failed, not the image.
func Scanner(format string, args ...any) error {
	return &Failure{"runtime", "scanner_error", fmt.Sprintf(format, args...), ExitScanner}
}

// Connectivity: something that has to be reached did not answer as it should.
func Connectivity(format string, args ...any) error {
	return &Failure{"connectivity", "connectivity_error", fmt.Sprintf(format, args...), ExitConnectivity}
}

// Classify turns any error into a Failure by its type. What has no type is a failure of the run.
func Classify(err error) *Failure {
	var (
		known *Failure
		image *oci.Unacceptable
		bytes *layer.Unacceptable
		wall  *egress.Refused
		wire  net.Error
		local *fs.PathError
	)
	switch {
	case errors.As(err, &known):
		return known
	case errors.As(err, &image), errors.As(err, &bytes):
		return &Failure{"policy", "image_unacceptable", err.Error(), ExitUnacceptable}
	case errors.As(err, &wall):
		return &Failure{"policy", "policy_blocked", err.Error(), ExitOther}
	case errors.Is(err, oci.ErrRateLimited{}):
		return &Failure{"connectivity", "source_rate_limited", err.Error(), ExitRateLimited}
	case errors.Is(err, oci.ErrUnauthorized):
		return &Failure{"auth", "auth_error", err.Error(), ExitAuth}
	case errors.Is(err, document.ErrRefused):
		return &Failure{"runtime", "runtime_failed", err.Error(), ExitOther}
	case errors.As(err, &local): // its errno would pass for a network error
		return &Failure{"runtime", "runtime_failed", err.Error(), ExitOther}
	case errors.Is(err, oci.ErrUnavailable), errors.Is(err, oci.ErrNotFound), errors.Is(err, oci.ErrProtocol),
		errors.Is(err, oci.ErrUnsupported), errors.Is(err, context.DeadlineExceeded), errors.As(err, &wire):
		return &Failure{"connectivity", "connectivity_error", err.Error(), ExitConnectivity}
	}
	return &Failure{"runtime", "runtime_failed", err.Error(), ExitOther}
}

package domain

// Capability is a tenant's entitlement; all are off until somebody switches them on.
type Capability string

// The capabilities.
const (
	Build             Capability = "build"
	QuarantineRequest Capability = "quarantine_request"
	QuarantineRelease Capability = "quarantine_release"
	OndemandScanning  Capability = "ondemand_image_scanning"
)

// AllCapabilities lists all, in the order they are shown.
func AllCapabilities() []Capability {
	return []Capability{Build, QuarantineRequest, QuarantineRelease, OndemandScanning}
}

// Capabilities are one document's switches.
type Capabilities struct {
	Build             bool
	QuarantineRequest bool
	QuarantineRelease bool
	OndemandScanning  bool
}

// Has says whether the capability is switched on.
func (c Capabilities) Has(want Capability) bool {
	switch want {
	case Build:
		return c.Build
	case QuarantineRequest:
		return c.QuarantineRequest
	case QuarantineRelease:
		return c.QuarantineRelease
	case OndemandScanning:
		return c.OndemandScanning
	}
	return false
}

// Needs is the capability that a request of the type rests on.
func (t Type) Needs() Capability {
	if t == TypeScan {
		return OndemandScanning
	}
	return QuarantineRequest
}

// Surface is what a capability opens for people and programs.
type Surface struct{ Nav, Routes, Actions []string }

var surfaces = map[Capability]Surface{
	Build: {Nav: []string{"build"}, Routes: []string{"build"}, Actions: []string{"build.start"}},
	QuarantineRequest: {
		Nav:    []string{"import_requests", "epr_registrations"},
		Routes: []string{"images.import-requests", "epr.registration-requests"},
		Actions: []string{"import_request.create", "import_request.withdraw", "import_request.retry", "import_request.clone",
			"epr_registration.create", "epr_registration.withdraw"},
	},
	QuarantineRelease: {
		Nav:     []string{"released_artifacts"},
		Routes:  []string{"images.released-artifacts"},
		Actions: []string{"import_request.release", "released_artifact.consume"},
	},
	OndemandScanning: {
		Nav: []string{"scan_requests"}, Routes: []string{"images.scan-requests"},
		Actions: []string{"scan_request.create", "scan_request.withdraw", "scan_request.retry"},
	},
}

// SurfaceOf is what the capability opens.
func SurfaceOf(c Capability) Surface { return surfaces[c] }

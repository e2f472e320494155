// Package contract holds the running product to its public contract: what every path answers to bad input, to each kind of caller, to repeated
// calls, and to callers from elsewhere. The product is started once, whole; the same tables are played over REST and over gRPC; and whatever a
// test is about, every answer it gets is checked for its shape, its schema and against errors that are our fault.
package contract

import (
	"context"
	"crypto/ecdsa"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/pratique-io/pratique/cmd/pratique/serve"
	"github.com/pratique-io/pratique/cmd/pratique/up"
	"github.com/pratique-io/pratique/gateway"
	"github.com/pratique-io/pratique/internal/auth"
	"github.com/pratique-io/pratique/internal/auth/devissuer"
	"github.com/pratique-io/pratique/internal/pg/pgtest"
	"github.com/pratique-io/pratique/internal/sample"
)

const root = "../.."

// product is the running product with what tests share.
type product struct {
	*up.Running
	dir    string
	http   *http.Client
	conn   *grpc.ClientConn
	admin  *pgxpool.Pool
	issuer *ecdsa.PrivateKey
	routes []gateway.Route
	table  *auth.Table
	shapes *shapes
	images atomic.Int64
	moody  string // a source that answers badly
	closed string // a source that does not answer

	mu     sync.Mutex
	tokens map[string]string

	epr      string // an approved record of payments
	released struct {
		sync.Once
		world world
	}
}

var (
	once     sync.Once
	shared   *product
	cleanups []func()
)

func TestMain(m *testing.M) {
	code := m.Run()
	for i := len(cleanups) - 1; i >= 0; i-- {
		cleanups[i]()
	}
	os.Exit(code)
}

// keeper is the first test, for helpers that tie what they make to a test's end; here it lives until the last one.
type keeper struct{ testing.TB }

func (k keeper) Cleanup(f func())         { cleanups = append(cleanups, f) }
func (k keeper) Context() context.Context { return context.Background() }

// start gives the product that all tests share.
func start(t *testing.T) *product {
	t.Helper()
	once.Do(func() {
		p := &product{http: &http.Client{Timeout: time.Minute, Transport: &http.Transport{MaxIdleConnsPerHost: 32}}, tokens: map[string]string{}}
		p.bringUp(t)
		p.furnish(t)
		shared = p
	})
	require.NotNil(t, shared, "the product did not start; see the first test")
	return shared
}

func (p *product) bringUp(t *testing.T) {
	p.dir = pgtest.Dir(keeper{t})
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	listen := listener.Addr().String()
	require.NoError(t, listener.Close())
	p.moody, p.closed = moody(t)
	p.Running, err = up.Start(context.Background(), up.Options{
		Data: p.dir, Listen: listen, Services: append(serve.Names(), "gateway"), StepProgram: step(t), Sources: []string{p.moody, p.closed},
		Log: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError})),
	})
	require.NoError(t, err)
	cleanups = append(cleanups, func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := p.Stop(ctx); err != nil {
			fmt.Fprintln(os.Stderr, "stopping:", err)
		}
	})
	p.conn, err = grpc.NewClient(p.Connection.GRPC, grpc.WithTransportCredentials(insecure.NewCredentials()))
	require.NoError(t, err)
	p.admin, err = pgxpool.New(context.Background(), p.AdminURL())
	require.NoError(t, err)
	cleanups = append(cleanups, p.admin.Close)
	p.issuer, err = auth.ReadKey(filepath.Join(p.dir, "keys", "issuer.pem"))
	require.NoError(t, err)
	p.routes, err = gateway.Routes()
	require.NoError(t, err)
	p.table, err = auth.BuildTable(nil)
	require.NoError(t, err)
	p.shapes = readShapes(t, p)
}

// step builds the scanner program at a place that stays, where the linker has nothing to do when nothing changed.
func step(t *testing.T) string {
	cache, err := os.UserCacheDir()
	require.NoError(t, err)
	out := filepath.Join(cache, "pratique-test", "pratique-step")
	command := exec.Command("go", "build", "-trimpath", "-o", out, "./cmd/pratique-step")
	command.Dir = filepath.Join(root, "steps")
	command.Env = append(os.Environ(), "GOWORK=off", "GOFLAGS=-buildvcs=false")
	said, err := command.CombinedOutput()
	require.NoError(t, err, "go build pratique-step: %s", said)
	return out
}

// furnish entitles payments and gives it a registration in force; orders stays as installations begin: entitled to nothing.
func (p *product) furnish(t *testing.T) {
	p.want(t, 200, "", call{who: "root", do: "PUT " + capabilities + "?tenant_id=" + p.tenant("payments"), body: entitled})
	p.epr = p.registration(t, "mel", "sam")
	p.send(t)
}

const (
	imports       = "/api/v1/images/import-requests"
	scans         = "/api/v1/images/scan-requests"
	registrations = "/api/v1/epr/registration-requests"
	artifacts     = "/api/v1/images/released-artifacts"
	capabilities  = "/api/v1/admin/settings/operation-capabilities"
	entitled      = `{"quarantine_request":true,"quarantine_release":true,"ondemand_image_scanning":true}`
)

// registration asks as one and approves as the other; the answer is the record id.
func (p *product) registration(t *testing.T, asks, approves string) string {
	made := p.want(t, 201, "", call{who: asks, do: "POST " + registrations, body: `{"product_name":"Checkout","technology_name":"images"}`})
	p.want(t, 200, "", call{who: approves, do: "POST /api/v1/admin" + registrations[len("/api/v1"):] + "/" + made.text("data.id") + "/approve", body: `{}`})
	return made.text("data.epr_record_id")
}

func (p *product) tenant(slug string) string { return p.Connection.Tenants[slug] }

// everybody are the personas, and somebody with a valid token whom no binding names.
func everybody() []string {
	names := []string{"stranger"}
	for _, persona := range up.Personas() {
		names = append(names, persona.Name)
	}
	return names
}

// token gives the bearer token of a caller; other kinds than people are made by mint.
func (p *product) token(t testing.TB, who string) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.tokens[who] == "" {
		var err error
		if who == "stranger" {
			p.tokens[who], err = devissuer.Mint(p.issuer, p.Connection.Issuer, who, "", "", nil, time.Hour)
		} else {
			p.tokens[who], err = up.Token(p.dir, who)
		}
		require.NoError(t, err)
	}
	return p.tokens[who]
}

// image pushes an image that nobody has asked for yet and answers repository:tag.
func (p *product) image(t testing.TB) string {
	n := p.images.Add(1)
	config := fmt.Appendf(nil, `{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]},"config":{"Labels":{"n":"%d"}}}`, n)
	described := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageConfig, Digest: digest.FromBytes(config), Size: int64(len(config))}
	raw, err := json.Marshal(map[string]any{"schemaVersion": 2, "mediaType": ocispec.MediaTypeImageManifest, "config": described, "layers": []any{}})
	require.NoError(t, err)
	manifest := sample.Manifest{Digest: digest.FromBytes(raw), MediaType: ocispec.MediaTypeImageManifest, Raw: raw}
	image := sample.Image{
		Name: fmt.Sprintf("contract/n%d", n), Root: sample.Descriptor{MediaType: manifest.MediaType, Digest: manifest.Digest, Size: int64(len(raw))},
		Blobs: map[digest.Digest][]byte{described.Digest: config}, Manifests: []sample.Manifest{manifest},
	}
	p.push(t, image)
	return image.Name + ":1"
}

func (p *product) push(t testing.TB, image sample.Image) {
	upstream := p.Connection.Registries["upstream"]
	require.NoError(t, image.Push(t.Context(), nil, upstream.Address, image.Name, "1", upstream.Username, upstream.Password))
}

func (p *product) upstream() string { return p.Connection.Registries["upstream"].Address }

// importBody is a complete ask; more replaces or (nil) removes fields.
func (p *product) importBody(ref string, more map[string]any) string {
	body := map[string]any{"epr_record_id": p.epr, "source_registry": p.upstream(), "source_image_ref": ref}
	for name, value := range more {
		body[name] = value
		if value == nil {
			delete(body, name)
		}
	}
	return encode(body)
}

func encode(v any) string {
	raw, err := json.Marshal(v)
	if err != nil {
		panic(err) // tests encode plain maps
	}
	return string(raw)
}

// pending makes a request that waits for its decision.
func (p *product) pending(t testing.TB) answer {
	return p.want(t, 201, "", call{who: "mel", do: "POST " + imports, body: p.importBody(p.image(t), nil)})
}

func randomID() string { return uuid.Must(uuid.NewV7()).String() }

// world is what one request all the way through leaves to look at.
type world struct{ request, artifact, destination, epr, scan, caseID string }

// send asks for the clean sample image and has it approved, so that its pipeline runs while the first tests do.
func (p *product) send(t *testing.T) {
	p.push(t, sample.Clean())
	clean := sample.Clean().Name + ":1"
	w := &p.released.world
	w.request = p.want(t, 201, "", call{who: "mel", do: "POST " + imports, body: p.importBody(clean, nil)}).text("data.id")
	w.scan = p.want(t, 201, "", call{who: "mel", do: "POST " + scans, body: p.importBody(clean, map[string]any{"epr_record_id": nil})}).text("data.id")
	p.want(t, 202, "", call{who: "sam", do: "POST " + imports + "/" + w.request + "/approve", body: `{"reason":"fine"}`})
}

// through takes that image on to the trusted registry, once.
func (p *product) through(t *testing.T) world {
	p.released.Do(func() {
		w := p.released.world
		p.until(t, call{who: "mel", do: "GET " + imports + "/" + w.request}, "data.release_state", "ready_for_release")
		p.want(t, 202, "", call{who: "rita", do: "POST " + imports + "/" + w.request + "/release", body: `{}`})
		done := p.until(t, call{who: "mel", do: "GET " + imports + "/" + w.request}, "data.release_state", "released")
		w.destination = done.text("data.releases.0.destination_image_ref")
		w.artifact = p.want(t, 200, "", call{who: "mel", do: "GET " + artifacts}).text("data.0.id")
		w.epr = p.want(t, 200, "", call{who: "mel", do: "GET " + registrations + "?status=approved"}).text("data.0.id")
		for _, c := range p.want(t, 200, "", call{who: "sam", do: "GET /api/v1/admin/cases?limit=200"}).list("data") {
			if c["subject_id"] == w.request {
				w.caseID, _ = c["id"].(string)
			}
		}
		p.released.world = w
	})
	require.NotEmpty(t, p.released.world.caseID, "the request did not come through; see the first test that asked for it")
	return p.released.world
}

// until asks again until a value is there.
func (p *product) until(t testing.TB, c call, path, value string) answer {
	var last answer
	require.Eventually(t, func() bool { last = p.want(t, 200, "", c); return last.text(path) == value }, 2*time.Minute, 50*time.Millisecond,
		"%s never became %s", path, value)
	return last
}

package registry

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/validate"
	"github.com/stretchr/testify/require"
)

const childDir = "PRATIQUE_TEST_REGISTRY_DIR"

var crashConfig = Config{Name: "crash", Users: []User{{"all", "pw", Full(Pull, Push)}}}

// TestMain turns the test program into a registry that can be killed.
func TestMain(m *testing.M) {
	dir := os.Getenv(childDir)
	if dir == "" {
		os.Exit(m.Run())
	}
	cfg := crashConfig
	cfg.Dir = dir
	r, err := Open(cfg)
	if err == nil {
		var l net.Listener
		if l, err = net.Listen("tcp", "127.0.0.1:0"); err == nil {
			fmt.Println(l.Addr())
			err = http.Serve(l, r)
		}
	}
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

// acknowledged is a push that was answered before the kill.
type acknowledged struct {
	repository, tag string
	image           v1.Hash
	note            v1.Hash // zero: its push was not answered
}

func TestWhatWasAcknowledgedIsThereAfterKill9(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childDir+"="+dir)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	host, err := bufio.NewReader(out).ReadString('\n')
	require.NoError(t, err)
	c := client{t, strings.TrimSpace(host)}

	pushed := pushUntilKilled(t, c, func() { require.NoError(t, cmd.Process.Kill()) })
	require.Error(t, cmd.Wait())
	require.GreaterOrEqual(t, len(pushed), 20)

	cfg := crashConfig
	cfg.Dir = dir
	after, _ := serve(t, cfg)
	all := login{"all", "pw"}
	notes := 0
	for _, p := range pushed {
		got, err := remote.Get(after.ref(p.repository+":"+p.tag), all.option())
		require.NoError(t, err)
		require.Equal(t, p.image, got.Digest)
		img, err := got.Image()
		require.NoError(t, err)
		require.NoError(t, validate.Image(img), "every blob is whole")
		if p.note == (v1.Hash{}) {
			continue
		}
		notes++
		list, err := remote.Referrers(after.at(p.repository, p.image), all.option())
		require.NoError(t, err)
		manifest, err := list.IndexManifest()
		require.NoError(t, err)
		require.Len(t, manifest.Manifests, 1)
		require.Equal(t, p.note, manifest.Manifests[0].Digest)
	}
	require.NotZero(t, notes)
	leftovers, err := filepath.Glob(filepath.Join(dir, "*", "_uploads", "*"))
	require.NoError(t, err)
	require.Empty(t, leftovers)
	img, err := random.Image(64, 1)
	require.NoError(t, err)
	require.NoError(t, remote.Write(after.ref("shared-0:later"), img, all.option()), "and it goes on")
}

// pushUntilKilled pushes from four workers, two of them into one repository,
// and kills in the middle.
func pushUntilKilled(t *testing.T, c client, kill func()) []acknowledged {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	all := login{"all", "pw"}
	var mu sync.Mutex
	var pushed []acknowledged
	var once sync.Once
	record := func(p acknowledged) {
		mu.Lock()
		defer mu.Unlock()
		pushed = append(pushed, p)
		if len(pushed) >= 24 {
			once.Do(kill)
		}
	}
	var wg sync.WaitGroup
	for worker := range 4 {
		wg.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				p := acknowledged{repository: fmt.Sprintf("shared-%d", worker/2), tag: fmt.Sprintf("w%d-%d", worker, n)}
				img, err := random.Image(2048, 2)
				if err != nil {
					t.Error(err)
					return
				}
				p.image, _ = img.Digest()
				if remote.Write(c.ref(p.repository+":"+p.tag), img, all.option(), remote.WithContext(ctx)) != nil {
					return // killed
				}
				desc, _ := partial.Descriptor(img)
				note := artifact(t, *desc, p.tag)
				h, _ := note.Digest()
				if remote.Write(c.at(p.repository, h), note, all.option(), remote.WithContext(ctx)) == nil {
					p.note = h
				}
				record(p)
			}
		})
	}
	wg.Wait()
	return pushed
}

func TestATornIndexIsPutBackFromItsSyncedCopy(t *testing.T) {
	t.Parallel()
	for name, damage := range map[string]func(t *testing.T, dir string){
		"index empty":   func(t *testing.T, dir string) { require.NoError(t, os.Truncate(filepath.Join(dir, indexFile), 0)) },
		"index cut":     func(t *testing.T, dir string) { require.NoError(t, os.Truncate(filepath.Join(dir, indexFile), 40)) },
		"index missing": func(t *testing.T, dir string) { require.NoError(t, os.Remove(filepath.Join(dir, indexFile))) },
		"layout empty":  func(t *testing.T, dir string) { require.NoError(t, os.Truncate(filepath.Join(dir, layoutFile), 0)) },
		"leftovers": func(t *testing.T, dir string) {
			require.NoError(t, os.WriteFile(filepath.Join(dir, indexFile+".123"), []byte("{"), 0o600))
			require.NoError(t, os.WriteFile(filepath.Join(dir, syncedFile+".new"), []byte("{"), 0o600))
		},
	} {
		t.Run(name, func(t *testing.T) { tear(t, damage) })
	}
}

func tear(t *testing.T, damage func(t *testing.T, dir string)) {
	all := login{"all", "pw"}
	cfg := crashConfig
	cfg.Dir = t.TempDir()
	c, r := serve(t, cfg)
	img, err := random.Image(128, 1)
	require.NoError(t, err)
	want, err := img.Digest()
	require.NoError(t, err)
	require.NoError(t, remote.Write(c.ref("team/app:v1"), img, all.option()))
	require.NoError(t, r.Close())
	dir := filepath.Join(cfg.Dir, "team", "app")
	// A torn file is a new inode: the copy must not be the same file.
	raw, err := os.ReadFile(filepath.Join(dir, indexFile))
	require.NoError(t, err)
	require.NoError(t, os.Remove(filepath.Join(dir, indexFile)))
	require.NoError(t, os.WriteFile(filepath.Join(dir, indexFile), raw, 0o600))
	damage(t, dir)

	c, _ = serve(t, cfg)
	got, err := remote.Get(c.ref("team/app:v1"), all.option())
	require.NoError(t, err)
	require.Equal(t, want, got.Digest)
	other, err := random.Image(128, 1)
	require.NoError(t, err)
	require.NoError(t, remote.Write(c.ref("team/app:v2"), other, all.option()))
	tags, err := remote.List(func() name.Repository { return c.ref("team/app:v1").Context() }(), all.option())
	require.NoError(t, err)
	require.ElementsMatch(t, []string{"v1", "v2"}, tags)
	leftovers, err := filepath.Glob(filepath.Join(dir, indexFile+".*"))
	require.NoError(t, err)
	require.Empty(t, leftovers)
}

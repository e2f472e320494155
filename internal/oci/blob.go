package oci

import (
	"context"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
)

// maxResumes bounds how often one blob is asked for again without a single byte of progress.
const maxResumes = 3

// HasBlob reports whether the repository holds a blob.
func (r *Repository) HasBlob(ctx context.Context, d Digest) (bool, error) {
	if !d.Valid() {
		return false, fmt.Errorf("%s is not a digest", clip(string(d)))
	}
	resp, err := r.exchange(ctx, call{op: "look for blob", method: http.MethodHead, url: r.url(nil, "blobs", string(d)), accept: []int{http.StatusOK}})
	if isNotFound(err) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	discard(resp)
	return true, nil
}

// Blob streams a blob. The reader hashes: its last bytes are handed out only after size and digest are found right, so
// that who reads to io.EOF has the whole and right content; a mismatch is *Unacceptable. Truncated streams are resumed.
func (r *Repository) Blob(ctx context.Context, d Descriptor) (io.ReadCloser, error) {
	if bad := d.checkBlob(r.client.limits.BlobBytes); bad != nil {
		return nil, bad
	}
	b := &blobReader{ctx: ctx, repo: r, want: d, hash: d.Digest.hash()}
	if d.Size == 0 {
		b.body = http.NoBody
		return b, b.finish()
	}
	if err := b.open(); err != nil {
		return nil, err
	}
	return b, nil
}

type blobReader struct {
	ctx   context.Context
	repo  *Repository
	want  Descriptor
	body  io.ReadCloser
	hash  hash.Hash
	n     int64 // bytes hashed
	stuck int   // openings since the last progress
	err   error
}

// open asks for what is missing.
func (b *blobReader) open() error {
	const op = "get blob"
	header := http.Header{"Accept": {"*/*"}}
	accept := []int{http.StatusOK}
	if b.n > 0 {
		header.Set("Range", fmt.Sprintf("bytes=%d-", b.n))
		accept = append(accept, http.StatusPartialContent)
	}
	resp, err := b.repo.exchange(b.ctx, call{op: op, method: http.MethodGet, url: b.repo.url(nil, "blobs", string(b.want.Digest)), header: header, accept: accept})
	if err != nil {
		return err
	}
	b.body = resp.Body
	if resp.StatusCode == http.StatusPartialContent {
		if !strings.HasPrefix(resp.Header.Get("Content-Range"), "bytes "+strconv.FormatInt(b.n, 10)+"-") {
			return b.repo.failure(op, fmt.Errorf("%w: another range than asked for", ErrProtocol))
		}
		return nil
	}
	if resp.ContentLength >= 0 && resp.ContentLength != b.want.Size {
		_ = b.body.Close()
		return refuse(ReasonDigestMismatch, "blob %s has %d bytes, not %d", b.want.Digest, resp.ContentLength, b.want.Size)
	}
	if _, err := io.CopyN(io.Discard, b.body, b.n); err != nil { // no ranges here: skip what we have
		_ = b.body.Close()
		return b.repo.transportError(b.ctx, op, err)
	}
	return nil
}

// Read implements io.Reader.
func (b *blobReader) Read(p []byte) (int, error) {
	for {
		if b.err != nil || len(p) == 0 {
			return 0, b.err
		}
		p = p[:min(int64(len(p)), b.want.Size-b.n)]
		n, err := b.body.Read(p)
		if n > 0 {
			_, _ = b.hash.Write(p[:n]) // hashes do not fail
			b.n += int64(n)
			b.stuck = 0
		}
		if b.n == b.want.Size {
			if bad := b.finish(); bad != nil {
				return 0, bad
			}
			return n, nil
		}
		if err != nil {
			b.err = b.resume(err)
		}
		if n > 0 {
			return n, nil
		}
	}
}

// finish judges the whole and leaves b.err at io.EOF or the problem.
func (b *blobReader) finish() error {
	if n, _ := io.ReadFull(b.body, make([]byte, 1)); n > 0 {
		b.err = refuse(ReasonDigestMismatch, "blob %s goes on after %d bytes", b.want.Digest, b.want.Size)
		return b.err
	}
	if !b.want.Digest.matchesSum(b.hash) {
		b.err = refuse(ReasonDigestMismatch, "the bytes of blob %s have another digest", b.want.Digest)
		return b.err
	}
	b.err = io.EOF
	return nil
}

func (b *blobReader) resume(cause error) error {
	_ = b.body.Close()
	for b.ctx.Err() == nil && b.stuck < maxResumes {
		b.stuck++
		err := b.open()
		if err == nil || !errors.Is(err, ErrUnavailable) {
			return err
		}
		cause = err
	}
	if b.ctx.Err() != nil {
		return b.repo.failure("get blob", b.ctx.Err())
	}
	return b.repo.failure("get blob", fmt.Errorf("%w: the stream ends after %d of %d bytes: %w", ErrUnavailable, b.n, b.want.Size, cause))
}

// Close implements io.Closer.
func (b *blobReader) Close() error {
	if b.err == nil {
		b.err = errors.New("read after close")
	}
	return b.body.Close()
}

// PushBlob uploads a blob in one piece. The bytes are hashed on the way; a mismatch is *Unacceptable and leaves nothing
// behind. The reader is read once, so a failure in the middle is the caller's to repeat.
func (r *Repository) PushBlob(ctx context.Context, d Descriptor, content io.Reader) error {
	if bad := d.checkBlob(r.client.limits.BlobBytes); bad != nil {
		return bad
	}
	checked := &blobReader{ctx: ctx, repo: r, want: d, hash: d.Digest.hash(), body: io.NopCloser(content), stuck: maxResumes}
	if d.Size == 0 {
		if err := checked.finish(); err != nil {
			return err
		}
	}
	up, err := r.startUpload(ctx, d.Digest, "")
	if err != nil {
		return err
	}
	return r.finishUpload(ctx, d, up, checked)
}

// upload is an upload session; at is nil when the registry already has or has mounted the blob.
type upload struct{ at *url.URL }

// startUpload opens a session. With from set it asks for a mount from that repository first, which may be this one: then
// the registry answers "present" without a request of its own for asking.
func (r *Repository) startUpload(ctx context.Context, d Digest, from string) (upload, error) {
	const op = "start upload"
	query := url.Values{}
	accept := []int{http.StatusAccepted}
	if from != "" {
		query = url.Values{"mount": {string(d)}, "from": {from}}
		accept = append(accept, http.StatusCreated)
	}
	resp, err := r.exchange(ctx, call{op: op, method: http.MethodPost, url: r.url(query, "blobs", "uploads", ""), actions: "pull,push", accept: accept})
	if err != nil {
		if from != "" && !transient(err) && ctx.Err() == nil {
			plain := *r
			plain.extra = "" // the mount's scope may be what was refused
			return plain.startUpload(ctx, d, "")
		}
		return upload{}, err
	}
	discard(resp)
	if resp.StatusCode == http.StatusCreated {
		if said := resp.Header.Get("Docker-Content-Digest"); said != "" && Digest(said) != d {
			return upload{}, r.failure(op, fmt.Errorf("%w: mounted %s instead", ErrProtocol, clip(said)))
		}
		return upload{}, nil
	}
	at, err := r.next(r.endpoint, resp.Header.Get("Location"))
	if err != nil {
		return upload{}, r.failure(op, err)
	}
	return upload{at: at}, nil
}

// finishUpload sends the bytes and closes the session in one request.
func (r *Repository) finishUpload(ctx context.Context, d Descriptor, up upload, content io.Reader) error {
	const op = "push blob"
	if up.at == nil {
		return nil
	}
	at := *up.at
	if at.RawQuery != "" {
		at.RawQuery += "&" // the registry's own state stays as it was spelt
	}
	at.RawQuery += "digest=" + url.QueryEscape(string(d.Digest))
	resp, err := r.exchange(ctx, call{
		op: op, method: http.MethodPut, url: &at, actions: "pull,push", header: http.Header{"Content-Type": {"application/octet-stream"}},
		body: func() io.Reader { return content }, size: d.Size, once: true, accept: []int{http.StatusCreated},
	})
	if err != nil {
		if b, ok := content.(*blobReader); ok && b.err != nil && !errors.Is(b.err, io.EOF) {
			return b.err // what went wrong is the content, not the upload
		}
		return err
	}
	discard(resp)
	if said := resp.Header.Get("Docker-Content-Digest"); said != "" && Digest(said) != d.Digest {
		return r.failure(op, fmt.Errorf("%w: stored as %s instead of %s", ErrProtocol, clip(said), d.Digest))
	}
	return nil
}

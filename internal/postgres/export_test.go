package postgres

import (
	"log/slog"
	"os/exec"
)

// What the tests see beside the exported interface.
var (
	NotFound = notFound
	Postgres = func(s *Server) string { return s.cmd.Path }
)

// Reaches asks for an account that is switched to uid and gid.
func Reaches(uid, gid uint32, dir string) error {
	return account{name: "stranger", uid: uid, gid: gid, switched: true}.reaches(dir)
}

// Claim claims a socket directory for ourselves.
func Claim(parent, dir string) error {
	me, err := pick("")
	if err != nil {
		return err
	}
	return (&cluster{account: me}).claim(parent, dir)
}

// Tail writes chunks and returns what would be shown.
func Tail(log *slog.Logger, chunks ...string) string {
	t := newTail(log)
	for _, chunk := range chunks {
		_, _ = t.Write([]byte(chunk)) // never fails
	}
	t.flush()
	return t.String()
}

// Command prepares a program that runs as the user of the server of a directory.
func Command(dir, program string, args ...string) (*exec.Cmd, error) {
	a, err := pick(dataDir(dir))
	if err != nil {
		return nil, err
	}
	return a.command(program, args...), nil
}

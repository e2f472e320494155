package up

import (
	"errors"
	"fmt"
	"net"
	"strconv"
	"syscall"
)

// address is host:port of one of the kept ports.
func (r *Running) address(name string) string {
	return net.JoinHostPort(loopback, strconv.Itoa(r.ports[name]))
}

// grpcAddress is where the services in this process are called.
func (r *Running) grpcAddress() string {
	if r.options.GRPC != "" {
		return r.options.GRPC
	}
	return r.address("grpc")
}

// checkAddresses tells every taken address at once, before anything slow is started.
func (r *Running) checkAddresses() error {
	own := append([]string{"nats", "issuer"}, registryNames...)
	var problems []error
	if len(r.options.Services) > 0 {
		own = append(own, "ops")
		if r.options.GRPC == "" {
			own = append(own, "grpc")
		} else if _, err := tryListen(r.options.GRPC, "--grpc-listen"); err != nil {
			problems = append(problems, err)
		}
	}
	if r.options.Listen != "" {
		bound, err := tryListen(r.options.Listen, "--listen")
		r.options.Listen = bound
		problems = append(problems, err)
	}
	for _, name := range own {
		if _, err := tryListen(r.address(name), ""); err != nil {
			problems = append(problems, fmt.Errorf("port %d of %s is taken: stop the other program, or remove %q from %s to choose another port: %w",
				r.ports[name], name, name, r.dir.join(portsFile), err))
		}
	}
	return errors.Join(problems...)
}

// tryListen binds an address for a moment and gives it with its port: 0 asks for any.
func tryListen(address, flag string) (string, error) {
	listener, err := net.Listen("tcp", address)
	switch {
	case err == nil:
		host, _, _ := net.SplitHostPort(address) // it was listened on
		_, port, _ := net.SplitHostPort(listener.Addr().String())
		return net.JoinHostPort(host, port), listener.Close()
	case flag == "":
		return address, err
	case errors.Is(err, syscall.EADDRINUSE):
		return address, fmt.Errorf("another program uses %s; choose another address with %s HOST:PORT: %w", address, flag, err)
	}
	return address, fmt.Errorf("cannot listen on %q; %s takes HOST:PORT of this machine: %w", address, flag, err)
}

// reached is how a client on this machine reaches an address that may stand for every interface.
func reached(address string) string {
	host, port, err := net.SplitHostPort(address)
	if ip := net.ParseIP(host); err == nil && (host == "" || ip != nil && ip.IsUnspecified()) {
		return net.JoinHostPort(loopback, port)
	}
	return address
}

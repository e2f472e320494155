package broker

import (
	"errors"
	"fmt"
	"regexp"
	"strconv"

	"github.com/nats-io/nats-server/v2/server"
)

// User is a name, a password and lists of what is allowed. There are no deny lists: what is not named is refused.
type User struct {
	Name      string
	Password  string
	Publish   []string
	Subscribe []string
	system    bool // of the account that may ask about the server, and sees no event
}

// String hides the password.
func (u User) String() string { return u.Name }

// Bind names one durable consumer on one stream.
type Bind struct{ Stream, Consumer string }

const (
	lifecycle = "PRATIQUE_LIFECYCLE"
	directory = "PRATIQUE_DIRECTORY"
	// subscriberSlots is how many consumers one outside subscriber may have besides ext_<name>.
	subscriberSlots = 9
)

var plainName = regexp.MustCompile(`^[a-z][a-z0-9_]{0,39}$`)

// InboxPrefix is where a user's replies arrive. Each has its own: with a shared one services could read each other's messages.
func InboxPrefix(name string) string { return "_INBOX_" + name }

// Service may publish its own subjects (intake also people's), look at the streams it publishes to, and pull from and
// acknowledge to its own consumers.
func Service(name, password string, binds ...Bind) User {
	publish := []string{"pratique." + name + ".v1.>"}
	streams := []string{lifecycle}
	if name == "intake" {
		publish = append(publish, "directory.intake.v1.>")
		streams = append(streams, directory)
	}
	for _, stream := range streams { // the relay asks whether its last event is still there
		publish = append(publish, "$JS.API.STREAM.INFO."+stream, "$JS.API.STREAM.MSG.GET."+stream)
	}
	for _, b := range binds {
		publish = append(publish, pull(b)...)
	}
	return User{Name: name, Password: password, Publish: publish, Subscribe: []string{InboxPrefix(name) + ".>"}}
}

// Admin may manage streams and consumers, but publishes no event and reads none.
func Admin(name, password string) User {
	return User{Name: name, Password: password, Subscribe: []string{InboxPrefix(name) + ".>"}, Publish: []string{
		"$JS.API.INFO", "$JS.API.STREAM.CREATE.*", "$JS.API.STREAM.UPDATE.*", "$JS.API.STREAM.INFO.*",
		"$JS.API.STREAM.NAMES", "$JS.API.STREAM.LIST", "$JS.API.CONSUMER.CREATE.>", "$JS.API.CONSUMER.DURABLE.CREATE.>",
		"$JS.API.CONSUMER.INFO.*.*", "$JS.API.CONSUMER.NAMES.*", "$JS.API.CONSUMER.LIST.*", "$JS.API.CONSUMER.DELETE.*.*",
	}}
}

// Subscriber is a system outside: it reads the lifecycle stream through consumers of its own, which must be named
// ext_<name> or ext_<name>_1 to _9. It cannot see the directory stream, publish, or touch anybody else's consumer: a wildcard
// for names would let it redefine ours.
func Subscriber(name, password string) User {
	publish := []string{"$JS.API.STREAM.INFO." + lifecycle}
	for slot := 0; slot <= subscriberSlots; slot++ {
		consumer := "ext_" + name
		if slot > 0 {
			consumer += "_" + strconv.Itoa(slot)
		}
		target := lifecycle + "." + consumer
		publish = append(publish, "$JS.API.CONSUMER.CREATE."+target, "$JS.API.CONSUMER.CREATE."+target+".>",
			"$JS.API.CONSUMER.DURABLE.CREATE."+target, "$JS.API.CONSUMER.DELETE."+target)
		publish = append(publish, pull(Bind{Stream: lifecycle, Consumer: consumer})...)
	}
	return User{Name: name, Password: password, Publish: publish, Subscribe: []string{InboxPrefix(name) + ".>"}}
}

// Operator may ask the server how it is set up, and nothing else.
func Operator(name, password string) User {
	return User{Name: name, Password: password, system: true,
		Publish: []string{"$SYS.REQ.SERVER.PING.JSZ"}, Subscribe: []string{InboxPrefix(name) + ".>"}}
}

func pull(b Bind) []string {
	target := b.Stream + "." + b.Consumer
	return []string{
		"$JS.API.CONSUMER.INFO." + target, "$JS.API.CONSUMER.MSG.NEXT." + target,
		"$JS.ACK." + target + ".>",
		"$JS.ACK.*.*." + target + ".>", // the longer form that newer servers may use
	}
}

func natsUsers(users []User, system *server.Account) ([]*server.User, error) {
	var errs []error
	seen := map[string]bool{}
	out := make([]*server.User, 0, len(users))
	for _, u := range users {
		switch {
		case !plainName.MatchString(u.Name):
			errs = append(errs, fmt.Errorf("broker user %q: must be lower case letters, digits and _", u.Name))
		case u.Password == "":
			errs = append(errs, fmt.Errorf("broker user %s has no password", u.Name))
		case seen[u.Name]:
			errs = append(errs, fmt.Errorf("broker user %s is given twice", u.Name))
		}
		seen[u.Name] = true
		user := &server.User{Username: u.Name, Password: u.Password, Permissions: &server.Permissions{
			Publish:   &server.SubjectPermission{Allow: u.Publish},
			Subscribe: &server.SubjectPermission{Allow: u.Subscribe},
		}}
		if u.system {
			user.Account = system
		}
		out = append(out, user)
	}
	return out, errors.Join(errs...)
}

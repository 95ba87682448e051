// Package keys is the one place that spells Redis keys and channels.
//
// All keys of a user, and all that is changed together with them, share the hash
// tag of the user's partition, so that one script may touch them on a Cluster too.
// A service SID has a fixed length and an identity always comes last, so no two
// users can meet on one key whatever bytes an identity holds; the tag comes first,
// so a brace in an identity is no tag.
package keys

import (
	"crypto/sha256"
	"fmt"
	"strconv"

	"github.com/rollcall-presence/rollcall/presence"
)

// MaxPartitions bounds the number of partitions: a user SID begins with the
// partition's number in four hex digits.
const MaxPartitions = 1 << 16

// Keys spells keys below one prefix. Methods may be called concurrently.
type Keys struct {
	Prefix     string // such as "rc:"; without braces
	Partitions int    // 1 to MaxPartitions; the same on every node
}

// Of is the partition of a user: FNV-1a of service and identity, folded.
func (k Keys) Of(u presence.Key) presence.Partition { return k.In(u.Service)(u.Identity) }

// In tells the partitions of a service's users.
func (k Keys) In(service string) func(identity string) presence.Partition {
	add := func(h uint64, s string) uint64 {
		for i := range len(s) {
			h = (h ^ uint64(s[i])) * 1099511628211
		}
		return h
	}
	begun := add(14695981039346656037, service)
	return func(identity string) presence.Partition {
		h := add(begun, identity)
		return presence.Partition((h ^ h>>32) % uint64(k.Partitions)) //nolint:gosec // below MaxPartitions
	}
}

// Base is what every key of a partition begins with, and the channel of its
// events. The pseudo-partition presence.Services has one too.
func (k Keys) Base(p presence.Partition) string { return k.in(p) }

// in is a key below a partition's base, of parts; hundreds are spelt at once.
func (k Keys) in(p presence.Partition, parts ...string) string {
	b := append(make([]byte, 0, 96), k.Prefix...)
	if p == presence.Services {
		b = append(b, "{svc}"...)
	} else {
		n := strconv.AppendInt(make([]byte, 0, 8), int64(p), 10)
		b = append(append(b, "{p"...), "000"[min(len(n), 3):]...)
		b = append(append(b, n...), '}')
	}
	for _, part := range parts {
		b = append(b, part...)
	}
	return string(b)
}

// Channel is the pub/sub channel of a partition's events.
func (k Keys) Channel(p presence.Partition) string { return k.Base(p) }

// User is the key of the hash of what few users have.
func (k Keys) User(u presence.Key) string {
	return k.Base(k.Of(u)) + ":" + u.Service + ":u:" + u.Identity
}

// OnBlock is the key of a block of the online state of a service's users.
func (k Keys) OnBlock(p presence.Partition, service string, n int) string {
	return k.Base(p) + ":" + service + ":on:" + strconv.Itoa(n)
}

// Users is the key of a service's users of one partition, in creation order.
func (k Keys) Users(p presence.Partition, service string) string {
	return k.Base(p) + ":" + service + ":users"
}

// UserRoles is the key of the hash from the numbers of roles that users of one partition have to the roles, and back.
func (k Keys) UserRoles(p presence.Partition, service string) string {
	return k.Base(p) + ":" + service + ":roles"
}

// Online is the key of a service's users of one partition who are recorded online,
// by the stamp of their last change.
func (k Keys) Online(p presence.Partition, service string) string {
	return k.Base(p) + ":" + service + ":online"
}

// State is the key of the hash of a service's users of one partition.
func (k Keys) State(p presence.Partition, service string) string {
	return k.in(p, ":", service, ":state")
}

// Seq is the key of a partition's counters.
func (k Keys) Seq(p presence.Partition) string { return k.Base(p) + ":seq" }

// NodeBlocks is the key of the hash of a node's blocks in a partition.
func (k Keys) NodeBlocks(p presence.Partition, n presence.NodeID) string {
	return k.Base(p) + ":node:" + string(n)
}

// Bindings is the key of a service's push bindings of one partition, in creation
// order.
func (k Keys) Bindings(p presence.Partition, service string) string {
	return k.Base(p) + ":" + service + ":bindings"
}

// BindingsOf is the key of the hash of a user's bindings.
func (k Keys) BindingsOf(u presence.Key) string {
	return k.Base(k.Of(u)) + ":" + u.Service + ":b:" + u.Identity
}

// BindingSIDs is the key of the hash from binding SID to identity of one partition.
func (k Keys) BindingSIDs(p presence.Partition, service string) string {
	return k.Base(p) + ":" + service + ":bsids"
}

// BindingsWith is the key of the set of a credential's bindings in one partition.
func (k Keys) BindingsWith(p presence.Partition, credential string) string {
	return k.Base(p) + ":cred:" + credential
}

// Addresses is the key of the hash of who has the push addresses of a service that lie
// in one partition.
func (k Keys) Addresses(p presence.Partition, service string) string {
	return k.in(p, ":", service, ":addr")
}

// Unsettled is the key of the bindings of one partition whose address is to be
// compared.
func (k Keys) Unsettled(p presence.Partition) string { return k.Base(p) + ":unsettled" }

// Service is the key of a service's hash.
func (k Keys) Service(sid string) string { return k.Base(presence.Services) + ":" + sid }

// AllServices is the key of the services in creation order.
func (k Keys) AllServices() string { return k.Base(presence.Services) + ":all" }

// DefaultService is the key that holds the default service's SID.
func (k Keys) DefaultService() string { return k.Base(presence.Services) + ":default" }

// Credential is the key of a push credential's hash.
func (k Keys) Credential(sid string) string { return k.Base(presence.Services) + ":" + sid }

// Credentials is the key of the push credentials in creation order.
func (k Keys) Credentials() string { return k.Base(presence.Services) + ":credentials" }

// Account is the key of the hash of the account's configuration.
func (k Keys) Account() string { return k.Base(presence.Services) + ":account" }

// Roles is the key of a service's roles in creation order.
func (k Keys) Roles(service string) string { return k.Service(service) + ":roles" }

// Role is the key of a role's hash.
func (k Keys) Role(service, sid string) string { return k.Service(service) + ":role:" + sid }

// Notifications is the key of the hash of a service's push settings.
func (k Keys) Notifications(service string) string { return k.Service(service) + ":notifications" }

// APIKeys is the key of the API keys in creation order.
func (k Keys) APIKeys() string { return k.Base(presence.Services) + ":keys" }

// APIKey is the key of an API key's hash.
func (k Keys) APIKey(sid string) string { return k.Base(presence.Services) + ":key:" + sid }

// Revocations is the key of a service's revocations by age.
func (k Keys) Revocations(service string) string { return k.Service(service) + ":revocations" }

// Revoked is the key of the hash from the SIDs of a service's revocations to what they
// say.
func (k Keys) Revoked(service string) string { return k.Service(service) + ":revoked" }

// DeadLetters is the key of a service's dead letters of one partition, in the order
// of their death; Letters that of the hash from EV SID to dead letter.
func (k Keys) DeadLetters(p presence.Partition, service string) string {
	return k.Base(p) + ":" + service + ":dead"
}

// Letters is described with DeadLetters.
func (k Keys) Letters(p presence.Partition, service string) string {
	return k.Base(p) + ":" + service + ":letters"
}

// Todo is the key of what is left to do in the partitions: deleted services and
// credentials that are to be purged once more, changes of webhooks to be told.
func (k Keys) Todo() string { return k.Base(presence.Services) + ":todo" }

// DeletedServices is the key of the last services that were deleted, by time.
func (k Keys) DeletedServices() string { return k.Base(presence.Services) + ":deleted" }

// PartitionCount is the key that holds the number of partitions, set on first use.
func (k Keys) PartitionCount() string { return k.Base(presence.Services) + ":partitions" }

// Node is the key of a node's information, and its own channel.
func (k Keys) Node(n presence.NodeID) string { return k.Prefix + "node:" + string(n) }

// Probe is a channel of a node's own in the slot of a partition.
func (k Keys) Probe(p presence.Partition, n presence.NodeID) string {
	return k.Base(p) + ":probe:" + string(n)
}

// Wake is the channel on which nodes are told that a partition has work for them:
// a letter for the kind of work and the partition's number.
func (k Keys) Wake() string { return k.Prefix + "wake" }

// SIDPrefix is how the SIDs of a partition's users begin.
func SIDPrefix(p presence.Partition) string { return string(appendSIDPrefix(nil, p)) }

// UserSID is the SID of a partition's user of which the rest is known.
func UserSID(p presence.Partition, rest string) string {
	return string(append(appendSIDPrefix(make([]byte, 0, 64), p), rest...))
}

func appendSIDPrefix(b []byte, p presence.Partition) []byte {
	const hex = "0123456789abcdef"
	return append(b, 'U', 'S', hex[p>>12&15], hex[p>>8&15], hex[p>>4&15], hex[p&15])
}

// BindingSID is the SID of a user's binding of an address. It begins with the user's
// partition, and is the same each time.
func (k Keys) BindingSID(u presence.Key, t presence.PushType, address string) string {
	h := sha256.New()
	for _, part := range []string{u.Service, u.Identity, string(t), address} {
		_, _ = fmt.Fprintf(h, "%d:%s", len(part), part)
	}
	return fmt.Sprintf("BS%04x%x", int(k.Of(u)), h.Sum(nil)[:14])
}

// OfSID is the partition that the SID of a user, a binding or an event names; false
// if it names none.
func (k Keys) OfSID(sid string) (presence.Partition, bool) {
	if !presence.IsSID(sid, "US") && !presence.IsSID(sid, "BS") && !presence.IsSID(sid, "EV") {
		return 0, false
	}
	n, err := strconv.ParseUint(sid[2:6], 16, 16)
	if err != nil || int(n) >= k.Partitions {
		return 0, false
	}
	return presence.Partition(n), true
}

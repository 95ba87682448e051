package redisstore

import (
	"maps"
	"slices"
)

// kind is a sort of disagreement: what it is, what probably caused it, and what repairing
// does.
type kind struct{ what, cause, repair string }

// Kinds are the names of all kinds of disagreement that Verify reports.
func Kinds() []string { return slices.Sorted(maps.Keys(kinds)) }

var kinds = map[string]kind{
	"session_without_lease": {
		"a live session is of a node that has no lease",
		"the session's node is gone from the partition and the session was not reaped with it: data was restored, lost in a failover, or changed by hand",
		"removes the session; if the user has no other it goes offline, and that is published",
	},
	"session_unlisted": {
		"a block of live sessions is not in its node's record, or in another node's",
		"the node's record lost the block, so that its sessions would not be reaped with the node: a failover lost the last writes, or data was changed by hand",
		"puts the block into its node's record and asks the node, which ends what it does not hold",
	},
	"session_not_online": {
		"a session in a node's record is not known of its user",
		"the user's record lost the session: a failover lost the last writes, or data was changed by hand",
		"removes the session and asks the node, which registers it anew if it holds it",
	},
	"session_lost": {
		"the online state lacks sessions that a user's or a node's record names",
		"the online state lost them, as when it expired while Redis was away, or data was changed by hand",
		"takes them out of the record and asks the nodes, which register those that they hold anew",
	},
	"session_without_user": {
		"sessions are live of a user that does not exist",
		"the user's record was lost while it was connected: a failover lost the last writes, or the key was deleted by hand",
		"forgets the sessions and asks their nodes, which register those that they hold anew, and the user with them",
	},
	"online_without_ttl": {
		"an online state never expires",
		"the online state was written without its lifetime, the last resort against users who stay online for ever: data was restored or changed by hand",
		"gives it its lifetime",
	},
	"node_without_lease": {
		"there is something of a node that has no lease",
		"the node was reaped, and told of something once more before it died; or its lease was lost",
		"removes what there is of the node; users whose last session was there go offline, and that is published",
	},
	"lease_overdue": {
		"a node's lease lapsed, and its sessions are still there; or it lasts too long",
		"no node sends heartbeats, or they do not reap: is any node running on this Redis, with this key prefix?",
		"gives the node a lease as any has, if its own lasts too long; else reaps its sessions: users whose last session was there go offline, and that is published. Do not repair this while nodes run that cannot reach Redis",
	},
	"stuck_online": {
		"a user is online without session and linger",
		"the online state is gone but the user was not seen to leave: it expired with all nodes gone, was lost in a failover, or was deleted by hand",
		"has the user linger for a lease and asks the nodes; who is not held by any then goes offline, and that is published",
	},
	"shown_offline": {
		"a user with live sessions is recorded offline",
		"the user's record says offline though sessions live: a failover lost the last writes, or data was changed by hand",
		"the user is online, and that is published",
	},
	"epoch": {
		"a user's epoch is not one that its service's can explain",
		"the service's or the user's count of switch-ons was lost: a failover lost a flip of the switch, or data was restored",
		"the user gets the service's epoch, and its state is published",
	},
	"linger_stray": {
		"a user lingers who is offline",
		"the user went offline, and the linger was not taken back: data was restored or changed by hand",
		"removes the linger",
	},
	"linger_overdue": {
		"a linger is over, or due too late",
		"no node settles lingers: none is running, or heartbeats cannot keep up; or its due time was changed",
		"the user, if it has no session, goes offline, and that is published; a linger that is due too late is due in a lease",
	},
	"user_index": {
		"a user is missing, or wrong, in the list of users",
		"the list, in which users are looked up by SID too, disagrees with the user's record: data was restored or changed by hand",
		"writes the index anew from the user's record",
	},
	"change_log": {
		"a user is in the wrong list of the change log",
		"the user is not in the list of those online, or offline, that its record says: data was restored or changed by hand",
		"puts the user into the right list, and publishes its state",
	},
	"entry_without_user": {
		"something is left of a user that does not exist",
		"the user's record is gone but not what hangs on it: the key was evicted, or deleted by hand",
		"removes what is left; the deletion is published",
	},
	"notifiable": {
		"a user's flag and its push bindings disagree",
		"the user's flag and its push bindings disagree: data was restored or changed by hand",
		"sets the flag by the bindings, and publishes it",
	},
	"binding_index": {
		"a push binding is missing, or wrong, where bindings are looked up",
		"where push bindings are looked up and the user's bindings disagree: data was restored or changed by hand",
		"writes the look-ups anew from the user's bindings",
	},
	"binding_overdue": {
		"a push binding expired, and is still there",
		"no node removes expired bindings: none is running, or heartbeats cannot keep up",
		"removes the binding; a user without any is not notifiable, and that is published",
	},
	"address": {
		"a push address is not of the binding that has it",
		"a move of the address between users was not finished, or the data of one of its two partitions was lost",
		"the address goes to the binding that has it; one that has lost it is removed, and that is published",
	},
	"deleted_service": {
		"something is left of a deleted service",
		"a node that had not heard of the deletion, as after being cut off, registered something late",
		"deletes what is left, as deleting the service does",
	},
}

package presence

import "time"

// RoleType is what a role is about.
type RoleType string

// The types of role.
const (
	RoleOfService      RoleType = "service"      // what a user may do in its service
	RoleOfConversation RoleType = "conversation" // what a participant may do
)

// Role is a set of permissions as stored. Users and configuration refer to roles by
// SID; what a permission permits is up to those who read it.
type Role struct {
	SID, Service     string // RL SID, IS SID
	FriendlyName     string
	Type             RoleType
	Permissions      []string
	Created, Updated time.Time
}

// MaxRoles bounds the roles of a service.
const MaxRoles = 100

// Account is what the account's configuration holds beside the default service.
// Empty is not set.
type Account struct {
	MessagingService           string // MG SID
	InactiveTimer, ClosedTimer string // ISO 8601 durations, as they were given
}

// AccountUpdate names what to set of the account's configuration; nil keeps what is
// there, and empty clears (not so the default service: there always is one).
type AccountUpdate struct {
	DefaultService, MessagingService, InactiveTimer, ClosedTimer *string
}

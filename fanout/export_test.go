package fanout

// Subscription is one session's wish to hear about one user.
type Subscription = subscription

// Add makes a subscription that no Hub knows of.
func (b *Mailbox) Add(identity string) (*Subscription, error) {
	return b.add(&topic{topicKey: topicKey{identity: identity}})
}

// Put is put.
func (b *Mailbox) Put(s *Subscription, u *Update) (wake, conflated bool) { return b.put(s, u) }

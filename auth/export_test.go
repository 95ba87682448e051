package auth

// Visitors is how many addresses are remembered one by one.
func (g *Guard) Visitors() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.visitors)
}

// Credentials is how many credentials' rates are remembered.
func (g *Guard) Credentials() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.credentials)
}

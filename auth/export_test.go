package auth

// Visitors is how many addresses are remembered one by one.
func (g *Guard) Visitors() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.visitors)
}

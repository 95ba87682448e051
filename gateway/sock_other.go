//go:build !unix

package gateway

const canReadRaw = false

func (*sock) readRaw() (int, error) { panic("not to be called") }

package main

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"strings"
	"time"
)

// runHealthcheck is for container images, which have no other client to ask with.
func runHealthcheck(ctx context.Context, in *invocation) error {
	cfg, err := in.load()
	if err != nil {
		return err
	}
	if err := in.noArguments(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+reachable(cfg.AdminAddr)+"/readyz", nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return fmt.Errorf("no gateway answers on admin_addr %s; is it running? (%w)", cfg.AdminAddr, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("the gateway is not ready: /readyz on %s answers %s; its log says why", cfg.AdminAddr, resp.Status)
	}
	_, err = fmt.Fprintln(in.stdout, "ready")
	return err
}

// reachable is the address at which this machine reaches a listener on addr.
func reachable(addr string) string {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return addr
	}
	if ip := net.ParseIP(host); host == "" || (ip != nil && ip.IsUnspecified()) {
		host = "127.0.0.1"
		if strings.Contains(addr, "::") {
			host = "::1"
		}
	}
	return net.JoinHostPort(host, port)
}

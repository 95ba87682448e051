package main

import (
	"context"
	"fmt"
	"time"

	"github.com/rollcall-presence/rollcall/auth"
	"github.com/rollcall-presence/rollcall/configs"
)

func runToken(_ context.Context, in *invocation) error {
	service := in.flags.String("service", "", "`SID` of the service that the token is for (IS...)")
	identity := in.flags.String("identity", "", "`name` of the user that the token makes its holder")
	ttl := in.flags.Duration("ttl", time.Hour, "how long the token is good, at most 24h")
	cfg, err := in.load()
	if err != nil {
		return err
	}
	if err := in.noArguments(); err != nil {
		return err
	}
	switch {
	case *service == "":
		return usagef("--service is required: give the SID of a service (IS...)")
	case *identity == "":
		return usagef("--identity is required: give the name of a user")
	}
	token, err := auth.Mint(signingKey(cfg), *service, *identity, time.Now(), *ttl)
	if err != nil {
		return usageError{err}
	}
	_, err = fmt.Fprintln(in.stdout, token)
	return err
}

func signingKey(cfg configs.Config) auth.Key {
	return auth.Key{SID: cfg.APIKeySID, Secret: string(cfg.APIKeySecret), Account: cfg.AccountSID}
}

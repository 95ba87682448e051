# make run    start a gateway with an embedded store; it prints the page to open
# make test   everything that must hold: vet, tests with the race detector, the live page in a browser,
#             the REST API through the Node helper library, the Conversations SDK against it, the k6 scripts,
#             the load generator's scenarios in a short form, each benchmark once
# make test-faults   the faults of test/faults in full, which takes up to 25 minutes; writes docs/reliability.md
# make check  test, and that the code is formatted
# make lint   the linters (the first run builds them, which takes minutes)
# make fuzz   each fuzz target for FUZZTIME
# make bench  the benchmarks that match BENCH
# make build  the programs, in bin/: rollcall, and rollcall-load, the load generator (docs/load-testing.md)
# make up     Redis, three gateways, HAProxy and Prometheus with Docker

GO       ?= go
FUZZTIME ?= 10s
BENCH    ?= .
TOOL      = $(GO) tool -modfile=tools/go.mod

.PHONY: build run help test test-faults go-test bench-test browser-test rest-test sdk-test k6-test check format-check lint format fuzz bench up clean
.DEFAULT_GOAL := build

build:
	CGO_ENABLED=0 $(GO) build -trimpath -o bin/ ./cmd/...

run: build
	./bin/rollcall serve --log-format console

help:
	@sed -n '/^#/!q;s/^# //p' Makefile

test: go-test bench-test browser-test rest-test sdk-test k6-test

go-test:
	tools/system-deps.sh
	$(GO) vet ./...
	CI=true CGO_ENABLED=1 $(GO) test -race -shuffle=on -timeout 20m ./...

# Each benchmark once, so that none rots; those of test/perf and BenchmarkIdle take minutes. With the race detector,
# like the tests before it: all but the last step of building is done then.
bench-test:
	tools/system-deps.sh
	CI=true CGO_ENABLED=1 $(GO) test -race -run '^$$' -bench . -skip '^BenchmarkIdle$$' -benchtime 1x -benchmem \
		$$(grep -rlE --include='*_test.go' '^func Benchmark' . | xargs -n1 dirname | sort -u | grep -v '^\./test/perf$$')

test-faults:
	tools/system-deps.sh
	CI=true $(GO) test ./test/faults -count=1 -timeout 45m -full -report $(CURDIR)/docs/reliability.md

browser-test: build
	tools/system-deps.sh
	cd test/browser && npm ci --no-audit --no-fund
	cd test/browser && ROLLCALL_BIN=$(CURDIR)/bin/rollcall node --test

rest-test: build
	tools/system-deps.sh
	cd test/rest && npm ci --no-audit --no-fund
	cd test/rest && ROLLCALL_BIN=$(CURDIR)/bin/rollcall node --test

# The SDKs keep timers, which do not let the process end by itself. From Node 22 on there is a
# WebSocket built in, which does not tell the SDK of a refused connection.
sdk-test: build
	tools/system-deps.sh
	cd test/sdk && npm ci --no-audit --no-fund
	cd test/sdk && ROLLCALL_BIN=$(CURDIR)/bin/rollcall npm test

# The scripts of loadtest/k6, run by a stand-in for k6, and by k6 itself where it is on PATH.
k6-test: build
	tools/system-deps.sh
	cd test/k6 && npm ci --no-audit --no-fund
	cd test/k6 && ROLLCALL_BIN=$(CURDIR)/bin/rollcall npm test

check: format-check test

format-check:
	@files=$$(gofmt -l .); [ -z "$$files" ] || { echo "not formatted; make format does it:"; echo "$$files"; exit 1; }

lint: format-check
	$(TOOL) golangci-lint run
	@files=$$(grep -rl --include='*_test.go' 'time\.Sleep(' . | xargs -r grep -L 'testing/synctest'); \
		[ -z "$$files" ] || { echo "time.Sleep in tests is for synctest bubbles:"; echo "$$files"; exit 1; }

format:
	$(TOOL) gofumpt -w .
	$(TOOL) goimports -w -local github.com/rollcall-presence/rollcall .

fuzz:
	@grep -rHoE --include='*_test.go' '^func Fuzz[A-Za-z0-9_]*' . | sort | while IFS=: read -r file target; do \
		target=$${target#func }; \
		echo "$$file $$target"; \
		$(GO) test "./$$(dirname "$$file")" -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) || exit 1; \
	done

bench:
	$(GO) test -run '^$$' -bench '$(BENCH)' -benchmem ./...

up: .env
	docker compose up --build --detach

# Credentials for docker-compose.yml, random, made once.
.env:
	@umask 077; random() { od -An -N16 -tx1 /dev/urandom | tr -d ' \n'; }; \
		printf 'ROLLCALL_ACCOUNT_SID=AC%s\nROLLCALL_AUTH_TOKEN=%s\nROLLCALL_API_KEY_SID=SK%s\nROLLCALL_API_KEY_SECRET=%s\n' \
		"$$(random)" "$$(random)" "$$(random)" "$$(random)" >$@

clean:
	rm -rf bin dist test/browser/node_modules test/browser/artifacts test/rest/node_modules test/sdk/node_modules \
		test/k6/node_modules

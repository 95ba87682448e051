# syntax=docker/dockerfile:1
FROM golang:1.26 AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN --mount=type=cache,target=/go/pkg/mod go mod download
COPY . .
RUN --mount=type=cache,target=/go/pkg/mod --mount=type=cache,target=/root/.cache/go-build \
    CGO_ENABLED=0 go build -trimpath -ldflags='-s -w' -o /out/rollcall ./cmd/rollcall

FROM scratch
# For rediss:// with a certificate that a public authority signed.
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/
COPY --from=build /out/rollcall /rollcall
USER 65532:65532
EXPOSE 8080
# SIGTERM starts the drain; allow it more than drain_timeout before a kill.
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=5s --timeout=6s --start-period=5s CMD ["/rollcall", "healthcheck"]
ENTRYPOINT ["/rollcall"]

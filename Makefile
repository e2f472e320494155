# Pratique. `make help` lists what there is. Everything here works on a fresh Debian machine with Go, make and git.
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

# What ships is built and tested per module; the workspace (go.work) is for editors.
export GOWORK := off
export GOFLAGS := -buildvcs=false

DATA ?= data
LISTEN ?= 127.0.0.1:8080
IMAGE ?=
SUMMARY ?=
VERSION ?= $(shell git describe --always --dirty 2>/dev/null || echo dev)
LDFLAGS := -s -w -X main.version=$(VERSION)

.PHONY: help
help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | sort | awk -F'\t' '{printf "  %-14s %s\n", $$1, $$2}'

.PHONY: postgres
postgres: ## make sure PostgreSQL's programs are here (installs Debian's package when root)
	@scripts/ensure-postgres

.PHONY: build
build: bin/pratique bin/pratiquectl bin/pratique-step ## bin/pratique, bin/pratiquectl, bin/pratique-step

# Go decides what is stale; these rules only ask it.
.PHONY: bin/pratique bin/pratiquectl bin/pratique-step
bin/pratique:
	@scripts/say "building pratique (the first time downloads modules and takes some minutes)"
	go build -trimpath -ldflags '$(LDFLAGS)' -o $@ ./cmd/pratique
bin/pratiquectl:
	go build -trimpath -ldflags '$(LDFLAGS)' -o $@ ./cmd/pratiquectl
bin/pratique-step:
	@scripts/say "building pratique-step with syft and grype (the first time takes about five minutes)"
	cd steps && go build -trimpath -ldflags '$(LDFLAGS)' -o ../$@ ./cmd/pratique-step

.PHONY: up
up: postgres build ## start everything on this machine, data in ./data (DATA=, LISTEN=)
	bin/pratique up --data '$(DATA)' --listen '$(LISTEN)'

.PHONY: demo
demo: postgres build ## tell the whole story on real images, leave nothing running (IMAGE=registry/repo:tag for one of yours)
	bin/pratique demo $(if $(IMAGE),--image '$(IMAGE)') $(if $(SUMMARY),--summary '$(SUMMARY)')

.PHONY: test
test: postgres bin/pratique-step ## every test but the real-cluster ones
	scripts/test

.PHONY: check
check: ## what CI runs
	.ci/run

.PHONY: bench
bench: postgres ## benchmarks, each beside its limit measured in the same run
	go run ./test/bench

.PHONY: generate
generate: ## regenerate gen/ and the generated documents (developers; needs buf)
	scripts/generate

.PHONY: clean
clean: ## remove what was built
	rm -rf bin

# Sysbox: system containers. "make help" lists the targets.
PREFIX  ?= /usr/local
DESTDIR ?=
PYTHON  := /usr/bin/python3
KERNEL  := src/sysbox/linux/_kernel.abi3.so
CFLAGS  ?= -O2 -Wall -Wextra -Wno-unused-parameter -Wno-missing-field-initializers -Wno-cast-function-type
export PREFIX DESTDIR

help: ## show this list (PREFIX=/usr/local and DESTDIR= can be set)
	@sed -nE 's/^([a-z-]+):.*## (.*)/  \1\t\2/p' $(MAKEFILE_LIST) | expand -t 18

build: $(KERNEL) ## compile the C part and put commands that run this checkout into build/sbin
	@scr/install checkout

$(KERNEL): src/sysbox/linux/_kernel.c
	$(CC) $(CFLAGS) -shared -fPIC $$($(PYTHON) -c 'import sysconfig; print("-I" + sysconfig.get_path("include"))') $< -o $@.new
	@mv $@.new $@

install: $(KERNEL) ## put sysbox-runc, sysbox-mgr and sysbox-fs into PREFIX/sbin, their code into PREFIX/lib/sysbox
	@scr/install install

uninstall: ## remove what install put there (the lines of /etc/subuid and /etc/subgid stay)
	@scr/install uninstall

lint: ## ruff, mypy --strict, shellcheck
	@scr/test lint

test: ## install what the tests need, then lint, unit, container, docker and some guest tests (as root)
	@scr/test all

test-unit: ## unit tests only, with coverage (no root needed once build/venv is there)
	@scr/test unit

test-container: ## container tests only: bundles, no Docker (OCI_RUNTIME=PATH for another runtime)
	@scr/test container

test-docker: ## docker tests only: a dockerd of their own (DOCKER_RUNTIME_PATH=PATH for another sysbox-runc)
	@scr/test docker

test-next: ## with what Debian's testing has today: Docker 28 or newer inside, its kernel under the virtual machine (as root)
	@scr/test next

test-guest: ## all tests in virtual machines: Debian 13 with systemd, cgroup v2, AppArmor and Docker (as root)
	@scr/test guest

bench: ## compare with runc and crun
	@scr/test bench

demo: ## show Docker inside a container that is not privileged (as root)
	@scr/demo

clean-demo: ## remove what the demo made
	@scr/demo clean

clean: ## remove what was built
	rm -rf build $(KERNEL)

.PHONY: help build install uninstall lint test test-unit test-container test-docker test-next test-guest bench demo clean-demo clean

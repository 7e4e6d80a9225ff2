# The one way to run each thing, for a person and for CI. `make demo` needs Debian 12 or 13 (or any Linux with Python 3.11
# or 3.13), `make test` adds the training extras and needs 3.11. Stamps in .venv remember what is installed; `make clean` forgets it.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

STRATEGY ?= option_scalper
TAPE = $(shell .venv/bin/python -m daemon.tapes $(STRATEGY))
RUNTIME ?= cpu
PYTEST_ARGS ?=
# Many tests wait for a daemon or a server, so four processes keep two cores busy. A file's tests stay together; the
# longest files come first (tests/conftest.py), where pytest-xdist alone would begin with the files of most tests.
TEST_PROCESSES ?= 4
LIFE_ARGS ?= --orders 2 --faults 3
CHAOS_ARGS ?= --sessions 500 --parallel 3
DESKS_ARGS ?= --sessions 20
ONLINE_ARGS ?=
LEARN_ARGS ?=
COVERAGE_MIN := 97
PIP := .venv/bin/python -m pip --disable-pip-version-check

.PHONY: help demo training test lint format bench bench-train bench-flips bench-noise bench-promotion bench-planted off-policy-coverage site notebooks mutants soak learn online chaos chaos-desks chaos-gateway order-life years years-gateway years-find install install-trainer prune dist images check-images check-deploy check-units debian-tools dashboard vendor clean

help:
	@echo "make demo      install the daemon and run a bundled tape through it (dry run, no account needed);"
	@echo "               STRATEGY=NAME shows another strategy (regime_switcher, daily_rebalancer, forecast_ensemble, online_dqn)"
	@echo "               MODEL=VERSION another version of the store"
	@echo "make learn     a policy learns a made-up market while you watch, and trades it in the dry run"
	@echo "make online    a desk learns while it trades: from no model to a new champion in 19 sessions of a made-up market"
	@echo "make test      install everything, then lint, type check and test with coverage"
	@echo "make training  install what train-and-export, the tests and the loopback Alpaca need (1.9 GB, most of it torch)"
	@echo "make lint      the static checks alone; make format fixes what it can"
	@echo "make chaos     the fault campaign: 500 sessions at a loopback Alpaca, 15 minutes"
	@echo "make chaos-desks  five desks on one host, 20 sessions with their nights under faults, 15 minutes"
	@echo "make chaos-gateway  three desks behind one gateway, 200 mornings under faults"
	@echo "make years YEARS=1 SEED=1  whole desks in one process each, in virtual time, from one seed; kept in years.jsonl and gone on with"
	@echo "make years-gateway  a gateway and three desks in one process a run, in virtual time (YEARS_ARGS=\"--seed 1 --runs 20\")"
	@echo "make years-find  which of the defects that were mended once do these years find? (FIND=\"NAMES\", FIND_ARGS=\"--focused\")"
	@echo "make order-life  all that can happen to two orders under three faults, state by state; hours (LIFE_ARGS=\"--minutes 8\" ends it)"
	@echo "make bench     the daemon's benchmarks, as JSON"
	@echo "make mutants   500 small changes of core, gates, reconcile and journal: how many do the tests see? (kept and gone on with)"
	@echo "make bench-nautilus  replays against NautilusTrader's backtest of the same bars, in alternation, as JSON"
	@echo "make bench-train  training against Stable-Baselines3, in steps a second and in seconds to the same score, as JSON"
	@echo "make bench-promotion  how often noise and planted edges pass the criteria of promotion, as a table"
	@echo "make bench-planted  trained markets with an edge and of noise, by the presets of the shipped versions; many hours, kept and gone on with"
	@echo "make bench-flips  how often online learning recovers after the rule of a planted market flipped; ten seeds, kept and gone on with"
	@echo "make bench-noise  how often a challenger passes its card where nothing can be learned; ten seeds, kept and gone on with"
	@echo "make off-policy-coverage  how often the intervals of the off-policy card hold the truth: 10,000 logs, as JSON"
	@echo "make soak      twenty sessions of live trading at a loopback broker in 17 minutes, as JSON"
	@echo "make install   put daemon, units and an example configuration on a trading host (docs/TRADING_HOST.md)"
	@echo "make dist      build the wheel into dist/ and prove it in an empty environment (DIST_PYTHON names its Python)"
	@echo "make prune     remove releases there that neither runs, nor is the current or the former one"
	@echo "make notebooks run the notebooks of docs/notebooks; with their outputs they are in site/notebooks"
	@echo "make site      the manuals as a site with search, and the reference of all commands and keys: site/html"
	@echo "make dashboard run the demo, then show it at http://127.0.0.1:8420 until Ctrl-C"
	@echo "make vendor    fetch the dashboard's chart library from the npm registry again"
	@echo "make check-units  let systemd's own tools judge the units"
	@echo "make images    build the four container images (deploy/README.md); make check-images runs all four for a session"
	@echo "make check-deploy  let hadolint, kubernetes-validate, checkov and kustomize judge images and manifests"
	@echo "make clean     remove the environment and all caches"

.venv/bin/python:
	@python=$$(command -v python3.11 || command -v python3 || true); \
	if [ -z "$$python" ]; then echo "make: found no python3; Python 3.11 is needed, or 3.13 without training (Debian: apt-get install python3)" >&2; exit 1; fi; \
	version=$$($$python -c 'import sys; print("%d.%d" % sys.version_info[:2])'); \
	case $$version in 3.11|3.13) ;; *) \
	  echo "make: $$python is Python $$version; 3.11 is needed, or 3.13 without training: install python3.11 and python3.11-venv" >&2; exit 1;; esac; \
	if ! $$python -c 'import venv, ensurepip' 2>/dev/null; then \
	  if [ "$$(id -u)" != 0 ]; then echo "make: Python's venv is missing: run 'apt-get install python3-venv' as root" >&2; exit 1; fi; \
	  echo "== installing the Debian package python3-venv, which is missing"; \
	  apt-get update -qq; DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends python3-venv >/dev/null; fi; \
	echo "== creating .venv with $$python"; \
	$$python -m venv .venv

# A stamp for each runtime: another one than the installed is asked for, and refused, by name.
.venv/.installed-daemon-$(RUNTIME): pyproject.toml constraints.txt | .venv/bin/python
	@if [ $(RUNTIME) = gpu ]; then other=onnxruntime; else other=onnxruntime-gpu; fi; \
	if $(PIP) show -q $$other 2>/dev/null; then \
	  echo "make: .venv has $$other, which cannot live beside the runtime '$(RUNTIME)': run 'make clean' first" >&2; exit 1; fi
	@echo "== installing the daemon and its libraries ($(RUNTIME)) into .venv, versions from constraints.txt"
	@$(PIP) install --quiet --use-pep517 -c constraints.txt -e '.[$(RUNTIME)]'
	@touch $@

.venv/.installed-tests: pyproject.toml constraints.txt .venv/.installed-daemon-$(RUNTIME)
	@.venv/bin/python -c 'import sys; v = sys.version_info; v[:2] == (3, 11) or sys.exit(f"make: .venv has Python {v[0]}.{v[1]}, with which daemon and demo run; training and tests need 3.11: install python3.11 and python3.11-venv, then make clean")'
	@echo "== installing the tools of tests and training (torch among them) into .venv"
	@$(PIP) install --quiet --use-pep517 -c constraints.txt -e '.[$(RUNTIME),dev,years,training,scale,online,notify,mcp,notebooks]'
	@.venv/bin/python -c 'import torch; print("== torch", torch.__version__, "is", "CUDA " + torch.version.cuda if torch.version.cuda else "CPU only")'
	@touch $@

# The years need no training: they run with Python 3.13 too.
.venv/.installed-years: pyproject.toml constraints.txt .venv/.installed-daemon-$(RUNTIME)
	@$(PIP) install --quiet --use-pep517 -c constraints.txt -e '.[$(RUNTIME),years]'
	@touch $@

training: .venv/.installed-tests
	@echo "== .venv has what train-and-export, the tests and the loopback Alpaca need"

demo: .venv/.installed-daemon-$(RUNTIME)
	@tape="$(TAPE)"; [ -n "$$tape" ] || exit 2; \
	state=$$(mktemp -d -t rltrader-demo.XXXXXX); shown="$(if $(MODEL),$(MODEL)  by version $(MODEL),$$(.venv/bin/python -m daemon.models $(STRATEGY)))"; \
	echo "== dry run over $$tape$${shown#* }, state in $$state"; \
	RLTRADER_POLICY__VERSION=$${shown%% *} .venv/bin/rltraderd --dry-run --strategy $(STRATEGY) --bars "$$tape" --state-dir "$$state"

dashboard: .venv/.installed-daemon-$(RUNTIME)
	@tape="$(TAPE)"; [ -n "$$tape" ] || exit 2; \
	state=$$(mktemp -d -t rltrader-demo.XXXXXX); shown=$$(.venv/bin/python -m daemon.models $(STRATEGY)); \
	RLTRADER_POLICY__VERSION=$${shown%% *} .venv/bin/rltraderd --dry-run --strategy $(STRATEGY) --bars "$$tape" --state-dir "$$state"; \
	.venv/bin/rltrader-dashboard --state-dir "$$state" --models-dir onnx_models --runs-dir "$$state" $(addprefix --runs-dir ,$(wildcard runs))

.venv/.installed-docs: pyproject.toml constraints.txt .venv/.installed-tests
	@echo "== installing the tools of the site into .venv"
	@$(PIP) install --quiet --use-pep517 -c constraints.txt -e '.[$(RUNTIME),docs]'
	@touch $@

notebooks: .venv/.installed-tests
	@.venv/bin/python docs/notebooks/run.py site/notebooks

# Only installing reaches another host.
site: .venv/.installed-docs notebooks
	@.venv/bin/python docs/site/make_site.py site
	@echo "== site/html; look at it with: .venv/bin/python -m http.server --bind 127.0.0.1 --directory site/html 8000"

lint: .venv/.installed-tests
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/lint-imports

# Each test process would else compile all tests for itself; an import that fails ends it here.
.PHONY: compiled
compiled: .venv/.installed-tests
	@said=$$(.venv/bin/python -m pytest --collect-only -qq 2>&1) || { tail -n 50 <<< "$$said"; exit 1; }

# Each test process, and each of the hundreds that they start, would else compile the project anew.
test: export PYTHONDONTWRITEBYTECODE :=
# One thread for each process: several wait for one another at the end of each product, and spin meanwhile.
test: export OMP_NUM_THREADS := 1
# Ray's workers are as nice as the rest: at Ray's own 15 they stand still beside three busy test processes.
test: export RAY_worker_niceness := 0
test: debian-tools
	@$(MAKE) --no-print-directory -j 2 lint compiled
	.venv/bin/python -m pytest -n $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder --cov=strategies --cov=daemon.core --cov-fail-under=$(COVERAGE_MIN) $(PYTEST_ARGS)

format: .venv/.installed-tests
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .

bench: .venv/.installed-tests
	@for bench in answers burst daily dashboard latency metrics mqtt publisher replay trades; do .venv/bin/python -m "bench.bench_$$bench"; done
	@.venv/bin/python -m bench.live.recovery
	@.venv/bin/python -m bench.live.exits
	@.venv/bin/python -m bench.live.protection
	@.venv/bin/python -m bench.live.gateway

# Each peer has an environment of its own: it is installed here on request, and is no dependency. NautilusTrader 1.221 is
# the last one for Python 3.11; NAUTILUS_PYTHON names a Python 3.12 or newer for those after it. OUR_PYTHON runs our replay.
NAUTILUS_PYTHON ?= $(shell for python in python3.13 python3.12; do $$python -c 'import sys; print(sys.executable)' 2>/dev/null && break; done)
OUR_PYTHON ?= .venv/bin/python
NAUTILUS_VERSIONS ?= 1.221.0$(if $(NAUTILUS_PYTHON), 1.231.0 2.0.0rc7)
NAUTILUS := $(foreach version,$(NAUTILUS_VERSIONS),.venv/peers/nautilus-$(version)/bin/nautilus)
.venv/peers/nautilus-%/bin/nautilus: bench/peers/nautilus.txt | .venv/bin/python
	@echo "== installing NautilusTrader $* into .venv/peers" >&2
	@$(if $(filter 1.221.%,$*),.venv/bin/python,$(NAUTILUS_PYTHON)) -m venv .venv/peers/nautilus-$*
	@.venv/peers/nautilus-$*/bin/python -m pip --disable-pip-version-check install --quiet nautilus_trader==$* -r $<
	@ln -sf python $@

.PHONY: bench-nautilus
bench-nautilus: .venv/.installed-tests $(NAUTILUS)
	@.venv/bin/python -m bench.peers.bench_nautilus --ours $(OUR_PYTHON) $(NAUTILUS_ARGS) $(NAUTILUS)

# Studies of an hour and more: each keeps its parts in a file, and goes on there.
STUDIES ?= .studies

# Cosmic Ray has an environment of its own, too. A sample takes an hour or two; a stopped one goes on.
MUTANTS := .venv/peers/mutants
$(MUTANTS)/.installed: bench/mutants/requirements.txt | .venv/bin/python
	@echo "== installing Cosmic Ray into $(MUTANTS)" >&2
	@.venv/bin/python -m venv $(MUTANTS)
	@$(MUTANTS)/bin/python -m pip --disable-pip-version-check install --quiet -r bench/mutants/requirements.txt coverage
	@touch $@

mutants: .venv/.installed-tests $(MUTANTS)/.installed
	@$(MUTANTS)/bin/python bench/mutants/sample.py --into $(STUDIES)/mutants $(MUTANTS_ARGS)

bench-train: .venv/.installed-tests
	.venv/bin/python -m bench.bench_market
	.venv/bin/python -m bench.bench_forecast
	.venv/bin/python -m bench.bench_sweep --alone 5
	.venv/bin/python -m bench.training.bench_train
	.venv/bin/python -m bench.training.bench_off_policy
	.venv/bin/python -m bench.training.bench_dqn
	.venv/bin/python -m bench.training.bench_matched
	.venv/bin/python -m bench.training.bench_ensemble
	.venv/bin/python -m bench.training.train_forecaster

off-policy-coverage: .venv/.installed-tests
	@OMP_NUM_THREADS=1 .venv/bin/python -m bench.training.off_policy_coverage --into $(STUDIES)/coverage

bench-promotion: .venv/.installed-tests
	@OMP_NUM_THREADS=1 .venv/bin/python -m bench.training.bench_promotion

bench-planted: .venv/.installed-tests
	@OMP_NUM_THREADS=1 .venv/bin/python -m bench.planted.study --into $(STUDIES)/planted $(PLANTED_ARGS)

bench-flips: .venv/.installed-tests
	@.venv/bin/python -m bench.training.flips --into $(STUDIES)/flips

bench-noise: .venv/.installed-tests
	@.venv/bin/python -m bench.training.flips --noise --into $(STUDIES)/noise

soak: .venv/.installed-tests
	@.venv/bin/python -m bench.soak

learn: .venv/.installed-tests
	@.venv/bin/train-and-export learn $(LEARN_ARGS)

online: .venv/.installed-tests
	@command -v redis-server >/dev/null || { echo "make: redis-server is missing: run 'apt-get install redis-server' as root" >&2; exit 1; }
	@.venv/bin/python -m simulator.online $(ONLINE_ARGS)

chaos: .venv/.installed-tests
	.venv/bin/python -m tests.chaos $(CHAOS_ARGS)

chaos-desks: .venv/.installed-tests
	.venv/bin/python -m tests.chaos.desks $(DESKS_ARGS)

chaos-gateway: .venv/.installed-tests
	.venv/bin/python -m tests.chaos.gateway $(GATEWAY_ARGS)

years: .venv/.installed-years
	PYTHONHASHSEED=0 OMP_NUM_THREADS=1 .venv/bin/python -m tests.years --years $(or $(YEARS),1) --seed $(or $(SEED),1) $(YEARS_ARGS)

years-gateway: .venv/.installed-years
	PYTHONHASHSEED=0 OMP_NUM_THREADS=1 .venv/bin/python -m tests.years.gateway $(YEARS_ARGS)

years-find: .venv/.installed-years
	PYTHONHASHSEED=0 OMP_NUM_THREADS=1 .venv/bin/python -m tests.years --find $(FIND) --seed $(or $(SEED),1) $(FIND_ARGS)

order-life: .venv/.installed-years
	.venv/bin/python -m tests.years.order_life $(LIFE_ARGS)

# On a trading host (docs/TRADING_HOST.md). DESTDIR stages the whole tree under another root, for a package.
PREFIX ?= /opt/rltrader
ETC := $(DESTDIR)/etc/rltrader
UNITS := $(DESTDIR)/usr/local/lib/systemd/system
HERE := $(DESTDIR)$(PREFIX)
# Each release has a folder of its own, named by what it was made from; `current` is the one that runs, the former stays.
# umask 022: the daemon's user reads what root installs, however strict root's own umask is.
RELEASE = $(shell { find daemon rltrader strategies -type f ! -path '*/__pycache__/*' | LC_ALL=C sort | xargs sha256sum; \
	cat pyproject.toml constraints.txt; echo $(RUNTIME); } | sha256sum | cut -c1-12)

install: .venv/bin/python
	@case "$$(readlink -f .venv/bin/python)" in /root/*|/home/*) \
	  echo "make: warning: $$(readlink -f .venv/bin/python) lies in a home folder, which the units hide from the daemon: use Debian's python3" >&2;; esac
	@umask 022; release=$(HERE)/releases/$(RELEASE); venv=$$release/venv; \
	echo "== $$venv: the daemon and its libraries ($(RUNTIME)), versions from constraints.txt"; \
	if [ -s $$release/code ]; then echo "== it is there already"; else \
	  rm -rf $$release build; install -d $$release; .venv/bin/python -m venv $$venv; \
	  $$venv/bin/python -m pip --disable-pip-version-check install --quiet --use-pep517 -c constraints.txt '.[$(RUNTIME),online,notify]'; rm -rf build; \
	  [ -z "$(DESTDIR)" ] || { grep -rlI '$(DESTDIR)' $$venv/bin $$venv/pyvenv.cfg || true; } | xargs -r sed -i 's|$(DESTDIR)||g'; \
	  (cd /; "$$venv/bin/python" -c 'from daemon.engine.recover import code_digest; print(code_digest())') > $$release/code.new; \
	  mv $$release/code.new $$release/code; fi
	@former=$$(readlink $(HERE)/current || true); \
	if [ -n "$$former" ] && [ "$$former" != releases/$(RELEASE) ]; then \
	  ln -sfn "$$former" $(HERE)/former; echo "== the former release stays: $$former (code $$(cat $(HERE)/$$former/code))"; fi; \
	ln -sfn releases/$(RELEASE) $(HERE)/.next; mv -T $(HERE)/.next $(HERE)/current  # at no moment is there none
	@echo "== $(HERE): manuals, drop-ins, and those models that are not there yet"
	@install -d $(HERE)/docs $(HERE)/systemd/monitoring $(HERE)/systemd/mosquitto $(HERE)/systemd/redis $(HERE)/onnx_models
	@install -m 644 systemd/monitoring/* $(HERE)/systemd/monitoring
	@install -m 644 systemd/mosquitto/* $(HERE)/systemd/mosquitto
	@install -m 644 systemd/redis/* $(HERE)/systemd/redis
	@install -m 644 docs/*.md docs/*.png $(HERE)/docs
	@umask 022; $(HERE)/current/venv/bin/python -P -m daemon.cli.ctl reference --into $(HERE)/docs  # lists and schemas, by that release
	@install -m 644 systemd/README.md $(HERE)/systemd
	@for part in systemd/*.conf; do sed 's|/opt/rltrader|$(PREFIX)|g' "$$part" > "$(HERE)/$$part"; chmod 644 "$(HERE)/$$part"; done
	@umask 022; cp -rn --no-preserve=mode onnx_models/. $(HERE)/onnx_models
	@for manifest in onnx_models/*/*/manifest.json; do cmp -s "$$manifest" "$(HERE)/$$manifest" || \
	  echo "== $(PREFIX)/$${manifest%/manifest.json} is another version of this name, and stays"; done
	@install -d $(DESTDIR)/usr/local/bin
	@ln -sfn $(PREFIX)/current/venv/bin/rltrader $(DESTDIR)/usr/local/bin/rltrader
	@ln -sfn $(PREFIX)/current/venv/bin/rltraderd $(DESTDIR)/usr/local/bin/rltraderd
	@ln -sfn $(PREFIX)/current/venv/bin/rltraderctl $(DESTDIR)/usr/local/bin/rltraderctl
	@ln -sfn $(PREFIX)/current/venv/bin/rltrader-dashboard $(DESTDIR)/usr/local/bin/rltrader-dashboard
	@ln -sfn $(PREFIX)/current/venv/bin/rltrader-notify $(DESTDIR)/usr/local/bin/rltrader-notify
	@ln -sfn $(PREFIX)/current/venv/bin/rltrader-guard $(DESTDIR)/usr/local/bin/rltrader-guard
	@ln -sfn $(PREFIX)/current/venv/bin/rltrader-gateway $(DESTDIR)/usr/local/bin/rltrader-gateway
	@echo "== $(UNITS): the units, none enabled, none started"
	@install -d $(UNITS) $(DESTDIR)/usr/local/lib/sysusers.d
	@for unit in systemd/*.service systemd/*.target systemd/*.timer; do \
	  sed 's|/opt/rltrader|$(PREFIX)|g' "$$unit" > "$(UNITS)/$$(basename "$$unit")"; chmod 644 "$(UNITS)/$$(basename "$$unit")"; done
	@install -m 644 systemd/rltrader.sysusers $(DESTDIR)/usr/local/lib/sysusers.d/rltrader.conf
	@echo "== $(ETC): config.toml.example, and config.toml unless there is one"
	@install -d $(ETC)
	@install -d -m 700 $(ETC)/credentials
	@ln -sfn . $(ETC)/credentials/config
	@install -m 644 config.toml $(ETC)/config.toml.example
	@[ -e $(ETC)/config.toml ] || install -m 644 config.toml $(ETC)/config.toml
	@if [ -z "$(DESTDIR)" ] && [ -d /run/systemd/system ]; then \
	  echo "== the user rltrader, and systemd reads its units again"; systemd-sysusers rltrader.conf; systemctl daemon-reload; fi
	@echo "== installed; next: keys, configuration and start as in $(PREFIX)/docs/TRADING_HOST.md"

# The trainer's own environment, with torch, for a desk that learns (docs/TRADING_HOST.md).
TRAINER = $(shell { find daemon rltrader strategies training -type f ! -path '*/__pycache__/*' | LC_ALL=C sort | xargs sha256sum; \
	cat pyproject.toml constraints.txt; } | sha256sum | cut -c1-12)

install-trainer: install
	@umask 022; trainer=$(HERE)/trainers/$(TRAINER); echo "== $$trainer/venv: the trainer with torch, versions from constraints.txt"; \
	if [ -e $$trainer/whole ]; then echo "== it is there already"; else \
	  rm -rf $$trainer build; install -d $$trainer; .venv/bin/python -m venv $$trainer/venv; \
	  $$trainer/venv/bin/python -m pip --disable-pip-version-check install --quiet --use-pep517 -c constraints.txt '.[cpu,online,training]'; rm -rf build; \
	  [ -z "$(DESTDIR)" ] || { grep -rlI '$(DESTDIR)' $$trainer/venv/bin $$trainer/venv/pyvenv.cfg || true; } | xargs -r sed -i 's|$(DESTDIR)||g'; \
	  touch $$trainer/whole; fi
	@ln -sfn trainers/$(TRAINER) $(HERE)/.next; mv -T $(HERE)/.next $(HERE)/trainer

# Maps of processes name their files: whoever runs from a release needs it to its end.
prune:
	@[ -n "$(DESTDIR)" ] || [ "$$(id -u)" = 0 ] || { echo "make: only root sees what other users' processes use" >&2; exit 1; }
	@for release in $(HERE)/releases/*; do name=releases/$$(basename $$release); \
	  if [ "$$name" = "$$(readlink $(HERE)/current || true)" ] || [ "$$name" = "$$(readlink $(HERE)/former || true)" ]; then \
	    echo "== $$name stays: a link names it"; \
	  elif grep -qsF "$$(realpath $$release)/" /proc/[0-9]*/maps; then echo "== $$name stays: a process runs from it"; \
	  else rm -rf "$$release"; echo "== $$name is removed"; fi; done

check-units: .venv/.installed-tests debian-tools
	@command -v systemd-analyze >/dev/null || { echo "make: systemd-analyze is missing: run 'apt-get install systemd' as root" >&2; exit 1; }
	.venv/bin/python -m pytest tests/process/host/test_systemd.py

# The wheel, proven far from the checkout.
DIST_PYTHON ?= .venv/bin/python
dist: .venv/bin/python
	@rm -rf dist build
	@$(PIP) wheel --quiet --no-deps --wheel-dir dist .
	@rm -rf build
	@PYTHON=$(DIST_PYTHON) deploy/prove-wheel dist/rltrader-*.whl

images:
	deploy/images/build

# Root only: it mounts the images' roots.
check-images: .venv/.installed-tests debian-tools
	.venv/bin/python -m tests.support.deploy.check_images

# The judges have an environment of their own: their libraries are none of ours.
JUDGES := .venv/deploy
$(JUDGES)/.installed: deploy/judges.txt | .venv/bin/python
	@echo "== installing hadolint, kubernetes-validate and checkov into $(JUDGES)"
	@.venv/bin/python -m venv $(JUDGES)
	@$(JUDGES)/bin/python -m pip --disable-pip-version-check install --quiet -r deploy/judges.txt
	@touch $@

check-deploy: $(JUDGES)/.installed
	PATH=$(JUDGES)/bin:$$PATH deploy/check

# Programs of Debian that the tests drive: systemd's judge of units, an MQTT broker and its clients, Redis, a browser and what
# the browser's driver needs, Prometheus' judge of metrics and rules, openssl. The tests that need one are skipped with a reason where it
# is missing and nobody may install it.
debian-tools:
	@missing=""; \
	command -v systemd-analyze >/dev/null || missing="$$missing systemd"; \
	command -v mosquitto >/dev/null || [ -x /usr/sbin/mosquitto ] || missing="$$missing mosquitto"; \
	command -v mosquitto_sub >/dev/null || missing="$$missing mosquitto-clients"; \
	command -v chromium >/dev/null || missing="$$missing chromium"; \
	command -v promtool >/dev/null || missing="$$missing prometheus"; \
	command -v redis-server >/dev/null || missing="$$missing redis-server"; \
	command -v openssl >/dev/null || missing="$$missing openssl"; \
	ldconfig -p | grep -q 'libatomic\.so\.1' || missing="$$missing libatomic1"; \
	if [ -n "$$missing" ] && [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  echo "== installing the Debian packages$$missing for the tests (nothing of them is started)"; \
	  made=""; [ -e /usr/sbin/policy-rc.d ] || { made=1; printf '#!/bin/sh\nexit 101\n' > /usr/sbin/policy-rc.d; chmod 755 /usr/sbin/policy-rc.d; }; \
	  trap '[ -z "$$made" ] || rm -f /usr/sbin/policy-rc.d' EXIT; apt-get update -qq; \
	  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing >/dev/null; \
	elif [ -n "$$missing" ]; then echo "== missing, their tests are skipped:$$missing"; fi

# TradingView Lightweight Charts as the dashboard serves it, from the npm registry; it stands in the repository already.
vendor:
	@command -v npm >/dev/null || { echo "make: npm is missing: run 'apt-get install npm' as root" >&2; exit 1; }
	@bash daemon/dashboard/static/vendor/fetch.sh

clean:
	rm -rf .venv build dist .studies site *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache .coverage htmlcov
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Two commands: `make run` starts everything on this machine, `make test` checks everything.

VENV := .venv
BIN := $(VENV)/bin
SYSTEM_PYTHON ?= $(shell for name in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$name -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$name && break; done)


# `make soak` takes minutes more: servers killed under load, scripts in every page, the whole way by keyboard.

.PHONY: run test soak bench compare messages clean

run: $(VENV)/runs
	@$(BIN)/python -m chatbot_site.local || [ $$? -eq 130 ] # Ctrl-C is no failure

test: $(VENV)/tests
	@PATH="$(abspath $(BIN)):$$PATH" ./.ci/checks

soak: $(VENV)/tests
	@$(BIN)/python -m pytest -m soak

bench: $(VENV)/tests
	@$(BIN)/python -m bench.serving

# Folders with faq.jsonl and questions.jsonl: make compare SETS="one another", or FAQ_SETS=folder for all in it.
FAQ_SETS ?= $(firstword $(wildcard ../shared/data/faq_sets) bench/businesses_apart)
SETS ?= $(patsubst %/,%,$(dir $(wildcard $(FAQ_SETS)/*/questions.jsonl)))

compare: $(VENV)/tests
	@test -n "$(SETS)" || { echo 'No FAQ sets found. make compare SETS="folder folder", faq.jsonl and questions.jsonl in each.'; exit 1; }
	@$(BIN)/python -m bench.compare $(SETS)

messages: $(VENV)/tests
	@SECRET_KEY=unused $(BIN)/python manage.py makemessages --locale es --no-obsolete --no-wrap --add-location file --ignore '.venv/*' --ignore 'var/*' --ignore '*/tests/*'
	@SECRET_KEY=unused $(BIN)/python manage.py compilemessages --ignore '.venv/*'

$(VENV)/runs: requirements.txt | $(VENV)/made
	@echo "Installing the requirements (a few minutes the first time)…"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch $@

$(VENV)/tests: requirements-dev.txt requirements.txt | $(VENV)/made
	@echo "Installing the requirements (a few minutes the first time)…"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	@touch $@ $(VENV)/runs

$(VENV)/made:
	@touch .writable 2>/dev/null && rm .writable || { echo "This folder cannot be written to: $(CURDIR)"; exit 1; }
	@test -n "$(SYSTEM_PYTHON)" || { echo "Python 3.11 or newer is needed and was not found."; exit 1; }
	@$(SYSTEM_PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed; $(SYSTEM_PYTHON) is $$($(SYSTEM_PYTHON) -V)."; exit 1; }
	@$(SYSTEM_PYTHON) -c 'import ensurepip' 2>/dev/null || { echo "Python's venv module is missing: on Debian or Ubuntu, apt install python3-venv."; exit 1; }
	@$(SYSTEM_PYTHON) -m venv $(VENV)
	@touch $@

clean:
	rm -rf $(VENV)

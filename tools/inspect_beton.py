"""Show what a .beton file holds: ``python -m alexnet_fast.inspect_beton`` as a tool of the checkout."""

import sys

try:
    from alexnet_fast.inspect_beton import command
except ModuleNotFoundError as missing:
    again = "run make setup, then .venv/bin/python tools/inspect_beton.py ..."
    sys.stderr.write(f"error: {missing.name} is not installed in {sys.executable}: {again}\n")
    sys.exit(2)

if __name__ == "__main__":
    sys.exit(command("inspect_beton.py"))

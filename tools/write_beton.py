"""Pack a set of images into .beton files, or verify such files: ``python -m alexnet_fast.pack`` as a tool of the checkout."""

import sys

try:
    from alexnet_fast.pack import command
except ModuleNotFoundError as missing:
    again = "run make setup, then .venv/bin/python tools/write_beton.py ..."
    sys.stderr.write(f"error: {missing.name} is not installed in {sys.executable}: {again}\n")
    sys.exit(2)

if __name__ == "__main__":
    sys.exit(command("write_beton.py"))

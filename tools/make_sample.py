"""Make a small labelled set of images without a download: ``python -m alexnet_fast.sample`` as a tool of the checkout."""

import sys

try:
    from alexnet_fast.sample import command
except ModuleNotFoundError as missing:
    again = "run make setup, then .venv/bin/python tools/make_sample.py ..."
    sys.stderr.write(f"error: {missing.name} is not installed in {sys.executable}: {again}\n")
    sys.exit(2)

if __name__ == "__main__":
    sys.exit(command("make_sample.py"))

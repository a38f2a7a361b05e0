import re
from pathlib import Path

from setuptools import find_packages, setup

readme = Path(__file__).with_name("README.md").read_text(encoding="utf-8")
# The recipes are data of the package, in a folder of their own next to it: that is where people look for them.
setup(
    packages=[*find_packages(include=["alexnet_fast*"]), "alexnet_fast.recipes"],
    package_dir={"alexnet_fast.recipes": "recipes"},
    # On the page of an index there is no docs/, so links to files of the repository would lead nowhere: their text stays.
    long_description=re.sub(r"!?\[([^]\n]+)\]\((?!https?:|#)[^)\n]+\)", r"\1", readme),
    long_description_content_type="text/markdown",
)

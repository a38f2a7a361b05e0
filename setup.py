from setuptools import find_packages, setup

# The recipes are data of the package, in a folder of their own next to it: that is where people look for them.
setup(
    packages=[*find_packages(include=["alexnet_fast*"]), "alexnet_fast.recipes"],
    package_dir={"alexnet_fast.recipes": "recipes"},
)

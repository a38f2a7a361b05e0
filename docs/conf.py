"""The documentation site: ``make docs`` builds it into build/docs, with warnings as errors.

Everything that it shows comes from this folder and from the package: no network, no GPU.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE / "_ext")]

from alexnet_fast import __version__  # noqa: E402

project, author, copyright = "alexnet_fast", "alexnet_fast", "Apache-2.0"
version = release = __version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "of_the_package",
]
exclude_patterns = ["_ext", "_static"]
myst_heading_anchors = 3
myst_links_external_new_tab = True
default_role = "code"  # docstrings put `names` between single backticks
autodoc_member_order = "bysource"
# FFCV needs a compiler to install; what our operations say of themselves does not need it.
autodoc_mock_imports = [] if find_spec("ffcv") else ["ffcv"]
autodoc_typehints = "none"  # "Args:" says more than the annotations
napoleon_numpy_docstring = False
napoleon_use_ivar = True

html_theme = "pydata_sphinx_theme"
html_title = "alexnet_fast"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sourcelink = False
html_copy_source = False
html_show_copyright = False
html_theme_options: dict[str, Any] = {
    "logo": {"text": "alexnet_fast"},
    "header_links_before_dropdown": 7,
    "navigation_with_keys": False,
    "show_toc_level": 2,
    "footer_start": ["copyright"],
    "footer_end": ["theme-version"],
    "pygments_light_style": "tango",
    "pygments_dark_style": "monokai",
}


def _language_of_the_page(app: Any, page: str, template: str, context: dict[str, Any], doctree: Any) -> None:
    """A browser chooses fonts and offers translations by the page's language."""
    if page.startswith("zh/"):
        context["language"] = "zh-CN"


def setup(app: Any) -> None:
    app.connect("html-page-context", _language_of_the_page)

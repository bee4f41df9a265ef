"""Sphinx configuration; ``make docs`` builds with warnings as errors."""

import pkgutil

from sphinx.pycode import ModuleAnalyzer

import memcg

project = "memcg"
author = "The memcg maintainers"
copyright = "2026, The memcg maintainers"

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = "memcg"
myst_heading_anchors = 3

default_role = "py:obj"
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True}
autodoc_type_aliases = {"PathOrText": "PathOrText", "Command": "Command", "Stream": "Stream"}
napoleon_use_rtype = False

nitpicky = True
nitpick_ignore_regex = [
    # The standard library: linking to it would take the network.
    ("py:.*", r"(abc|asyncio|collections|datetime|os|pathlib|subprocess|time|typing)\..*"),
    ("py:class", r"(Read|Written|int \| .*|ControlFilesV[12]|PathOrText|Command|Stream|timedelta)"),
    ("py:(class|obj)", r"memcg\.(cgroupfs|controls|spawn|notify)\..*"),
]

# Public names say that they are of the module memcg, and Sphinx looks for the docstrings of attributes where a
# class says that it is from. So let it find there what stands in the modules that really define them.
_public = ModuleAnalyzer.for_module("memcg")
_public.analyze()
for _module in pkgutil.walk_packages(memcg.__path__, "memcg."):
    if not _module.name.endswith(("_ffi", "__main__")):
        _private = ModuleAnalyzer.for_module(_module.name)
        _private.analyze()
        _public.attr_docs.update(_private.attr_docs)
        _public.annotations.update(_private.annotations)
        _public.tagorder.update(_private.tagorder)

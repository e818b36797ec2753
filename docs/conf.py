"""How Sphinx builds the manual and the API reference: `make docs`."""

from __future__ import annotations

import re
from collections.abc import Callable
from inspect import Signature
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx
from sphinx.pycode import ModuleAnalyzer
from sphinx.util.nodes import make_refnode

from ratchet import Ratchet, Thread, __version__, bus, errors, testing, thread

HERE = Path(__file__).parent

project = "ratchet"
author = "The ratchet developers"
version = release = __version__

extensions = ["sphinx.ext.autodoc", "sphinx.ext.autosummary", "sphinx.ext.napoleon"]
exclude_patterns = ["_build", "performance"]

html_theme = "alabaster"
html_title = f"ratchet {release}"
html_theme_options = {
    "description": "Threads on greenlets, and a message bus of requests and responses",
    "fixed_sidebar": True,
    "page_width": "1100px",
    "sidebar_width": "260px",
}
html_static_path = ["_static"]
html_css_files = ["links.css"]
html_copy_source = False
html_show_copyright = False
html_show_sphinx = False

# Only what is marked as Python is a program, and the tests run all of it.
highlight_language = "none"

# `name` in a docstring becomes a link if there is such a name.  Every other
# reference must lead somewhere, unless it is to another project.
default_role = "py:obj"
nitpicky = True
nitpick_ignore_regex = [
    ("py:obj", "(?s).*"),
    ("py:.*", r"(collections|concurrent|contextlib|enum|gevent|greenlet|os|random|ssl|types|typing)\..*"),
    # Type variables and names of types of functions and sockets say enough by themselves.
    ("py:class", r"(.*\.|~)?(Arguments|Object|Positional|Ready|Request|Response|Result|Self)"),
    ("py:class", r"(.*\.)?(Address|Addresses|ErrorHandler|FromBus|Listener|MemoryListener|MemorySocket)"),
    ("py:class", r"(.*\.)?(Middleware|Range|Settings|Socket|ToBus)"),
    # What the two functions return has no name for users.
    ("py:class", r"(.*\.)?Broker(Client|Server)"),
    # A class with parameters keeps the module that it had when it was given them.
    ("py:class", r"ratchet\.bus\._local\.LocalBus"),
]

autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_typehints = "description"
autodoc_typehints_description_target = "all"
napoleon_use_ivar = True


# For each module that names what others hold, where its classes with members are written.
SOURCES = {
    "ratchet.bus": ("_core.client", "_core.handle", "_local", "_socket.client", "_socket.server"),
    "ratchet.testing": ("_faults", "_network", "_simulate", "_time"),
}


def keep_order_of_source(app: Sphinx) -> None:
    """Show members in the order in which they are written, with what is said there.

    The functions are left out: so each is shown once, without its overloads.
    """
    for module, names in SOURCES.items():
        shown = ModuleAnalyzer.for_module(module)
        shown.analyze()
        for name in names:
            source = ModuleAnalyzer.for_module(f"{module}.{name}")
            source.analyze()
            shown.tagorder.update(source.tagorder)
            shown.attr_docs.update(source.attr_docs)


def show_what_users_see(app: Sphinx) -> None:
    """Objects that come from a call hide what they are made of, and errors who makes them."""
    tree = [getattr(errors, name) for name in errors.__all__]
    for made in (
        Thread,
        bus.ServerBus,
        bus.ClientBus,
        bus.LocalBus,
        bus.ClientTransaction,
        bus.ServerTransaction,
        testing.Clock,
        testing.Network,
        testing.Process,
        testing.ScenarioFailed,
        testing.World,
        *tree,
    ):
        made.__signature__ = Signature()
    bus.ClientBus.send_request.__annotations__["return"] = bus.ClientTransaction
    # That a function's arguments are its own is clear.
    for attach in (Ratchet.attach, Ratchet.attach_background, thread.attach, thread.attach_background):
        attach.__annotations__ = {"func": Callable, "return": Thread}


# napoleon takes what stands before a colon in the first line of an attribute's
# docstring for its type.  So it is not shown the colons.
ATTRIBUTES = ("attribute", "data", "property")


def hide_colons(app: Sphinx, what: str, name: str, obj: object, options: Any, lines: list[str]) -> None:
    if what in ATTRIBUTES:
        lines[:] = [line.replace(":", "\0") for line in lines]


def show_colons(app: Sphinx, what: str, name: str, obj: object, options: Any, lines: list[str]) -> None:
    if what in ATTRIBUTES:
        lines[:] = [line.replace("\0", ":") for line in lines]


# How a module's docstring speaks to those who change the module.
RULES = re.compile(r"This module|of ours|`_\w")


def leave_out_rules(app: Sphinx, what: str, name: str, obj: object, options: Any, lines: list[str]) -> None:
    """Leave out of a module's docstring what is not for those who use the module."""
    if what == "module":
        paragraphs = "\n".join(lines).split("\n\n")
        lines[:] = "\n\n".join(text for text in paragraphs if not RULES.search(text)).split("\n")


def look_in_every_module(app: Sphinx, env: Any, node: Any, text: Any) -> Any:
    """A class that a docstring names may be another module's."""
    name = node["reftarget"]
    if node.get("reftype") != "obj" or not name[:1].isupper():
        return None
    found = env.domains["py"].find_obj(env, None, None, name, None, 1)
    if len(found) != 1:
        return None
    ((full_name, entry),) = found
    return make_refnode(app.builder, node["refdoc"], entry.docname, entry.node_id, text, full_name)


def leave_out_results(app: Sphinx, page: str, content: list[str]) -> None:
    """What `make bench` has not written yet is not on the page about performance."""
    if page == "manual/performance":
        for name in ("results.rst", "growth.svg"):
            if not (HERE / "performance" / name).exists():
                content[0] = re.sub(rf"\.\. \w+:: \.\./performance/{name}\n(   .*\n)*", "", content[0])


def setup(app: Sphinx) -> None:
    app.connect("builder-inited", keep_order_of_source)
    app.connect("builder-inited", show_what_users_see)
    app.connect("autodoc-process-docstring", hide_colons, priority=400)
    app.connect("autodoc-process-docstring", show_colons, priority=600)
    app.connect("autodoc-process-docstring", leave_out_rules)
    app.connect("missing-reference", look_in_every_module)
    app.connect("source-read", leave_out_results)

"""Compiles modules of the library from their own sources, where that is possible.

The metadata is in setup.cfg.  Without Cython or a C compiler, and with `RATCHET_PURE_PYTHON=1`,
the library is installed as pure Python.  With `RATCHET_TRACE=1`, the lines of what is compiled
can be traced: by `sys.settrace`, from Python 3.13 on by `sys.monitoring` alone.
"""

import os
import runpy
import time
from glob import glob
from importlib.util import find_spec
from sysconfig import get_config_var

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

HERE = os.path.dirname(os.path.abspath(__file__))
# Importing it would import the package, and that gevent.
COMPILED = runpy.run_path(os.path.join(HERE, "ratchet", "_compiled.py"))
STAMP = COMPILED["STAMP"]

TRACE = os.environ.get("RATCHET_TRACE", "0") not in ("", "0")
DIRECTIVES = {
    "language_level": 3,
    "binding": True,
    "annotation_typing": False,
    # None in place of one of our objects is an error as in Python, and not the end of the process;
    # it takes one instruction in a hundred.
    "nonecheck": True,
    # Whatever may be pickled says so itself.
    "auto_pickle": False,
    "linetrace": TRACE,
    "profile": TRACE,
}
# A greenlet that switches swaps out what the thread state holds, so Cython is not to keep parts of
# it meanwhile; gevent sets this, too.
MACROS = [("CYTHON_FAST_THREAD_STATE", "0"), *([("CYTHON_TRACE", "1")] if TRACE else [])]
# Warnings about generated C are of no use.  What a C debugger needs takes a third of the time and
# seven eighths of the size; whoever sets CFLAGS decides whether it is wanted.
ARGUMENTS = ["-w", *([] if TRACE or "CFLAGS" in os.environ else ["-g0"])]


class BuildAllOrNone(build_ext):
    """Compiles all extensions, or leaves none behind: they call each other in C."""

    failed = False

    def run(self) -> None:
        """Translate to C, beside the objects in build/, and compile that."""
        if not self.extensions:
            return
        import Cython
        from Cython.Build import cythonize

        started = time.time()
        how = f"Cython {Cython.__version__}, {DIRECTIVES}, {MACROS}, {ARGUMENTS}, {os.environ.get('CFLAGS')}"
        self.force = self.force or not os.path.exists(STAMP) or read(STAMP) != how or declared_since(STAMP)
        translated = cythonize(
            self.extensions, build_dir=self.build_temp, compiler_directives=DIRECTIVES, force=self.force
        )
        sources = {extension.name: extension.sources for extension in translated}
        for extension in self.extensions:
            extension.sources = sources[extension.name]
        self.parallel = self.parallel or os.cpu_count()
        super().run()
        if self.inplace:
            # Also if it failed: what is translated is not to be translated again.
            write(STAMP, how)
            # What was changed meanwhile counts as not compiled.
            os.utime(STAMP, (started, started))
        if self.failed:
            self.warn("not everything could be compiled: the library is installed as pure Python")
            self.remove_all_but(set())
        else:
            self.remove_all_but({self.get_ext_filename(extension.name) for extension in self.extensions})

    def build_extension(self, extension: Extension) -> None:
        """Compile one, and remember if it fails: the one of an earlier build may still be there."""
        try:
            super().build_extension(extension)
        except BaseException:
            self.failed = True
            raise

    def remove_all_but(self, kept: set[str]) -> None:
        """Remove what an earlier build has left for this Python."""
        for folder in [self.build_lib, *([HERE] if self.inplace else [])]:
            for path in glob(f"ratchet/**/*{get_config_var('EXT_SUFFIX')}", root_dir=folder, recursive=True):
                if path not in kept:
                    os.remove(os.path.join(folder, path))


def declared_since(path: str) -> bool:
    """Whether a `.pxd` is newer, which Cython does not look at."""
    when = os.stat(path).st_mtime
    return any(os.stat(pxd).st_mtime > when for pxd in COMPILED["declarations"]())


def read(path: str) -> str:
    with open(path, encoding="utf-8") as file:
        return file.read()


def write(path: str, text: str) -> None:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)


def extensions() -> list[Extension]:
    """Those that can be built here."""
    if COMPILED["pure_is_asked_for"]() or find_spec("Cython") is None:
        return []
    greenlet = find_spec("greenlet")
    headers = None if greenlet is None else greenlet.submodule_search_locations
    return [
        Extension(
            name,
            [name.replace(".", "/") + ".py"],
            include_dirs=list(headers or []),
            define_macros=MACROS,
            extra_compile_args=ARGUMENTS,
            optional=True,
        )
        for name in COMPILED["MODULES"]
    ]


setup(cmdclass={"build_ext": BuildAllOrNone}, ext_modules=extensions())

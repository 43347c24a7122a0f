"""Python's own documentation as supervised data that needs no download: what a function does, in its author's sentence.

The texts are read from the running interpreter (PSF licence), so their number varies a little with its version.
"""

import importlib
import inspect
import re
import warnings
from collections.abc import Iterator

from spin_llm.records import Example

# Standard modules that can be imported anywhere without a window, a network or a side effect.
MODULES = """
abc argparse array ast asyncio base64 bdb binascii bisect builtins bz2 calendar cmath cmd code codecs codeop collections
colorsys compileall concurrent.futures configparser contextlib contextvars copy copyreg csv ctypes dataclasses datetime
dbm decimal difflib dis doctest email email.message email.utils enum errno faulthandler filecmp fileinput fnmatch
fractions ftplib functools gc genericpath getopt getpass gettext glob graphlib gzip hashlib heapq hmac html html.parser
http.client http.cookies http.server imaplib importlib importlib.metadata importlib.resources inspect io ipaddress
itertools json keyword linecache locale logging logging.handlers lzma mailbox marshal math mimetypes mmap modulefinder
multiprocessing netrc numbers operator optparse os os.path pathlib pdb pickle pickletools pkgutil platform plistlib
poplib posixpath pprint profile pstats py_compile pyclbr pydoc queue quopri random re reprlib runpy sched secrets
selectors shelve shlex shutil signal site smtplib socket socketserver sqlite3 ssl stat statistics string stringprep
struct subprocess symtable sys sysconfig tabnanny tarfile tempfile textwrap threading timeit token tokenize tomllib
trace traceback tracemalloc types typing unicodedata unittest unittest.mock urllib.parse urllib.request uuid warnings
wave weakref webbrowser xml.dom.minidom xml.etree.ElementTree xmlrpc.client zipapp zipfile zipimport zoneinfo
""".split()  # noqa: SIM905 - a list of 160 quoted names would be harder to read


def docstring_examples() -> list[Example]:
    """Every public function, class and method of the standard library whose documentation opens with a clear sentence.

    The sentence has 20 to 110 ASCII characters, begins with a capital and ends with a period; each is taken once. The
    id's first word, up to a dot, is the module: hold out by it, as families of classes share their sentences.
    """
    found: dict[str, Example] = {}
    for module in MODULES:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                home = importlib.import_module(module)
            except ImportError:
                continue  # not on every platform
            for name, thing in _public(home, module):
                sentence = _first_sentence(thing)
                if sentence and sentence not in found:
                    asked = f"What does Python's {name} do?"
                    found[sentence] = Example(name, ({"role": "user", "content": asked},), sentence)
    return list(found.values())


def module_of(example: Example) -> str:
    """The top-level module an example is about."""
    return example.id.partition(".")[0]


def _public(home: object, module: str) -> Iterator[tuple[str, object]]:
    for name in sorted(getattr(home, "__all__", None) or dir(home)):
        thing = getattr(home, name, None)
        if name.startswith("_") or not (inspect.isroutine(thing) or inspect.isclass(thing)):
            continue
        if getattr(thing, "__module__", module) not in (module, None) and not hasattr(home, "__all__"):
            continue  # imported from elsewhere
        full = name if module == "builtins" else f"{module}.{name}"
        yield full, thing
        if inspect.isclass(thing):
            for inner in sorted(vars(thing)):
                if not inner.startswith("_") and inspect.isroutine(getattr(thing, inner, None)):
                    yield f"{full}.{inner}", getattr(thing, inner)


def _first_sentence(thing: object) -> str | None:
    try:
        text = inspect.getdoc(thing) or ""
    except Exception:  # a descriptor of odd construction
        return None
    paragraph = " ".join(text.split("\n\n")[0].split())
    match = re.match(r"[A-Z].*?\.(?=\s|$)", paragraph)
    sentence = match[0] if match else ""
    return sentence if 20 <= len(sentence) <= 110 and sentence.isascii() and sentence.isprintable() else None

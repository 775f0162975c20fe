"""Before anything else is imported: is this the Python that the packages were installed for?

Written so that an older Python can read it too, up to where it is told.
"""

import sys

NEEDED = ("hydra", "omegaconf", "pydantic", "yaml", "numpy", "pyarrow", "torch", "transformers")
FIX = "run `make setup` once and then .venv/bin/python, or `pip install .` here"


def check_environment():  # type: ignore[no-untyped-def]
    """Ends the process with one line where packages are missing or Python is too old."""
    if sys.version_info < (3, 11):  # noqa: UP036
        found = "%d.%d" % sys.version_info[:2]  # noqa: UP031
        sys.exit("error: Python 3.11 or newer is needed, and this is %s; %s" % (found, FIX))  # noqa: UP031
    from importlib.util import find_spec

    if missing := [name for name in NEEDED if find_spec(name) is None]:
        sys.exit(f"error: this Python ({sys.executable}) has no {', '.join(missing)}; {FIX}")

"""Ray Serve is imported once, without its warnings; where it is missing, each test file says so."""

import contextlib
import warnings

with warnings.catch_warnings(), contextlib.suppress(ModuleNotFoundError):
    warnings.simplefilter("ignore")  # pydantic dislikes how Ray describes its fields
    from ray import serve  # noqa: F401

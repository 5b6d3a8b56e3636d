"""Ray Serve is imported once, without its warnings."""

import warnings

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # pydantic dislikes how Ray describes its fields
    from ray import serve  # noqa: F401

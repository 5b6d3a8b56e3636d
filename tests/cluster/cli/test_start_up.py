"""What is quick to answer imports nothing that is slow to import."""

import json
import signal

import pytest

from tests.support.commands import start_process

SLOW = ("torch", "ray", "diffusers", "transformers", "av", "numpy", "pydantic_settings", "PIL")
CODE = """
import contextlib, io, json
from reelray.cluster.cli import main
with contextlib.redirect_stdout(io.StringIO()) as said:
    code = main(sys.argv[1:])
print(json.dumps([code, said.getvalue(), sorted(sys.modules)]))
"""


def run(tmp_path, *arguments):
    with start_process(CODE, tmp_path, *arguments) as process:
        out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    code, said, modules = json.loads(out)
    return code, said, {name.split(".")[0] for name in modules}


@pytest.mark.parametrize(
    "arguments", [["--help"], ["--version"], ["version"], ["render", "--help"], ["plan", "--help"]]
)
def test_help_and_version_import_nothing_slow(tmp_path, arguments):
    code, said, modules = run(tmp_path, *arguments)
    assert code == 0
    assert said.startswith(("Usage: reelray", "reelray 0."))
    assert not modules & set(SLOW)


@pytest.mark.parametrize("arguments", [["settings"], ["models"], ["render", " "], ["plan"]])
def test_what_needs_no_engine_imports_neither_torch_nor_ray(tmp_path, arguments):
    _, _, modules = run(tmp_path, *arguments)
    assert not modules & {"torch", "ray", "diffusers", "transformers", "av"}


INTERRUPTED = """
import signal, types
from reelray.__main__ import main

class Interrupting(types.ModuleType):
    def __getattr__(self, name):
        signal.raise_signal(signal.SIGINT)

sys.modules["reelray.cluster.cli"] = Interrupting("reelray.cluster.cli")
main()
"""


def test_ctrl_c_while_importing_leaves_no_stack_trace(tmp_path):
    with start_process(INTERRUPTED, tmp_path) as process:
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (-signal.SIGINT, "", "")

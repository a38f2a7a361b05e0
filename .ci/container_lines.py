"""A Containerfile's lines as a shell script, to be tried in a chroot where no container engine is: python container_lines.py FILE SOURCE

Knows what ours uses: ARG, ENV, RUN, COPY . DIR, USER.  FROM is the chroot; what starts a container is printed as a comment.
"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path


def script(text: str, source: str) -> str:
    """The script. source: the folder that COPY copies."""
    lines, user = ["set -e"], "root"
    joined = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#")).replace(
        "\\\n", " "
    )
    for line in filter(None, map(str.strip, joined.splitlines())):
        word, _, rest = line.partition(" ")
        if word == "ARG":
            name, _, value = rest.partition("=")
            lines.append(f'export {name}="${{{name}:-{value.strip(chr(34))}}}"')
        elif word == "ENV":
            lines.append(f"export {rest}")
        elif word == "COPY":
            origin, to = rest.split()
            if origin != ".":
                raise SystemExit(f"error: COPY {rest}: only COPY . DIR is known")
            lines.append(f"mkdir -p {to} && cp -r {shlex.quote(source)}/. {to}")
        elif word == "USER":
            user = rest
        elif word == "RUN":
            as_user = f"runuser -u {user} -- env HOME=/home/{user} sh -ec {shlex.quote(rest)}"
            # In a shell of its own, as an engine does it; "set -e" alone passes over a failure left of "&&".
            lines.append(f"( {rest if user == 'root' else as_user} ) || exit 1")
        elif word in ("FROM", "WORKDIR", "ENTRYPOINT", "CMD"):
            lines.append(f"# {line}")
        else:
            raise SystemExit(f"error: {line}: this instruction is not known")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(script(Path(sys.argv[1]).read_text(encoding="utf-8"), sys.argv[2]), end="")

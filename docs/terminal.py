"""Take the README's picture: run real commands on a pseudo-terminal in an empty folder and draw what they print.

python -m docs.terminal          writes docs/terminal.svg
"""

import os
import pty
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console
from rich.text import Text

PICTURE = Path(__file__).resolve().parent / "terminal.svg"
WIDTH = 110
COMMANDS = (
    "fininfra-db setup-and-migrate",
    "fininfra-db seed",
    "fininfra-db history -i",
    "fininfra-db check",
    "fininfra-db upgrade feedface",
)


def on_terminal(command: str, folder: str) -> str:
    """What a command prints when it is run on a terminal."""
    here, there = pty.openpty()
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {"PATH": path, "TERM": "xterm-256color", "COLUMNS": str(WIDTH), "HOME": folder}
    process = subprocess.Popen(["bash", "-c", command], cwd=folder, env=environment, stdin=there, stdout=there, stderr=there)
    os.close(there)
    printed = b""
    while True:
        try:
            chunk = os.read(here, 65536)
        except OSError:  # how Linux says that the other side of a pseudo-terminal is closed
            break
        if not chunk:
            break
        printed += chunk
    process.wait()
    os.close(here)
    return printed.decode()


def main() -> None:
    console = Console(record=True, width=WIDTH, file=open(os.devnull, "w", encoding="utf-8"), force_terminal=True)  # noqa: SIM115 - as long as the program
    with tempfile.TemporaryDirectory(prefix="finance-") as folder:
        for command in COMMANDS:
            console.print(Text("$ ", style="bold green") + Text(command, style="bold"))
            console.print(Text.from_ansi(on_terminal(command, folder).replace(folder, "/home/you/finance").replace("\r\n", "\n")))
    without_web_fonts = re.sub(r"@font-face \{\{.*?\}\}\s*", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)
    PICTURE.write_text(console.export_svg(title="fininfra-db", code_format=without_web_fonts, unique_id="terminal"), encoding="utf-8")


if __name__ == "__main__":
    main()

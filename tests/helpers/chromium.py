"""Find the Chromium that drives the tests of the page.

    python tests/helpers/chromium.py

installs it with apt-get if there is none and root runs this; elsewhere it says what to install.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

NAMES = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome")

#: WebGL2 in software, no requests of the browser's own.
FLAGS = (
    "--no-sandbox", "--headless=new", "--use-angle=swiftshader", "--enable-unsafe-swiftshader",
    "--disable-background-networking", "--disable-component-update", "--no-first-run",
)  # fmt: skip


def find_chromium() -> str | None:
    """The path of Chromium: the environment variable CHROMIUM, or the first that is on the PATH."""
    given = os.environ.get("CHROMIUM")
    return given or next((path for path in map(shutil.which, NAMES) if path), None)


def main() -> int:
    if find_chromium():
        return 0
    if shutil.which("apt-get") and os.geteuid() == 0:
        subprocess.run(["apt-get", "update", "-qq"], check=False)
        subprocess.run(["apt-get", "install", "-y", "-qq", "--no-install-recommends", "chromium"], check=False)
        if find_chromium():
            return 0
    print(
        "The tests of the page need Chromium, and none was found. Install it (Debian, Ubuntu: sudo apt-get install chromium), "
        "or set CHROMIUM to the path of Chromium or Chrome.",
        file=sys.stderr,
    )
    return 1


if __name__ == "__main__":
    raise SystemExit(main())

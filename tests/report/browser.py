"""Pages looked at in a real browser: chromium driven by ``tests/browser/check.mjs``, and the Nu HTML checker.

The tools are Debian's chromium, Node.js, Java, and the npm packages of ``tests/browser``, which ``.ci/run`` installs.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from patience import patience

FOLDER = Path(__file__).parents[1] / "browser"
PACKAGES = FOLDER / "node_modules"
CHECKER = PACKAGES / "vnu-jar" / "build" / "dist" / "vnu.jar"
NEEDED = [PACKAGES / "playwright-core" / "package.json", PACKAGES / "axe-core" / "axe.min.js", CHECKER]
NODE = 20
SECONDS = 300

# The Nu checker (26.9.27) does not hash a script of more than one line as browsers do, and warns that it is blocked.
# Whether our script runs is seen in chromium: a blocked one is a finding of the check "policy".
NOT_SO = "Inline script violates Content Security Policy (meta tag)"


def missing() -> list[str]:
    """What must be installed before a page can be looked at, in words."""
    wanted = {
        "chromium": "Debian's chromium (apt-get install chromium)",
        "node": f"Node.js {NODE} or later",
        "java": "Java 17 or later",
    }
    words = [text for program, text in wanted.items() if not shutil.which(program)]
    if shutil.which("node") and int(_run(["node", "--version"]).stdout.strip("v\n ").partition(".")[0]) < NODE:
        words.append(wanted["node"])
    if not all(path.is_file() for path in NEEDED):
        words.append("the npm packages (npm ci --ignore-scripts --prefix tests/browser)")
    return words


def _run(words: list[str | Path]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(word) for word in words],
        capture_output=True,
        text=True,
        timeout=patience(SECONDS),
        check=False,
        encoding="utf-8",
    )


needs_browser = pytest.mark.skipif(bool(missing()), reason=f"missing: {', '.join(missing())}")


@dataclass(frozen=True)
class Seen:
    """What was found on one page.

    ``findings`` are faults, each "check: what"; ``remarks`` are for people to look at and fail nothing; ``counts``
    says how much was looked at: drawings, links, focusable, sorted (columns), filtered (tables).
    """

    findings: tuple[str, ...]
    remarks: tuple[str, ...]
    counts: dict[str, int]

    def of(self, check: str) -> list[str]:
        """Findings of one check."""
        return [text for text in self.findings if text.startswith(f"{check}: ")]


def check(pages: dict[str, Path], screenshots: Path | None = None) -> dict[str, Seen]:
    """Look at pages, by name, in one browser; with ``screenshots`` pictures and a PDF of each are put there."""
    words = ["node", FOLDER / "check.mjs", "--browser", shutil.which("chromium") or "chromium"]
    if screenshots:
        words += ["--screenshots", screenshots]
    done = _run([*words, *pages.values()])
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)["pages"]
    html = check_html(list(pages.values()))

    def lines(notes: list[dict[str, str]]) -> tuple[str, ...]:
        return tuple(f"{note['check']}: {note['what']}" for note in notes)

    return {
        name: Seen(
            findings=lines(found[str(path)]["findings"]) + tuple(f"html: {text}" for text in html[path]),
            remarks=lines(found[str(path)]["remarks"]),
            counts=found[str(path)]["seen"],
        )
        for name, path in pages.items()
    }


def check_html(paths: list[Path]) -> dict[Path, list[str]]:
    """Errors and warnings of the Nu HTML checker, per page; but for `NOT_SO`."""
    done = _run(["java", "-Xss4m", "-jar", CHECKER, "--format", "json", "--stdout", *paths])
    told: dict[Path, list[str]] = {path: [] for path in paths}
    by_path = {path.resolve(): path for path in paths}
    for message in json.loads(done.stdout)["messages"]:
        if message["type"] == "info" and message.get("subType") != "warning":
            continue
        if message["message"].startswith(NOT_SO):
            continue
        path = by_path[Path(unquote(urlsplit(message["url"]).path)).resolve()]
        extract = " ".join(message.get("extract", "").split())
        told[path].append(f"line {message.get('lastLine', '?')}: {message['message']} ({extract[:160]})")
    return told


def assert_clean(seen: Seen) -> None:
    """Fail with everything that was found on a page."""
    assert not seen.findings, "\n".join(seen.findings)

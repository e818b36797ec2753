"""Install each peer by itself, and note why one could not be.

    python -m benchmarks.install

A peer that cannot be installed is no reason to stop: the table shows it as
missing.  The notes are kept in the environment that runs this program.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

REQUIREMENTS = Path(__file__).with_name("requirements.txt")
NOTES = Path(sys.prefix) / "not-installed.json"


def requirements() -> list[str]:
    """The names in the file of requirements."""
    lines = REQUIREMENTS.read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def install(requirement: str) -> str | None:
    """Install one; the reason if that failed."""
    command = [sys.executable, "-m", "pip", "install", "-qq", "--disable-pip-version-check", requirement]
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)
    if not done.returncode:
        return None
    said = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    errors = [line for line in said if line.lower().startswith("error")]
    return (errors or said or [f"pip ended with {done.returncode}"])[-1]


def not_installed() -> dict[str, str]:
    """What could not be installed in this environment, and why."""
    if not NOTES.exists():
        return {}
    notes: dict[str, str] = json.loads(NOTES.read_text(encoding="utf-8"))
    return notes


def main() -> None:
    reasons = {}
    for requirement in requirements():
        reason = install(requirement)
        if reason is not None:
            reasons[requirement] = reason
            print(f"{requirement} cannot be installed: {reason}", file=sys.stderr)
    NOTES.write_text(json.dumps(reasons, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()

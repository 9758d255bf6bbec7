"""Run measured programs in separate processes."""

import json
import subprocess
from typing import Any


def last_line(command: list[str], **options: Any) -> dict[str, Any]:
    """Run a command and return the JSON object in the last line of its output."""
    done = subprocess.run(command, check=True, capture_output=True, text=True, **options)
    return dict(json.loads(done.stdout.splitlines()[-1]))

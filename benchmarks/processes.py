"""Programs that are measured, in processes of their own."""

import json
import subprocess
from typing import Any


def last_line(command: list[str], **options: Any) -> dict[str, Any]:
    """Run a command to its end; what its last line says in JSON."""
    done = subprocess.run(command, check=True, capture_output=True, text=True, **options)
    return dict(json.loads(done.stdout.splitlines()[-1]))

"""What the window remembers of a person from one start to the next: small values as JSON in the user's data folder."""

import json
import logging
from pathlib import Path

from platformdirs import user_data_path

log = logging.getLogger(__name__)


def home() -> Path:
    return user_data_path("scribblemamba")


def remembered(name: str, otherwise: object) -> object:
    """The value kept under a name, or `otherwise` where there is none that can be read."""
    file = home() / f"{name}.json"
    if not file.is_file():
        return otherwise
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, OSError) as e:
        log.warning("%s cannot be read (%s); it is begun anew", file, e)
        return otherwise


def remember(name: str, value: object) -> None:
    """Keep a value. A folder that cannot be written is no reason to stop: it is logged, and nothing is kept."""
    file = home() / f"{name}.json"
    try:
        home().mkdir(parents=True, exist_ok=True)
        draft = file.with_suffix(".draft")
        draft.write_text(json.dumps(value, indent=1), encoding="utf-8")
        draft.replace(file)
    except OSError as e:
        log.warning("%s cannot be written: %s", file, e)

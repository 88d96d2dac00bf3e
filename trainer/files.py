"""Files that are either whole or not there: written beside their place, then renamed."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError, safe_open

if TYPE_CHECKING:
    from torch import Tensor


@contextmanager
def replacing(file: Path) -> Iterator[Path]:
    """A path to write to; it takes the place of `file` when the block ends well, and is removed when it does not."""
    draft = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    try:
        yield draft
        with draft.open("r+b") as written:  # Windows syncs only what may be written
            os.fsync(written.fileno())
        draft.replace(file)
    except OSError as e:
        raise OSError(f"could not write {file}: {e}; what was there before is kept") from e
    finally:
        draft.unlink(missing_ok=True)


def write_tensors(file: Path, tensors: "Mapping[str, Tensor]", metadata: Mapping[str, str] | None = None) -> None:
    """A safetensors file. Shared or strided tensors are copied first: the format takes neither."""
    from safetensors.torch import save_file  # here: it imports torch, which other files do not need

    plain = {key: value.detach().cpu().contiguous().clone() for key, value in tensors.items()}
    with replacing(file) as draft:
        draft.touch()
        mode = draft.stat().st_mode  # that files have here; safetensors' own are for their owner alone
        try:
            save_file(plain, draft, dict(metadata or {}))
        except SafetensorError as e:  # a full disk arrives as this
            raise OSError(str(e)) from e
        draft.chmod(mode)


def read_tensors(file: Path) -> "tuple[dict[str, Tensor], dict[str, str]]":
    """Tensors and metadata of a safetensors file, without pickle. ValueError where it is damaged."""
    try:
        with safe_open(file, framework="pt") as content:
            return {key: content.get_tensor(key) for key in content.keys()}, content.metadata() or {}
    except (SafetensorError, OSError) as e:
        raise ValueError(f"{file} cannot be read ({e}); it is damaged or no safetensors file") from e

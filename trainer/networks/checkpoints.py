"""Official checkpoints by name: where they are released, what their bytes hash to, and where they lie on this disk.

    fetch("vmamba_tiny_e292")   the file in the cache, downloaded where it is not there yet

The cache is torch's (TORCH_HOME, or ~/.cache/torch): hub/checkpoints, where other programs may have put them already.
"""

import hashlib
import logging
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from pathlib import Path

from trainer.config import Config
from trainer.files import replacing
from trainer.networks import family

CHUNK = 1 << 20  # bytes read at once
TIMEOUT = 30.0  # seconds without an answer
Tell = Callable[[int, int], None]  # bytes so far, bytes in all (0 where the server does not say)
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Release:
    """A file of the authors."""

    url: str
    networks: tuple[str, ...]  # of NETWORKS, that have its encoder
    sha256: str = ""  # empty: published nowhere we know of; that of the first download is noted, and holds from then on

    @property
    def file_name(self) -> str:
        return self.url.rsplit("/", 1)[1]


VMAMBA = "https://github.com/MzeroMiko/VMamba/releases/download/%23v0cls"
VMAMBA_NETWORKS = ("mambaunet", "vmunet", "swin_umamba", "swin_umamba_d")
CHECKPOINTS: dict[str, Release] = {  # by the names that the papers' code gives the files; all learnt on ImageNet-1k
    "swin_tiny_patch4_window7_224": Release(
        "https://github.com/SwinTransformer/storage/releases/download/v1.0.0/swin_tiny_patch4_window7_224.pth",
        ("swinunet",),
        "9f71c168d837d1b99dd1dc29e14990a7a9e8bdc5f673d46b04fe36fe15590ad3",
    ),
    "vmamba_tiny_e292": Release(
        f"{VMAMBA}/vssmtiny_dp01_ckpt_epoch_292.pth",
        VMAMBA_NETWORKS,
        "dbc0cc4f5ec0e45db5fba7c939d2c7d9b617e891ac10766912a8d604c37c5e47",
    ),
    "vmamba_small_e238_ema": Release(f"{VMAMBA}/vssmsmall_dp03_ckpt_epoch_238.pth", VMAMBA_NETWORKS),
}
OFFICIAL: dict[str, str] = {  # network -> the checkpoint its paper begins with
    "swinunet": "swin_tiny_patch4_window7_224",
    "mambaunet": "vmamba_tiny_e292",
    "swin_umamba": "vmamba_tiny_e292",
    "swin_umamba_d": "vmamba_tiny_e292",
    "vmunet": "vmamba_small_e238_ema",
}


def cache() -> Path:
    from torch.hub import get_dir

    return Path(get_dir()) / "checkpoints"


def fetch(name: str, tell: Tell | None = None) -> Path:
    """The file of a checkpoint of CHECKPOINTS in the cache, downloaded if it must be, and its hash compared.

    ValueError for an unknown name or bytes that are not the authors'; OSError, which says what to do offline, where it
    cannot be downloaded.
    """
    release = known(name)
    file = cache() / release.file_name
    if file.is_file():
        compare(sha256(file), release, file)
    else:
        download(release, file, tell)
    return file


def known(name: str) -> Release:
    if name not in CHECKPOINTS:
        raise ValueError(f"no checkpoint is called {name!r}, and no file or folder; known are {', '.join(CHECKPOINTS)}")
    return CHECKPOINTS[name]


def download(release: Release, file: Path, tell: Tell | None = None) -> None:
    """The file appears whole, with the hash it should have, or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        with urllib.request.urlopen(release.url, timeout=TIMEOUT) as answer, replacing(file) as draft:
            copy(answer, draft, tell)
            compare(sha256(draft), release, file)
    except (OSError, EOFError, HTTPException) as e:
        raise OSError(
            f"could not download {release.url} ({e}); where there is no network, download it elsewhere and give the "
            "file, or the folder that holds it, as --pretrained"
        ) from e


def copy(answer: HTTPResponse, draft: Path, tell: Tell | None) -> None:
    """EOFError where the connection ends too early."""
    total, done = int(answer.headers.get("Content-Length") or 0), 0
    with draft.open("wb") as out:
        while part := answer.read(CHUNK):
            done += out.write(part)
            if tell is not None:
                tell(done, total)
    if total and done != total:
        raise EOFError(f"the connection ended after {done} of {total} bytes")


def compare(found: str, release: Release, file: Path) -> None:
    """ValueError where the hash is not the published one or, where there is none, that of the first download."""
    note = file.with_name(f"{file.name}.sha256")
    if not release.sha256 and not note.is_file():
        log.warning("no hash of %s is published; today's is kept in %s", file.name, note)
        with replacing(note) as draft:
            draft.write_text(found)
    expected = release.sha256 or note.read_text().strip()
    if found != expected:
        where = f"published for {release.url}" if release.sha256 else f"that {note} has of the first download"
        raise ValueError(
            f"{file.name} has the SHA-256 {found}, not {expected} {where}: it is damaged or another file, and is not "
            f"used; remove {file} if it is there, or give a file that you trust as --pretrained"
        )


def sha256(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


# ------------------------------------------------------------------------------------------------- what a run asks for


def wanted(config: Config) -> dict[str, str]:
    """Network -> name of the official checkpoint that the config wants it to begin with; nothing for a file.

    ValueError where none of the networks can take it, or they are of another size.
    """
    pretrained, families = config.pretrained, {name: family(name) for name in config.names}
    if Path(pretrained).is_file():
        return {}
    if pretrained == "official" or Path(pretrained).is_dir():
        takers, found = tuple(OFFICIAL), {n: OFFICIAL[kind] for n, kind in families.items() if kind in OFFICIAL}
    else:
        takers = known(pretrained).networks
        found = {name: pretrained for name, kind in families.items() if kind in takers}
    if not found:
        raise ValueError(f"none of {', '.join(config.names)} begins with {pretrained}; it is for {', '.join(takers)}")
    if config.size != "official":
        raise ValueError(f"official checkpoints are for --size official, got {config.size}")
    return found


def files_of(config: Config) -> dict[str, Path]:
    """Network -> the file it begins with, downloaded if it must be. A folder holds files by their official names; one
    file is for the only network, or for all that have such an encoder."""
    place = Path(config.pretrained)
    if place.is_file():
        alone = len(config.names) == 1
        return {name: place for name in config.names if alone or family(name) in OFFICIAL}
    return {
        network: in_folder(place, name) if place.is_dir() else fetch(name) for network, name in wanted(config).items()
    }


def in_folder(folder: Path, name: str) -> Path:
    """FileNotFoundError says which names were looked for."""
    release = CHECKPOINTS[name]
    names = (f"{name}.pth", f"{name}.safetensors", release.file_name)
    for file in (folder / each for each in names):
        if file.is_file():
            return file
    raise FileNotFoundError(f"{folder} has none of {', '.join(names)}; download {release.url} into it")

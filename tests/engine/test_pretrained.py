"""Official checkpoints into our networks: what goes where is what the official loaders do, by the golden loadmaps.

A checkpoint is made up here: its tensor number i is full of 1000 + i, so that the network's own values tell where they
came from.
"""

import dataclasses
import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from toys import CLASSES, QUICK, scribbled_disc

from trainer.config import Config
from trainer.networks import build
from trainer.networks.checkpoints import CHECKPOINTS, Release, fetch, files_of, wanted
from trainer.networks.pretrained import Report, load_pretrained, sources
from trainer.networks.swin import CACHED
from trainer.run import Run

LOADMAPS = Path(__file__).parents[1] / "golden/loadmap"
CASES = {  # the loadmap -> the network: name, channels, options of load_pretrained
    "swinunet_swin_tiny": ("swinunet", 1, {}),
    "mambaunet_vmamba_tiny": ("mambaunet", 1, {}),
    "vmunet_vmamba_small": ("vmunet", 3, {}),
    "swin_umamba_vmamba_tiny": ("swin_umamba", 1, {"official_norm_bias": True}),
    "swin_umamba_d_vmamba_tiny_1ch": ("swin_umamba_d", 1, {}),
    "swin_umamba_d_vmamba_tiny_3ch": ("swin_umamba_d", 3, {}),
}
DEEP = {"deep_supervision": True}  # officially the heads of the coarser stages are always there
STEM = {"proj.weight": (96, 3, 4, 4), "proj.bias": (96,), "norm.weight": (96,), "norm.bias": (96,)}
HEAD = {"norm.weight": (768,), "norm.bias": (768,), "head.weight": (1000, 768), "head.bias": (1000,)}


def made(name: str, channels: int) -> nn.Module:
    return build(name, channels, 14, **(DEEP if name.startswith("swin_umamba") else {}))


def golden(case: str) -> tuple[dict[str, str], list[str], list[str]]:
    """Network key -> checkpoint key, network keys left at init, unused checkpoint keys; less the cached constants."""
    loadmap = json.loads((LOADMAPS / f"{case}.json").read_text())
    loaded = {ours: theirs for ours, theirs in loadmap["loaded"].items() if not ours.endswith(CACHED)}
    left, unused = loadmap["left_at_init"], loadmap["unused_checkpoint_keys"]
    return loaded, left, [key for key in unused if not key.endswith(CACHED)]


def tagged(network: nn.Module, keys: list[str]) -> dict[str, Tensor]:
    """A checkpoint with these keys; a block deeper than the network is like the first of its stage."""
    weights, shapes = network.state_dict(), HEAD | {f"patch_embed.{key}": shape for key, shape in STEM.items()}
    shapes = {theirs: tuple(weights[ours].shape) for ours, theirs in sources(network).items()} | shapes
    like = {key: re.sub(r"(layers\.\d)\.blocks\.\d+", r"\1.blocks.0", key) for key in keys}
    return {key: torch.tensor(1000.0 + i).expand(shapes[like[key]]) for i, key in enumerate(keys)}


def origins(network: nn.Module, keys: list[str]) -> dict[str, str]:
    """Network key -> the key of the checkpoint whose number it is full of."""
    full = {key: value.unique() for key, value in network.state_dict().items()}
    return {key: keys[int(value) - 1000] for key, value in full.items() if len(value) == 1 and value >= 1000}


@pytest.mark.parametrize("case", CASES)
def test_every_tensor_goes_where_the_official_loader_puts_it(case: str, tmp_path: Path) -> None:
    (name, channels, options), (loaded, left, unused) = CASES[case], golden(case)
    network, keys = made(name, channels), list(dict.fromkeys([*loaded.values(), *unused]))
    torch.save({"model": tagged(network, keys), "epoch": 292}, tmp_path / "checkpoint.pth")
    report = load_pretrained(network, tmp_path / "checkpoint.pth", **options)
    assert origins(network, keys) == report.loaded == loaded
    assert sorted(report.left) == sorted(left)
    assert sorted(report.unused) == sorted(unused)


def test_the_mistake_of_the_official_loader_is_not_the_default(tmp_path: Path) -> None:
    network, keys = made("swin_umamba", 1), [f"patch_embed.{key}" for key in STEM] + ["layers.0.blocks.0.ln_1.weight"]
    torch.save(tagged(network, keys), tmp_path / "checkpoint.pth")
    report = load_pretrained(network, tmp_path / "checkpoint.pth")
    assert report.loaded == {"vssm_encoder.layers.0.blocks.0.ln_1.weight": "layers.0.blocks.0.ln_1.weight"}
    assert report.misfits == {"vssm_encoder.patch_embed.proj.weight": ((96, 48, 2, 2), (96, 3, 4, 4))}
    with pytest.raises(ValueError, match="official_norm_bias is for SwinUMamba, got SwinUMambaD"):
        load_pretrained(made("swin_umamba_d", 1), tmp_path / "checkpoint.pth", official_norm_bias=True)


def test_a_safetensors_file_says_the_same(tmp_path: Path) -> None:
    network, keys = made("mambaunet", 1), ["layers.2.blocks.1.ln_1.bias", "layers.2.blocks.2.ln_1.bias", "norm.weight"]
    checkpoint = {key: value.contiguous() for key, value in tagged(network, keys).items()}
    save_file(checkpoint, tmp_path / "checkpoint.safetensors")
    report = load_pretrained(network, tmp_path / "checkpoint.safetensors")
    assert report.loaded == {
        "mamba_unet.layers.2.blocks.1.ln_1.bias": "layers.2.blocks.1.ln_1.bias",
        "mamba_unet.layers_up.1.blocks.1.ln_1.bias": "layers.2.blocks.1.ln_1.bias",
        "mamba_unet.norm.weight": "norm.weight",
    }
    assert report.unused == ("layers.2.blocks.2.ln_1.bias",)


def test_a_report_reads_as_a_sentence() -> None:
    report = Report(
        loaded={"encoder.layers.0.blocks.0.a.weight": "layers.0.blocks.0.a.weight"},
        left=("encoder.patch_embed.proj.weight", "encoder.patch_embed.proj.bias", "output.weight"),
        unused=("layers.0.blocks.1.a.weight", "layers.0.blocks.1.b.bias", "head.weight"),
        misfits={"encoder.patch_embed.proj.weight": ((8, 1, 4, 4), (8, 3, 4, 4))},
    )
    assert str(report) == (
        "1 of 4 tensors used; left at init: encoder.patch_embed.proj, output; not used: layers.0.blocks.1, head; "
        "of another shape: encoder.patch_embed.proj.weight is (8, 1, 4, 4), in the checkpoint (8, 3, 4, 4)"
    )


def test_a_file_that_does_not_fit_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    file, network = tmp_path / "checkpoint.pth", build("mambaunet", 1, 4, "small")
    before = {key: value.clone() for key, value in network.state_dict().items()}
    torch.save({"layers.0.blocks.0.norm1.weight": torch.ones(96), "norm.weight": torch.ones(128)}, file)
    with pytest.raises(ValueError, match=r"no block of .*ln_1\.weight \(32,\), found .*norm1\.weight \(96,\)"):
        load_pretrained(network, file)
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    with pytest.raises(ValueError, match=r"UNet has no pretrained encoder.*SwinUNet, MambaUNet"):
        load_pretrained(build("unet", 1, 4), file)


def test_a_file_that_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    file, network = tmp_path / "checkpoint.pth", build("mambaunet", 1, 4, "small")
    with pytest.raises(FileNotFoundError, match="there is no checkpoint"):
        load_pretrained(network, file)
    file.write_bytes(b"not a checkpoint")
    with pytest.raises(ValueError, match="cannot be read"):
        load_pretrained(network, file)
    torch.save({"epoch": 3, "model": {}}, file)
    with pytest.raises(ValueError, match=r"wanted tensors by name.*found \['epoch', 'model'\]"):
        load_pretrained(network, file)
    torch.save({"model": {"norm.weight": torch.ones(1)}, "config": Path("a.yaml")}, file)  # no plain value
    with pytest.raises(ValueError, match="save its entry 'model' alone"):
        load_pretrained(network, file)
    torch.save([torch.ones(1)], file)
    with pytest.raises(ValueError, match="found list"):
        load_pretrained(network, file)
    save_file({}, tmp_path / "empty.safetensors")
    with pytest.raises(ValueError, match=r"wanted tensors by name.*found \[\]"):
        load_pretrained(network, tmp_path / "empty.safetensors")


def test_a_checkpoint_of_the_whole_network_is_loaded_whole(tmp_path: Path) -> None:
    file, authors, network = tmp_path / "theirs.pth", build("unet", 1, 4, "small"), build("unet", 1, 4, "small")
    theirs = authors.state_dict()
    torch.save({"state_dict": {f"module.{key}": value for key, value in theirs.items()}, "epoch": 9}, file)
    report = load_pretrained(network, file)
    assert all(torch.equal(value, theirs[key]) for key, value in network.state_dict().items())
    assert (len(report.loaded), report.left, report.unused) == (len(theirs), (), ())


def test_one_with_other_classes_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    file, network = tmp_path / "theirs.pth", build("unet", 1, 4, "small")
    torch.save(build("unet", 1, 9, "small").state_dict(), file)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    with pytest.raises(ValueError, match=r"a checkpoint of UNet, but not of this one: 2 of another shape, such as .*9"):
        load_pretrained(network, file)
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


# ------------------------------------------------------------------------------------------------ a run begins with it


def test_a_run_begins_with_a_file_and_says_what_it_took(tmp_path: Path) -> None:
    file, other = tmp_path / "vmamba.pth", build("mambaunet", 1, 2, "small")
    theirs = {key: other.state_dict()[ours] for ours, key in sources(other).items() if "_up" not in ours}
    torch.save({"model": theirs}, file)
    config = dataclasses.replace(QUICK, networks=("unet", "mambaunet"), pretrained=str(file), iterations=1)
    run = Run([scribbled_disc()], config, CLASSES, folder=tmp_path / "run")
    steps = iter(run)
    next(steps)  # the strokes are propagated, nothing has been learnt yet
    state, loaded = run.model.networks["mambaunet"].state_dict(), run.reports["mambaunet"].loaded
    assert list(run.reports) == ["mambaunet"] and "mamba_unet.layers.0.blocks.0.ln_1.weight" in loaded
    assert all(torch.equal(state[ours], theirs[key]) for ours, key in loaded.items())
    list(steps)
    file.unlink()  # who goes on does not begin again
    longer = dataclasses.replace(config, iterations=2)
    again = Run([scribbled_disc()], longer, CLASSES, folder=tmp_path / "run", resume=True)
    assert [progress.iteration for progress in again][-1] == 2 and again.reports == {}


OFFICIALLY = Config(size="official", iterations=1, pretrained="official")


def test_each_network_begins_with_the_checkpoint_of_its_paper() -> None:
    networks = ("unet", "swinunet", "mambaunet", "vmunet", "vmunet", "swin_umamba", "swin_umamba_d")
    config = dataclasses.replace(OFFICIALLY, networks=networks)
    assert wanted(config) == {
        "swinunet": "swin_tiny_patch4_window7_224",
        "mambaunet": "vmamba_tiny_e292",
        "vmunet": "vmamba_small_e238_ema",
        "vmunet2": "vmamba_small_e238_ema",
        "swin_umamba": "vmamba_tiny_e292",
        "swin_umamba_d": "vmamba_tiny_e292",
    }
    tiny = wanted(dataclasses.replace(config, pretrained="vmamba_tiny_e292"))
    assert set(tiny.values()) == {"vmamba_tiny_e292"} and tiny.keys() == wanted(config).keys() - {"swinunet"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"networks": ("unet", "unet")}, "none of unet, unet2 begins with official; it is for swinunet, mambaunet"),
        ({"networks": ("swinunet", "unet"), "pretrained": "vmamba_tiny_e292"}, "begins with vmamba_tiny_e292"),
        ({"pretrained": "vmamba"}, "no checkpoint is called 'vmamba'.* swin_tiny_patch4_window7_224, vmamba_tiny_e292"),
        ({"size": "small"}, "are for --size official, got small"),
    ],
)
def test_what_cannot_work_is_told_before_anything_is_downloaded(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        wanted(dataclasses.replace(OFFICIALLY, **change))


def test_a_folder_holds_files_by_any_of_their_names(tmp_path: Path) -> None:
    config = dataclasses.replace(OFFICIALLY, networks=("unet", "mambaunet", "vmunet"), pretrained=str(tmp_path))
    (tmp_path / "vmamba_tiny_e292.pth").touch()
    with pytest.raises(
        FileNotFoundError, match=r"vmamba_small_e238_ema\.pth.* vssmsmall_dp03_ckpt_epoch_238\.pth; download"
    ):
        files_of(config)
    (tmp_path / "vssmsmall_dp03_ckpt_epoch_238.pth").touch()
    found = {name: file.name for name, file in files_of(config).items()}
    assert found == {"mambaunet": "vmamba_tiny_e292.pth", "vmunet": "vssmsmall_dp03_ckpt_epoch_238.pth"}


# ------------------------------------------------------------------------------------------------------- the download

CONTENT = bytes(range(256)) * 5000  # more than is read at once
HASH = hashlib.sha256(CONTENT).hexdigest()


class Server(BaseHTTPRequestHandler):
    """Gives CONTENT, or half of it where the address says so."""

    def do_GET(self) -> None:
        self.send_response(200 if "missing" not in self.path else 404)
        self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()
        self.wfile.write(CONTENT[: len(CONTENT) // 2] if "half" in self.path else CONTENT)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def release(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Says what is released as "toy", on a server of our own; the cache is an empty folder."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()

    def put(file: str = "toy.pth", sha256: str = HASH, port: int = server.server_port) -> None:
        url = f"http://127.0.0.1:{port}/{file}"
        monkeypatch.setitem(CHECKPOINTS, "toy", Release(url, ("mambaunet",), sha256))

    yield put
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_checkpoint_is_downloaded_once_with_progress(release, tmp_path: Path) -> None:
    release()
    told: list[tuple[int, int]] = []
    file = fetch("toy", lambda *progress: told.append(progress))
    assert file == tmp_path / "torch/hub/checkpoints/toy.pth" and file.read_bytes() == CONTENT
    assert told == [(1 << 20, len(CONTENT)), (len(CONTENT), len(CONTENT))]
    release(port=1)  # nobody is there
    assert fetch("toy") == file


def test_other_bytes_than_the_published_ones_are_not_kept(release, tmp_path: Path) -> None:
    release(sha256=HASH[::-1])
    with pytest.raises(ValueError, match=f"has the SHA-256 {HASH}, not {HASH[::-1]} published for http"):
        fetch("toy")
    assert not list((tmp_path / "torch/hub/checkpoints").iterdir())


def test_where_no_hash_is_published_that_of_the_first_download_holds(release) -> None:
    release(sha256="")
    file = fetch("toy")
    assert file.with_name("toy.pth.sha256").read_text() == HASH
    assert fetch("toy") == file
    file.write_bytes(CONTENT[:-1])
    with pytest.raises(ValueError, match=r"not .* that .*toy\.pth\.sha256 has of the first download"):
        fetch("toy")


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ({"port": 1}, "refused"),
        ({"file": "missing.pth"}, "404"),
        ({"file": "half.pth"}, f"ended after {len(CONTENT) // 2} of {len(CONTENT)} bytes"),
    ],
)
def test_without_a_network_it_says_what_to_do(release, tmp_path: Path, broken: dict, message: str) -> None:
    release(**broken)
    with pytest.raises(
        OSError, match=rf"could not download http.*{message}.*give the file, or the folder.* --pretrained"
    ):
        fetch("toy")
    assert not list((tmp_path / "torch/hub/checkpoints").iterdir())

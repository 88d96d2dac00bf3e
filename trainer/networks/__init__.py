"""The networks: one table, one contract.

Each takes (B, in_channels, *space) with any space and returns logits (B, classes, *space), or while it trains with
deep supervision a list of them, finest first; a classifier returns (B, classes). State-dict keys are those of the
official code.
"""

from torch import nn

from trainer.config import AXES, Config
from trainer.networks.mambaunet import MambaUNet
from trainer.networks.nnmamba import NnMambaEncoder, NnMambaSeg
from trainer.networks.swinumamba import SwinUMamba, SwinUMambaD
from trainer.networks.swinunet import SwinUNet
from trainer.networks.umamba import UMambaBot, UMambaEnc
from trainer.networks.unet import TwoDecoderUNet, UNet
from trainer.networks.vmunet import VMUNet

NETWORKS: dict[str, type[nn.Module]] = {
    "unet": UNet,
    "swinunet": SwinUNet,
    "mambaunet": MambaUNet,
    "umamba_bot": UMambaBot,
    "umamba_enc": UMambaEnc,
    "vmunet": VMUNet,
    "swin_umamba": SwinUMamba,
    "swin_umamba_d": SwinUMambaD,
    "nnmamba": NnMambaSeg,  # for landmarks, a class is a landmark
    "unet_cct": TwoDecoderUNet,
}

CLASSIFIERS: dict[str, type[nn.Module]] = {"nnmamba_cls": NnMambaEncoder}  # (B, in_channels, D, H, W) -> (B, classes)

DEEP = ("umamba_bot", "umamba_enc", "swin_umamba", "swin_umamba_d", "nnmamba")  # have layers for deep supervision

SIZES: dict[str, dict[str, dict[str, object]]] = {
    "official": {
        "unet": {},
        "swinunet": {"repeat_grey": True},
        "mambaunet": {"repeat_grey": True},
        # six stages, as nnU-Net plans for heart slices of 256 x 224 pixels: whole strides of 32, not of 64
        "umamba_bot": {"strides": (1, 2, 2, 2, 2, 2)},
        "umamba_enc": {"strides": (1, 2, 2, 2, 2, 2)},
        "vmunet": {"repeat_grey": True},
        "swin_umamba": {},
        "swin_umamba_d": {},
        "nnmamba": {},
        "nnmamba_cls": {},
        "unet_cct": {},
    },
    "small": {  # a laptop trains three of them at 128 pixels several times a second
        "unet": {"widths": (8, 16, 32, 64, 128), "dropout": (0.0, 0.0, 0.05, 0.1, 0.2)},
        "swinunet": {
            "width": 32,
            "depths": (1, 1, 2),
            "heads": (1, 2, 4),
            "window": 8,  # whole windows at 128 pixels: 32, 16 and 8 tokens
            "mlp_ratio": 2.0,
            "drop_path": 0.1,
            "conv_ends": True,
        },
        "mambaunet": {
            "width": 32,
            "depths": (1, 1, 2),
            "d_state": 4,
            "expand": 1,
            "drop_path": 0.1,
            "conv_ends": True,
        },
        "umamba_bot": {"strides": (1, 2, 2, 2, 2), "features": 16, "max_features": 128, "blocks": 1},
        "umamba_enc": {
            "strides": (1, 2, 2, 2, 2),
            "features": 16,
            "max_features": 128,
            "blocks": 1,
            "d_state": 4,
            "expand": 1,
        },
        "vmunet": {
            "width": 32,
            "depths": (1, 1, 2),
            "depths_decoder": (2, 1, 1),
            "d_state": 4,
            "expand": 1,
            "drop_path": 0.1,
            "conv_ends": True,
        },
        "swin_umamba": {"width": 24, "depths": (1, 1, 2), "d_state": 4, "expand": 1, "drop_path": 0.1},
        "swin_umamba_d": {
            "width": 32,
            "depths": (1, 1, 2),
            "depths_decoder": (1, 1),
            "d_state": 4,
            "expand": 1,
            "drop_path": 0.1,
        },
        "nnmamba": {"width": 16, "blocks": 2},
        "nnmamba_cls": {"width": 16, "blocks": 2},
        "unet_cct": {"widths": (8, 16, 32, 64, 128), "dropout": (0.0, 0.0, 0.05, 0.1, 0.2)},
    },
}


def build(name: str, in_channels: int, classes: int, size: str = "official", **overrides: object) -> nn.Module:
    """A new network of NETWORKS or CLASSIFIERS; a numbered name ("unet2") builds what the bare one does.

    size: a key of SIZES; overrides: arguments of the network's constructor, over those of the size.
    """
    known = NETWORKS | CLASSIFIERS
    if family(name) not in known:
        raise ValueError(f"no network is called {name!r}; known are {', '.join(known)}, also with a number behind")
    if size not in SIZES:
        raise ValueError(f"no size is called {size!r}; known are {', '.join(SIZES)}")
    return known[family(name)](in_channels, classes, **SIZES[size][family(name)] | overrides)


def build_for(config: Config, name: str, in_channels: int, classes: int) -> nn.Module:
    """The network of that name as a run needs it: along the axes of its patch, by its plan, with its heads.

    ValueError for a network that cannot read such patches.
    """
    kind, axes = family(name), len(config.patch)
    if axes not in AXES.get(kind, (2,)):
        have = " or ".join(map(str, AXES.get(kind, (2,))))
        raise ValueError(f"{kind} takes patches of {have} axes, got {config.patch}; choose another patch or network")
    asked: dict[str, object] = {"sequence_head": True} if config.sequence_head and kind in CLASSIFIERS else {}
    if config.deep_supervision and kind in DEEP:
        asked["deep_supervision"] = True
    if kind.startswith("umamba"):
        asked |= {"dim": axes} | {k: getattr(config, k) for k in ("strides", "kernels") if getattr(config, k)}
    return build(name, in_channels, classes, config.size, **asked)


def family(name: str) -> str:
    """ "unet2" -> "unet"."""
    return name.rstrip("0123456789")

"""The networks: one table, one contract.

Each takes (B, in_channels, H, W) with any H and W >= 1 and returns logits (B, classes, H, W). State-dict keys are
those of the official code.
"""

from torch import nn

from trainer.networks.mambaunet import MambaUNet
from trainer.networks.swinunet import SwinUNet
from trainer.networks.unet import UNet

NETWORKS: dict[str, type[nn.Module]] = {"unet": UNet, "swinunet": SwinUNet, "mambaunet": MambaUNet}

SIZES: dict[str, dict[str, dict[str, object]]] = {
    "official": {
        "unet": {},
        "swinunet": {"repeat_grey": True},
        "mambaunet": {"repeat_grey": True},
    },
    "small": {  # a laptop trains all three at 128 pixels several times a second
        "unet": {"widths": (16, 32, 64, 128), "dropout": (0.0, 0.0, 0.05, 0.1)},
        "swinunet": {
            "width": 48,
            "depths": (2, 2, 2),
            "heads": (2, 4, 8),
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
    },
}


def build(name: str, in_channels: int, classes: int, size: str = "official", **overrides: object) -> nn.Module:
    """A new network of NETWORKS; a numbered name ("unet2") builds what the bare one does.

    size: a key of SIZES; overrides: arguments of the network's constructor, over those of the size.
    """
    family = name.rstrip("0123456789")
    if family not in NETWORKS:
        raise ValueError(f"no network is called {name!r}; known are {', '.join(NETWORKS)}, also with a number behind")
    if size not in SIZES:
        raise ValueError(f"no size is called {size!r}; known are {', '.join(SIZES)}")
    return NETWORKS[family](in_channels, classes, **SIZES[size][family] | overrides)

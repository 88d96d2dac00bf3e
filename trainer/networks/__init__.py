"""The networks: one table, one contract.

Each takes (B, in_channels, H, W) with any H and W >= 1 and returns logits (B, classes, H, W). State-dict keys are
those of the official code.
"""

from torch import nn

from trainer.networks.mambaunet import MambaUNet
from trainer.networks.nnmamba import NnMambaEncoder, NnMambaSeg
from trainer.networks.swinumamba import SwinUMamba, SwinUMambaD
from trainer.networks.swinunet import SwinUNet
from trainer.networks.umamba import UMambaBot, UMambaEnc
from trainer.networks.unet import UNet
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
}

# Volumes (B, in_channels, D, H, W) in; the training loop works slice by slice, so that these are a table apart.
NETWORKS_3D: dict[str, type[nn.Module]] = {
    "nnmamba": NnMambaSeg,  # logits (B, classes, D, H, W); for landmarks, a class is a landmark
    "nnmamba_cls": NnMambaEncoder,  # logits (B, classes)
}

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
    },
    "small": {  # a laptop trains three of them at 128 pixels several times a second
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
    },
}


def build(name: str, in_channels: int, classes: int, size: str = "official", **overrides: object) -> nn.Module:
    """A new network of NETWORKS or NETWORKS_3D; a numbered name ("unet2") builds what the bare one does.

    size: a key of SIZES; overrides: arguments of the network's constructor, over those of the size.
    """
    family = name.rstrip("0123456789")
    known = NETWORKS | NETWORKS_3D
    if family not in known:
        raise ValueError(f"no network is called {name!r}; known are {', '.join(known)}, also with a number behind")
    if size not in SIZES:
        raise ValueError(f"no size is called {size!r}; known are {', '.join(SIZES)}")
    return known[family](in_channels, classes, **SIZES[size][family] | overrides)

"""Names of the original release's `Wan2.1_VAE.pth` in the words of diffusers, which are those of our VAE."""

import re

STAGE_LENGTH = 4
"""Three residual blocks and an upsampler make a stage of the original's flat decoder list."""

RENAMES = (
    (r"^conv1\.", "quant_conv."),
    (r"^conv2\.", "post_quant_conv."),
    (r"^(encoder|decoder)\.conv1\.", r"\1.conv_in."),
    (r"^(encoder|decoder)\.head\.0\.", r"\1.norm_out."),
    (r"^(encoder|decoder)\.head\.2\.", r"\1.conv_out."),
    (r"^(encoder|decoder)\.middle\.0\.", r"\1.mid_block.resnets.0."),
    (r"^(encoder|decoder)\.middle\.1\.", r"\1.mid_block.attentions.0."),
    (r"^(encoder|decoder)\.middle\.2\.", r"\1.mid_block.resnets.1."),
    (r"^encoder\.downsamples\.", "encoder.down_blocks."),
    (r"\.residual\.0\.", ".norm1."),
    (r"\.residual\.2\.", ".conv1."),
    (r"\.residual\.3\.", ".norm2."),
    (r"\.residual\.6\.", ".conv2."),
    (r"\.shortcut\.", ".conv_shortcut."),
)


def rename_tensor(name: str) -> str:
    """Map a name of either release to diffusers' name."""
    for pattern, replacement in RENAMES:
        name = re.sub(pattern, replacement, name)
    found = re.match(r"decoder\.upsamples\.(\d+)\.", name)
    if found is None:
        return name
    stage, place = divmod(int(found[1]), STAGE_LENGTH)
    part = "upsamplers.0" if place == STAGE_LENGTH - 1 else f"resnets.{place}"
    return f"decoder.up_blocks.{stage}.{part}.{name[found.end() :]}"
